# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Calibration of simulated instances: runs, results, what is kept and when it is stale."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from syshax_sim import Profile
from syshaxd.cli.calibrate import draw, show_results
from syshaxd.core.errors import ConflictError, SyshaxError
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.calibration import Calibration, RunResult
from syshaxd.observe.calibrator import Calibrator
from tests.fakes.handover import Duo, duo

LIMIT_S = 50.0
SLOW = Profile(
    prefill_tokens_per_s=20_000, step_base_s=0.004, step_per_request_s=0.001, max_num_seqs=4, kv_tokens=100_000
)


class Bench:
    def __init__(self, both: Duo, folder: Path) -> None:
        self.both = both
        self.path = folder / "state" / "calibration.json"
        self.running = 0
        self.seeded: list[tuple[Calibration, str]] = []
        self.drifts: dict[str, float] = {}

    def new(self) -> Calibrator:
        return Calibrator(
            self.both.engine.registry,
            path=self.path,
            running=lambda: self.running,
            snapshot=Snapshot,
            seed=lambda calibration, name: self.seeded.append((calibration, name)),
            drift=lambda calibration, name: self.drifts.get(name),
        )

    async def calibrate(self, *, force: bool = False) -> list[RunResult]:
        async with asyncio.timeout(LIMIT_S):
            return [result async for result, _ in self.new().calibrate(force=force)]

    async def start_again(self) -> list[str]:
        """Which instances a new daemon seeds from the file."""
        self.seeded.clear()
        calibrator = self.new()
        task = asyncio.create_task(calibrator.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while not calibrator.looked_at >= {"gpu", "cpu"}:
                    await asyncio.sleep(0.001)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return [name for _, name in self.seeded]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with duo(SLOW, slots=4) as both:
        yield Bench(both, tmp_path)


async def test_each_instance_is_measured_alone_and_both_together(bench: Bench) -> None:
    results = await bench.calibrate()
    assert {(result.instance, result.batch, result.beside) for result in results} == {
        *((name, batch, "") for name in ("gpu", "cpu") for batch in (1, 4)),
        ("gpu", 4, "cpu"),
        ("cpu", 4, "gpu"),
    }
    assert all(result.first_s > 0 for result in results)
    prompts = [result.prompt_tokens for result in results if result.instance == "gpu" and result.batch == 1]
    assert prompts == sorted(prompts)
    assert [name for _, name in bench.seeded] == ["gpu", "cpu"]


async def test_what_was_measured_is_kept_for_the_next_start(bench: Bench) -> None:
    results = await bench.calibrate()
    assert await bench.start_again() == ["gpu", "cpu"]
    assert list(bench.seeded[0][0].results) == results


async def test_a_calibration_of_other_instances_is_not_used(bench: Bench) -> None:
    await bench.calibrate()
    values = json.loads(bench.path.read_text())
    values["fingerprints"]["cpu"] = "another"
    bench.path.write_text(json.dumps(values))
    assert await bench.start_again() == ["gpu"]


async def test_a_calibration_that_readings_contradict_is_stale_until_the_next_one(bench: Bench) -> None:
    await bench.calibrate()
    calibrator = bench.new()
    registry = bench.both.engine.registry
    task = asyncio.create_task(calibrator.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            while not calibrator.looked_at >= {"gpu", "cpu"}:
                await asyncio.sleep(0.001)
            assert calibrator.status.stale == ()
            bench.drifts["cpu"] = 3.0
            while calibrator.status.stale != ("cpu",):
                registry.on_status(registry.instances["cpu"].status)  # it looks again
                await asyncio.sleep(0.001)
            assert calibrator.unmeasured == {"cpu"}
            bench.drifts.clear()
            assert [result async for result, _ in calibrator.calibrate(force=False)]
            assert calibrator.status.stale == ()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": [{}]}', "\xff"])
async def test_a_file_that_is_not_right_is_ignored(bench: Bench, text: str, caplog: pytest.LogCaptureFixture) -> None:
    bench.path.parent.mkdir()
    bench.path.write_bytes(text.encode("latin-1"))
    calibrator = bench.new()
    task = asyncio.create_task(calibrator.run())
    async with asyncio.timeout(LIMIT_S):
        while "can't be read" not in caplog.text:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not bench.seeded


async def test_requests_of_clients_are_not_disturbed_unless_forced(bench: Bench) -> None:
    bench.running = 2
    with pytest.raises(ConflictError, match="2 requests are running"):
        await bench.calibrate()
    assert not bench.path.exists()
    assert await bench.calibrate(force=True)
    assert bench.path.exists()


async def test_nothing_is_kept_of_a_calibration_that_failed(bench: Bench) -> None:
    async with asyncio.timeout(LIMIT_S):
        results = bench.new().calibrate(force=False)
        await anext(results)
        bench.both.cpu.kill()
        with pytest.raises(SyshaxError, match="cpu: POST /v1/completions"):
            async for _ in results:
                pass
    assert not bench.path.exists()
    assert not bench.seeded


async def test_a_run_beside_an_instance_that_fails_counts_for_nothing(bench: Bench) -> None:
    alone = [result for result in await bench.calibrate() if not result.beside]
    bench.path.unlink()
    async with asyncio.timeout(LIMIT_S):
        results = bench.new().calibrate(force=False)
        for _ in alone:
            await anext(results)
        bench.both.cpu.kill()
        with pytest.raises(SyshaxError, match="cpu: POST /v1/completions"):
            await anext(results)  # the GPU beside the CPU
    assert not bench.path.exists()


async def test_one_calibration_runs_at_a_time(bench: Bench) -> None:
    calibrator = bench.new()
    first = calibrator.calibrate(force=False)
    await anext(first)
    with pytest.raises(ConflictError, match="already"):
        await anext(calibrator.calibrate(force=True))
    await first.aclose()
    again = calibrator.calibrate(force=False)
    await anext(again)
    await again.aclose()


def test_a_plot_has_a_line_for_each_instance_and_a_circle_for_each_run_beside_another() -> None:
    results = [
        RunResult(instance=name, batch=batch, prompt_tokens=32, beside=beside, first_s=0.1, token_s=0.01 * batch)
        for name, batch, beside in (("gpu", 1, ""), ("gpu", 4, ""), ("c<pu", 1, ""), ("gpu", 4, "c<pu"))
    ]
    found = [element.tag.rpartition("}")[2] for element in ET.fromstring(draw(results)).iter()]
    assert (found.count("polyline"), found.count("circle")) == (2, 1)


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_gets_a_table_and_a_plot_that_fit_and_a_file_gets_the_table_only(width: int) -> None:
    results = [
        RunResult(instance=name, batch=batch, prompt_tokens=32, beside=beside, first_s=0.1, token_s=scale * batch)
        for name, scale in (("gpu", 0.005), ("cpu", 0.1))
        for batch, beside in ((1, ""), (4, ""), (16, ""), (16, "cpu" if name == "gpu" else "gpu"))
    ]
    shown = {}
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
        show_results(results, console)
        assert isinstance(console.file, io.StringIO)
        shown[is_terminal] = console.file.getvalue().splitlines()
    assert max(map(len, shown[True])) <= width
    legend = next(line for line in shown[True] if "gpu beside cpu" in line and "●" in line)
    assert all(sum(mark in line for line in shown[True]) > 1 for mark in "●▲■◆"), "no mark hides another one"
    assert legend.split("   ") == ["● gpu", "▲ gpu beside cpu", "■ cpu", "◆ cpu beside gpu"]
    assert not any("●" in line or "│" in line for line in shown[False])
    assert [line for line in shown[False] if line.startswith("gpu: a token takes 1.00 times")]
