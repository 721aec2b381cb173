# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Calibration at first start: once, when all is READY and idle; requests come first; a failure is told and harmless."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from syshax_sim import Profile
from syshaxd.core.events import EventKind
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.report.describe import status_notes
from syshaxd.core.report.engine_status import CalibrationStatus, EngineStatus
from syshaxd.core.types import State
from syshaxd.observe.calibrator import Calibrator
from syshaxd.observe.first_calibration import FirstCalibration
from tests.fakes.handover import Duo, duo

LIMIT_S = 50.0
QUICK = Profile(
    prefill_tokens_per_s=1e6, step_base_s=0.0005, step_per_request_s=0.0001, max_num_seqs=4, kv_tokens=100_000
)


class Bench:
    """The calibrations of a daemon over two simulated instances."""

    def __init__(self, both: Duo, folder: Path) -> None:
        self.both = both
        self.path = folder / "calibration.json"
        self.asked_for = True
        self.snapshot = Snapshot()
        self.rounds = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.start_daemon()

    def start_daemon(self) -> None:
        registry, requests = self.both.engine.registry, self.both.engine.requests
        self.calibrator = Calibrator(
            registry,
            path=self.path,
            running=lambda: len(requests.running),
            snapshot=lambda: self.snapshot,
            seed=self.both.engine.seed_estimates,
            drift=self.both.engine.drift,
        )
        self.first = FirstCalibration(
            self.calibrator,
            registry,
            is_asked_for=lambda: self.asked_for,
            busy=requests.busy,
            snapshot=lambda: self.snapshot,
            events=self.both.engine.events,
            idle_s=0.01,
        )
        self._tasks = [asyncio.create_task(work()) for work in (self.calibrator.run, self.first.run)]

    async def end_daemon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, holds: Callable[[], object]) -> None:
        """Returns when that holds; until then the registry publishes changes, so that all look again."""
        async with asyncio.timeout(LIMIT_S):
            while not holds():
                self.rounds += 1
                self.both.engine.registry.set_open(frozenset({str(self.rounds)}))
                await asyncio.sleep(0.002)

    async def rounds_more(self) -> None:
        now = self.rounds
        await self.until(lambda: self.rounds > now + 50)

    def events(self) -> list[str]:
        return [event.text for event in self.both.engine.events.latest(100) if event.kind is EventKind.CALIBRATION]

    @property
    def text(self) -> str:
        return self.calibrator.status.text


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with duo(QUICK, slots=4) as both:
        found = Bench(both, tmp_path)
        yield found
        await found.end_daemon()


async def test_it_calibrates_once_and_not_again_at_the_next_start(bench: Bench) -> None:
    await bench.until(bench.events)
    assert bench.events() == ["cpu, gpu calibrated at first start"]
    assert (bench.calibrator.status, bench.calibrator.unmeasured) == (CalibrationStatus(), frozenset())
    kept = bench.path.read_bytes()
    await bench.end_daemon()
    bench.start_daemon()
    await bench.until(lambda: bench.calibrator.looked_at >= {"gpu", "cpu"})
    await bench.rounds_more()
    assert bench.path.read_bytes() == kept
    assert len(bench.events()) == 1


async def test_it_does_nothing_unasked(bench: Bench) -> None:
    bench.asked_for = False
    await bench.until(lambda: bench.calibrator.unmeasured == {"gpu", "cpu"})
    await bench.rounds_more()
    assert not bench.path.exists()
    assert not bench.text


async def test_it_waits_until_all_wanted_instances_are_ready(bench: Bench) -> None:
    bench.both.supervisor.become("gpu", State.STARTING)
    await bench.until(lambda: bench.text == "begins when gpu is READY")
    assert not bench.path.exists()
    await bench.both.ready("gpu")
    await bench.until(bench.path.exists)


async def test_it_waits_while_an_instance_computes_for_others(bench: Bench) -> None:
    bench.snapshot = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=1)})
    await bench.until(lambda: bench.text == "begins when no requests are running")
    assert not bench.path.exists()
    bench.snapshot = Snapshot()
    await bench.until(bench.path.exists)


async def test_a_request_ends_it_at_once_and_it_begins_anew(bench: Bench) -> None:
    await bench.until(lambda: bench.calibrator.status.done >= 1)
    body = {"model": "m", "prompt": "hello", "max_tokens": 50_000}
    answer = asyncio.create_task(bench.both.whole("/v1/completions", body))
    await bench.until(lambda: bench.text.startswith(("put off", "begins when no requests")))
    await bench.until(lambda: bench.calibrator.status.runs == 0)
    await bench.rounds_more()
    assert not bench.path.exists(), "not while the request runs"
    answer.cancel()
    await asyncio.gather(answer, return_exceptions=True)
    await bench.until(bench.path.exists)
    await bench.until(bench.events)
    assert bench.events() == ["cpu, gpu calibrated at first start"]


async def test_a_failure_is_told_and_not_tried_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.until(lambda: bench.calibrator.status.done >= 1)
    bench.both.cpu.kill()
    await bench.until(bench.events)
    (event,) = bench.events()
    assert event.startswith("cpu, gpu could not be calibrated: cpu: POST /v1/completions")
    assert "`syshaxctl calibrate` tries again" in event
    assert event in caplog.text
    await bench.rounds_more()
    assert len(bench.events()) == 1
    assert not bench.path.exists()
    assert bench.calibrator.status == CalibrationStatus()


async def test_an_instance_that_changes_is_said_to_be_stale(bench: Bench) -> None:
    await bench.until(bench.events)
    registry, was = bench.both.engine.registry, bench.both.engine.registry.instances["cpu"]
    bench.asked_for = False
    changed = replace(was.spec, max_num_seqs=2)
    registry.on_instances([registry.instances["gpu"].status, replace(was.status, spec=changed)])
    registry.learn(changed, was.catalog, was.facts)
    await bench.until(lambda: bench.calibrator.status.stale == ("cpu",))
    status = EngineStatus(
        version="1",
        started_at_s=0.0,
        endpoint="",
        queued=0,
        inflight={},
        instances=(),
        snapshot=Snapshot(),
        calibration=bench.calibrator.status,
    )
    assert list(status_notes(status)) == [("calibration", "stale for cpu; `syshaxctl calibrate` measures again")]
