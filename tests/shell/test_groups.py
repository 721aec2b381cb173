# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The status of 2, 6 and 20 instances is readable on 100 columns."""

import itertools
from dataclasses import replace

import pytest
from rich.console import Console

from syshaxd.cli.show import status_table
from syshaxd.cli.top import TopView
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import InstanceStatus, Role, State
from tests.fakes.engine import parity_report, spec


def status(models: dict[str, int], *, refusal: str = "") -> EngineStatus:
    names = {f"{model}-{number}": model for model, count in models.items() for number in range(count)}
    pairs = [pair for pair in itertools.permutations(names, 2) if names[pair[0]] == names[pair[1]]]
    roles = itertools.cycle((Role.GPU, Role.CPU))
    instances = [
        InstanceStatus(spec=replace(spec(next(roles)), name=name, served_model=model), state=State.READY, since_s=1.0)
        for name, model in names.items()
    ]
    return EngineStatus(
        version="1",
        started_at_s=0.0,
        endpoint="http://127.0.0.1:8010",
        queued=0,
        inflight=dict.fromkeys(names, 3),
        instances=tuple(instances),
        snapshot=Snapshot(instances={name: InstanceLoad(read_at_s=1.0, running=2, waiting=1) for name in names}),
        handover_refusals={pair: refusal if "-0" in pair[0] else "" for pair in pairs},
        parity=tuple(replace(parity_report(), first=one, second=other) for one, other in pairs if one < other),
    )


def shown(of: EngineStatus, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(status_table(of, width=width, now_s=61.0, monotonic_s=2.0))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_many_instances_are_told_by_model_in_top() -> None:
    few, many = TopView(), TopView()
    few.saw(status({"chat": 2, "minilm": 1}), now_s=1.0, monotonic_s=2.0)
    many.saw(status({"chat": 12, "qwen3-coder-30b-a3b": 8}), now_s=1.0, monotonic_s=2.0)
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(many.render(width=100, now_s=2.0, monotonic_s=2.0))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines if "tokens/s" in line] == ["chat", "qwen3-coder-30b-a3b"]
    with console.capture() as capture:
        console.print(few.render(width=100, now_s=2.0, monotonic_s=2.0))
    rates = [line.split()[0] for line in capture.get().splitlines() if "tokens/s" in line]
    assert rates == ["chat-0", "chat-1", "minilm-0"]


def test_the_name_of_a_model_is_above_its_instances_and_not_beside_each() -> None:
    lines = shown(status({"qwen3-coder-30b-a3b-instruct": 8, "minilm": 12}))
    assert sum("qwen3-coder-30b-a3b-instruct" in line for line in lines) == 1 + 8 + 2, "and in the lines on pairs"
    assert not any("MODEL" in line for line in lines)


@pytest.mark.parametrize("models", [{"chat": 2}, {"chat": 4, "minilm": 2}, {"chat": 8, "coder": 8, "rerank": 4}])
def test_it_fits_and_does_not_grow_with_the_pairs(models: dict[str, int]) -> None:
    lines = shown(status(models, refusal="chat-0 has not been ready yet"))
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if "…" in line]
    for model, count in models.items():
        assert sum(f"{model}-{number} " in f"{line} " for number in range(count) for line in lines[:40]) >= count
    assert len(lines) <= sum(models.values()) + len(models) + 16


def test_instances_are_below_the_row_of_their_model() -> None:
    lines = shown(status({"chat": 2, "minilm": 1}))
    names = [line.split()[0] for line in lines if line[:1].isalpha() or line.startswith("  ")]
    begin = names.index("chat")
    assert names[begin : begin + 5] == ["chat", "chat-0", "chat-1", "minilm", "minilm-0"]
    assert next(line for line in lines if line.startswith("chat")).split() == ["chat", "2", "of", "2", "4", "2", "6"]


def test_many_pairs_are_told_by_what_they_have_in_common() -> None:
    text = " ".join(shown(status({"chat": 5}, refusal="it is not ready"), 200))
    assert "chat-0 to chat-1 and 3 more pairs: no hand-over: it is not ready" in text
    assert "chat-1 to chat-0 and 15 more pairs: can hand over" in text
    assert "parity: chat-0 and chat-1 and 9 more pairs: noise" in text
