# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What `syshaxctl rollout` shows while it restarts instances."""

from dataclasses import replace
from typing import Any

from rich.console import Console

from syshaxd.cli.rollout import RolloutProgress
from syshaxd.core.types import State
from tests.fakes.engine import FakeEngine


def step(instance: str, number: int, *by: str) -> dict[str, Any]:
    return {"instance": instance, "number": number, "count": 3, "carried_by": list(by)}


def shown(progress: RolloutProgress, now_s: float) -> list[list[str]]:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(progress.table(now_s))
    return [line.split() for line in capture.get().splitlines()]


def test_the_table_has_a_row_for_each_instance_so_far() -> None:
    progress, engine = RolloutProgress(), FakeEngine()
    progress.step(step("gpu", 1, "gpu-1"), 10.0)
    status = engine.status()
    gpu, *others = status.instances
    progress.saw(replace(status, instances=(replace(gpu, state=State.DRAINING), *others)))
    assert shown(progress, 14.0) == [
        ["INSTANCE", "STATE", "FOR", "MEANWHILE"],
        ["1", "of", "3", "gpu", "DRAINING", "4s", "gpu-1", "answers", "meanwhile"],
    ]
    progress.step(step("gpu-1", 2), 30.0)
    assert shown(progress, 31.0)[1:] == [
        ["1", "of", "3", "gpu", "READY", "20s", "gpu-1", "answers", "meanwhile"],
        ["2", "of", "3", "gpu-1", "-", "1s", "nothing", "answers", "meanwhile"],
    ]
    progress.step(step("cpu", 3, "gpu", "gpu-1"), 40.0)
    progress.end(45.0)
    assert shown(progress, 99.0)[3] == ["3", "of", "3", "cpu", "READY", "5s", "gpu,", "gpu-1", "answer", "meanwhile"]
    assert progress.result().endswith("3 restarted, all READY")


def test_a_file_gets_a_line_for_each_instance() -> None:
    progress = RolloutProgress()
    assert "nothing was restarted" in progress.result()
    progress.step(step("gpu", 1, "cpu"), 1.0)
    assert progress.line().endswith("1 of 3  gpu  cpu answers meanwhile")
