# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio

import pytest

from syshaxd.core.errors import SyshaxError
from syshaxd.system.sidetasks import SideTasks

YEAR_S = 365 * 86400.0


class Time:
    """Stands still, but for what is slept."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses_s: list[float] = []

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


class Failing:
    """Fails so many times, then runs on."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.well = asyncio.Event()

    async def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.well.set()
        await asyncio.Event().wait()


async def test_one_that_fails_is_counted_shown_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    tasks = SideTasks(sleep=time.sleep, now=time.now)
    work, other = Failing([ValueError("odd"), ValueError("odd"), OverflowError("huge")]), Failing([])
    tasks.start("monitor", work)
    tasks.start("bindings", other)
    async with asyncio.timeout(5):
        await work.well.wait()
        await other.well.wait()
    assert tasks.failures == {"monitor": 3, "bindings": 0}
    assert tasks.faults == ("monitor failed 3 times, and is tried again: OverflowError: huge",)
    assert time.pauses_s == [1.0, 2.0, 4.0]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, True]  # each trace once
    time.now_s += YEAR_S
    assert not tasks.faults
    await tasks.close()


async def test_pauses_are_bounded_for_years() -> None:
    time = Time()
    tasks = SideTasks(sleep=time.sleep, now=time.now)
    work = Failing([RuntimeError("again") for _ in range(3000)])
    tasks.start("parity", work)
    async with asyncio.timeout(20):
        await work.well.wait()
    assert max(time.pauses_s) == 300.0
    assert tasks.failures["parity"] == 3000
    await tasks.close()


async def test_one_that_is_done_is_no_fault() -> None:
    tasks = SideTasks()

    async def work() -> None:
        pass

    tasks.start("watchdog", work)
    await asyncio.sleep(0)
    await tasks.close()
    assert tasks.faults == ()


async def test_what_was_foreseen_is_told_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    failed = asyncio.Event()

    async def fails() -> None:
        failed.set()
        raise SyshaxError("it cannot be written; let this user write there")

    tasks = SideTasks(sleep=lambda _: asyncio.sleep(3600))
    tasks.start("store", fails)
    await failed.wait()
    await asyncio.sleep(0)
    await tasks.close()
    (record,) = caplog.records
    assert record.exc_info is None
    assert "store failed: it cannot be written" in record.message
