# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from dataclasses import replace

import pytest

from syshaxd.core.handover.pairs import InstanceFacts, flag_value, refusal
from syshaxd.core.types import HandoverProtocol, QuantisedWeights
from tests.fakes.specs import make_spec

GPU = replace(make_spec("gpu", argv=("vllm", "--dtype", "bfloat16")), protocol=HandoverProtocol.CONNECTOR)
CPU = replace(make_spec("cpu", argv=("vllm", "--dtype=bfloat16")), protocol=HandoverProtocol.CONNECTOR)
FACTS = InstanceFacts(version="0.32.0", max_model_len=4096, probe_ids=(1, 2, 3))


def why(source: object = GPU, target: object = CPU, **facts: InstanceFacts) -> str:
    return refusal(source, target, {"gpu": FACTS, "cpu": FACTS} | facts).reason  # type: ignore[arg-type]


def test_equal_instances_can_hand_over_both_ways() -> None:
    assert why() == why(CPU, GPU) == ""


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (replace(CPU, protocol=HandoverProtocol.NONE), "services.cpu.protocol is none"),
        (replace(CPU, served_model="other"), "their models differ: tiny and other"),
        (replace(CPU, argv=("vllm", "--dtype", "float32")), "their dtype differs: bfloat16 and float32"),
        (replace(CPU, argv=("vllm",)), "their dtype differs: bfloat16 and not set"),
        (
            replace(CPU, argv=(*CPU.argv, "--revision", "abc")),
            "their revision differs: not set and abc",
        ),
        (
            replace(CPU, argv=(*CPU.argv, "--hf-overrides.rope_theta", "1000", "--hf-overrides.x=1")),
            "their hf-overrides differs: not set and .rope_theta 1000; .x 1",
        ),
        (
            replace(CPU, argv=(*CPU.argv, "--reasoning-parser", "deepseek_r1")),
            "their reasoning-parser differs: not set and deepseek_r1",
        ),
        (replace(CPU, name="cpu2"), "cpu2 has not been ready yet"),
    ],
)
def test_why_not_by_what_is_configured(target: object, reason: str) -> None:
    assert why(target=target).startswith(reason)


def test_instances_with_different_weights_are_paired_unless_the_operator_forbids_it() -> None:
    quantised = replace(CPU, weights=QuantisedWeights(quantize="q8_0"))
    facts = {"gpu": FACTS, "cpu": FACTS}
    assert not refusal(GPU, quantised, facts)
    told = refusal(quantised, GPU, facts, across_weights=False)
    assert told.reason == "their weights differ (q8_0 and full), and offload.across_weights is false"
    assert told.lasting
    assert not refusal(quantised, replace(quantised, name="gpu"), facts, across_weights=False)


def test_flags_of_an_instance_that_somebody_else_started_are_not_known() -> None:
    assert why(target=replace(CPU, argv=())) == ""


def test_why_not_by_what_the_instances_say() -> None:
    assert why(cpu=replace(FACTS, probe_ids=(1, 2, 4))) == "their tokenizers or chat templates differ"
    assert why(cpu=replace(FACTS, max_model_len=2048)) == (
        "cpu holds 2048 tokens a request, gpu 4096: see max-model-len"
    )
    assert why(cpu=replace(FACTS, arena_fault="no arena")) == why(CPU, GPU, cpu=replace(FACTS, arena_fault="no arena"))
    assert why(cpu=replace(FACTS, arena_fault="no arena")) == "cpu: no arena"
    assert why(CPU, GPU, cpu=replace(FACTS, max_model_len=2048)) == "", "a longer one can take what a shorter one has"
    assert why(cpu=InstanceFacts()) == "", "what it does not tell does not speak against it"


def test_what_is_not_known_yet_is_no_lasting_refusal() -> None:
    assert not refusal(GPU, CPU, {"gpu": FACTS}).lasting
    assert refusal(GPU, replace(CPU, served_model="other"), {"gpu": FACTS}).lasting
    assert refusal(GPU, CPU, {"gpu": FACTS, "cpu": replace(FACTS, arena_fault="no arena")}).lasting


@pytest.mark.parametrize(
    ("version", "takes"), [("0.32.0", True), ("0.33.0rc1+cpu", True), ("1.0", True), ("0.26.0", False), ("", False)]
)
def test_which_vllm_takes_a_chat_as_tokens(version: str, takes: bool) -> None:
    assert InstanceFacts(version=version).takes_chat_ids is takes


def test_flags_are_found_in_both_forms() -> None:
    assert (flag_value(GPU, "dtype"), flag_value(CPU, "dtype"), flag_value(CPU, "revision")) == (
        "bfloat16",
        "bfloat16",
        "",
    )
