# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is quantised of a checkpoint, and what its new files are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.weights import Checkpoint, Quantize, Scheme, Tensor, WeightsError, choose, parse_header, plan_weights
from syshaxd.core.weights.auto import choose_auto
from syshaxd.core.weights.scheme import Cpu, scheme_of
from syshaxd.core.weights.tensors import header

CONFIG = {"architectures": ["LlamaForCausalLM"]}
Q = "model.layers.0.self_attn.q_proj.weight"
K = "model.layers.0.self_attn.k_proj.weight"
O = "model.layers.0.self_attn.o_proj.weight"  # noqa: E741


def checkpoint(tensors: list[Tensor], config: dict[str, Any] = CONFIG, samples: tuple[str, ...] = ("a",)) -> Checkpoint:
    _, placed = header(tensors)
    return Checkpoint(folder="/models/m", config=config, files={"model.safetensors": placed}, samples=samples)


def test_only_matrices_in_layers_are_quantised() -> None:
    tensors = [
        Tensor(Q, "BF16", (64, 32)),
        Tensor("model.layers.0.input_layernorm.weight", "BF16", (32,)),
        Tensor("model.embed_tokens.weight", "BF16", (64, 32)),
        Tensor("lm_head.weight", "BF16", (64, 32)),
        Tensor("model.layers.0.self_attn.q_proj.bias", "BF16", (64,)),
    ]
    choice = choose(CONFIG, tensors)
    assert choice.quantised == {Q}
    assert choice.left.keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    assert choice.ignored == {"model.embed_tokens", "lm_head"}


def test_what_the_engine_joins_is_left_or_quantised_together() -> None:
    tensors = [Tensor(Q, "BF16", (64, 32)), Tensor(K, "BF16", (33, 32)), Tensor(O, "BF16", (32, 64))]
    choice = choose(CONFIG, tensors)
    assert choice.quantised == {O}
    assert choice.left == {K: "33 x 32 is not in multiples of 32", Q: f"the engine joins it with {K}, which is left"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "quantised already .quant_method awq"),
        ({"num_experts": 8}, "mixture of experts .num_experts"),
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"vision_config": {"depth": 2}}, "not one of text alone .vision_config"),
        ({}, "no layer that can be quantised"),
    ],
)
def test_what_cannot_be_quantised_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        choose(config, [Tensor("h.0.attn.c_attn.weight", "BF16", (64, 32))])


def test_four_bits_need_a_cpu_that_has_a_kernel_for_them() -> None:
    amx = Cpu(flags=frozenset(("amx_int8", "amx_bf16", "avx512f")))
    assert scheme_of(Quantize.Q4_0, amx) is Scheme.PACK4
    assert scheme_of(Quantize.Q4_0, Cpu(machine="aarch64")) is Scheme.INT4
    with pytest.raises(WeightsError, match=r"no AMX.*use q8_0"):
        scheme_of(Quantize.Q4_0, Cpu(flags=frozenset(("avx512f",))))
    assert {scheme_of(Quantize.Q8_0, cpu) for cpu in (amx, Cpu(), Cpu(machine="aarch64"))} == {Scheme.INT8}


def test_the_folder_is_named_after_all_that_its_content_depends_on() -> None:
    tensors = [Tensor(Q, "BF16", (64, 32))]
    first = plan_weights(checkpoint(tensors), Quantize.Q8_0, Scheme.INT8)
    assert first.name == plan_weights(checkpoint(tensors), Quantize.Q8_0, Scheme.INT8).name
    assert first.name.startswith("m-q8_0-")
    others = [
        plan_weights(checkpoint(tensors, samples=("b",)), Quantize.Q8_0, Scheme.INT8),
        plan_weights(checkpoint(tensors, CONFIG | {"rope_theta": 2}), Quantize.Q8_0, Scheme.INT8),
        plan_weights(checkpoint(tensors), Quantize.Q4_0, Scheme.PACK4),
        plan_weights(checkpoint(tensors), Quantize.Q4_0, Scheme.INT4),
    ]
    assert len({first.name, *(plan.name for plan in others)}) == 5


_SIZES = st.integers(1, 6).map(lambda times: times * 32)
_TENSORS = st.lists(
    st.builds(
        Tensor,
        st.integers(0, 99).map(lambda at: f"model.layers.{at}.mlp.down_proj.weight"),
        st.sampled_from(["BF16", "F16", "F32"]),
        st.tuples(_SIZES, _SIZES),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda tensor: tensor.name,
)


@given(
    _TENSORS,
    st.sampled_from([(Quantize.Q8_0, Scheme.INT8), (Quantize.Q4_0, Scheme.PACK4), (Quantize.Q4_0, Scheme.INT4)]),
)
def test_the_planned_files_are_what_their_headers_say(tensors: list[Tensor], how: tuple[Quantize, Scheme]) -> None:
    plan = plan_weights(checkpoint(tensors), *how)
    ((head, makings),) = plan.files.values()
    results = [result for making in makings for result in making.results]
    end = len(head)
    for result in results:
        assert result.offset == end
        end += result.bytes
    assert plan.stored_bytes == end == plan.as_json()["files"][0]["size"]
    assert list(parse_header("it", head[8:], end)) == results
    weights = sum(tensor.items for tensor in tensors)
    per_weight = {Scheme.INT8: 1.0, Scheme.PACK4: 0.5625, Scheme.INT4: 0.5625}[how[1]]
    assert weights * per_weight <= plan.loaded_bytes <= weights * per_weight + sum(4 * t.shape[0] + 16 for t in tensors)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{", b'{"a": 1}', b'{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 5]}}',
        b'{"a": {"dtype": "X", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "BF16", "shape": [200], "data_offsets": [0, 400]}}',
    ],
)  # fmt: skip
def test_a_damaged_header_is_told(text: bytes) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        parse_header("model.safetensors", text, 8 + len(text) + 10)


def test_the_engine_is_told_what_is_left() -> None:
    plan = plan_weights(
        checkpoint([Tensor(Q, "BF16", (64, 32)), Tensor(O, "BF16", (31, 64))]), Quantize.Q8_0, Scheme.INT8
    )
    config = json.loads(plan.texts["config.json"])["quantization_config"]
    assert config["ignore"] == ["lm_head", "model.layers.0.self_attn.o_proj"]
    assert config["config_groups"]["group_0"]["weights"]["num_bits"] == 8


FULL_MS = {"1": 10.0, "8": 12.0, "16": 16.0}


def faster(times: float) -> dict[str, float]:
    return {rows: ms / times for rows, ms in FULL_MS.items()}


@pytest.mark.parametrize(
    ("q8_0", "q4_0", "chosen"),
    [
        (1.7, 0.8, "q8_0"),
        (1.7, 2.0, "q8_0"),  # 4 bits gain too little for what they lose
        (1.7, 2.2, "q4_0"),
        (0.9, 1.2, "q4_0"),
        (1.05, 0.9, "none"),
        (0.6, 0.5, "none"),
    ],
)
def test_auto_takes_fewer_bits_only_where_they_gain_enough(q8_0: float, q4_0: float, chosen: str) -> None:
    choice = choose_auto({"none": FULL_MS, "q8_0": faster(q8_0), "q4_0": faster(q4_0)})
    assert choice.quantize == chosen
    assert f"on this host: q8_0 {q8_0:.2f} and q4_0 {q4_0:.2f} times as fast" in choice.reason


def test_auto_says_what_could_not_be_measured() -> None:
    choice = choose_auto({"none": FULL_MS, "q8_0": faster(1.5), "q4_0": "ValueError: no kernel"})
    assert choice.quantize == "q8_0"
    assert choice.reason.endswith("q4_0 was not measured (ValueError: no kernel)")
    failed = choose_auto({"none": "No module named 'vllm'"})
    assert (failed.quantize, failed.reason) == (
        "none",
        "full weights: a layer could not be measured (No module named 'vllm')",
    )
