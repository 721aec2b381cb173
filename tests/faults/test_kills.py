# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Everything that can end or stand still does so, under load."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.fakes.waiting import until_async
from tests.faults.bed import NAMES, READY_S, Bed, get
from tests.faults.client import LIMIT_S, ask, ask_many, chat, exchange, request, under_load
from tests.faults.conftest import MakeBed
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(600)

STREAMS = sized(40, 200)


async def test_instances_are_killed(bed: Bed, row: Row) -> None:
    rounds = sized(1, 5)
    row.done = f"SIGKILL of all processes of each instance in turn, {rounds} times, beside {STREAMS} streams"
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts
        for name in NAMES * rounds:
            await asyncio.to_thread(bed.crash, name)
            await bed.ready()
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def test_the_daemon_is_killed(bed: Bed, row: Row) -> None:
    rounds = sized(1, 5)
    row.done = (
        f"SIGKILL of the daemon, {rounds} times, under {STREAMS} streams each; the next one adopts both instances"
    )
    pids = bed.pids()
    for number in range(rounds):
        first = number * 10_000
        streams = asyncio.create_task(ask_many(bed.port, range(first, first + STREAMS), at_once=STREAMS, tokens=100))
        await until_async(lambda: asyncio.to_thread(lambda: _running(bed) >= STREAMS), LIMIT_S, "all streams run")
        await asyncio.to_thread(bed.kill, "daemon")
        cut = await streams
        # What ran through it can't go on; each client must be able to tell.
        assert set(cut.verdicts) == {"lost"}, cut.told()
        await asyncio.to_thread(bed.start)
        await bed.ready()
        assert {name: bed.pid(name) for name in NAMES} == {name: pids[name] for name in NAMES}
        for again in range(first, first + STREAMS):
            row.counts.add(await ask(bed.port, again, tokens=2))
    row.notes.append(f"{STREAMS * rounds} streams were cut with it, and their clients could tell")
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


def _running(bed: Bed) -> int:
    return sum(int(bed.stats(name)["running"]) for name in NAMES)


async def test_an_instance_hangs(make_bed: MakeBed, row: Row) -> None:
    row.done = f"gpu answers nothing and makes no token any more, beside {STREAMS} streams"
    bed = make_bed()  # which requests are suspect is remembered for minutes
    bed.told_to_end.add("gpu")
    pid = bed.pid("gpu")
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts
        await asyncio.to_thread(bed.fault, "gpu", stall=True, hang=True)
        await until_async(lambda: asyncio.to_thread(lambda: _pid(bed, "gpu") not in {0, pid}), 120, "gpu is new")
        await bed.ready()
    # Those that gpu got and never began to answer may be what it hangs from: they wait until it is back.
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def test_an_instance_fails_every_request(bed: Bed, row: Row) -> None:
    row.done = f"gpu answers 500 to everything but its probes, beside {STREAMS} streams; then it is well again"
    async with under_load(bed.port, at_once=STREAMS, tokens=20) as load:
        row.counts = load.counts
        await asyncio.to_thread(bed.fault, "gpu", api_status=500)
        await until_async(lambda: _circuit_open(bed), LIMIT_S, "gpu gets no requests")
        await asyncio.to_thread(bed.fault, "gpu", api_status=200)
        await until_async(lambda: _circuit_closed(bed), LIMIT_S, "gpu gets requests again")
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def _circuit_open(bed: Bed) -> bool:
    return await asyncio.to_thread(bed.metric, 'syshax_instance_circuit_open{name="gpu"}') == 1


async def _circuit_closed(bed: Bed) -> bool:
    return not await _circuit_open(bed)


@pytest.mark.long
async def test_an_instance_generates_nothing(make_bed: MakeBed, row: Row) -> None:
    row.done = "gpu answers /health and makes no token any more, while nobody asks it anything"
    bed = make_bed(changes={"lifecycle": {"liveness_interval_s": 1.0}})
    bed.told_to_end.add("gpu")
    pid = bed.pid("gpu")
    await asyncio.to_thread(bed.fault, "gpu", stall=True)
    await until_async(lambda: asyncio.to_thread(lambda: _pid(bed, "gpu") not in {0, pid}), 120, "gpu is new")
    await bed.ready()


def _pid(bed: Bed, name: str) -> int:
    try:
        return bed.pid(name)
    except LookupError:
        return 0


async def test_an_instance_is_busy(bed: Bed, row: Row) -> None:
    busy_s = sized(8, 15)
    row.done = (
        f"gpu's server computes for {busy_s} s and answers nothing meanwhile, beside {STREAMS} streams; not ended"
    )
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts
        await asyncio.to_thread(bed.fault, "gpu", busy_s=busy_s)
        await asyncio.to_thread(bed.stats, "gpu")  # is answered afterwards
        await bed.ready()
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def test_a_request_that_ends_instances(make_bed: MakeBed, row: Row) -> None:
    await _end_instances(make_bed, row, requests=sized(2, 4), after_s=0)


async def test_a_request_that_ends_instances_late(make_bed: MakeBed, row: Row) -> None:
    await _end_instances(make_bed, row, requests=sized(1, 4), after_s=sized(6, 8))


async def _end_instances(make_bed: MakeBed, row: Row, *, requests: int, after_s: float) -> None:
    # Which requests are suspect is remembered for minutes.
    bed = make_bed(engine_env={"FAULTS_POISON": "poison!", "FAULTS_POISON_AFTER_S": str(after_s)})
    late = f"after {after_s:g} s " if after_s else ""
    row.done = (
        f"{requests} equal requests that {late}end the process of each instance that gets them, "
        f"beside {STREAMS} streams"
    )
    body = chat(0, tokens=4) | {"messages": [{"role": "user", "content": "poison!"}]}
    ended: list[set[str]] = []
    # A stream that is there at both ends of an instance is lost: these are over sooner.
    async with under_load(bed.port, at_once=STREAMS, tokens=20 if after_s else 60) as load, _always_served(bed):
        row.counts = load.counts
        for _ in range(requests):
            pids = bed.pids()
            async with asyncio.timeout(LIMIT_S):
                raw, _ = await exchange(bed.port, request(body))
            assert raw[9:12] in {b"502", b"503"}, raw[:200]
            gone = [name for name in NAMES if not _lives(pids[name])]
            await until_async(
                lambda: asyncio.to_thread(lambda: all(_pid(bed, name) not in {0, pids[name]} for name in gone)),  # noqa: B023
                READY_S,
                "those that it ended are started again",
            )
            await bed.ready()
            ended.append({name for name in NAMES if _pid(bed, name) != pids[name]})
            bed.told_to_end |= ended[-1]
    row.notes.append(f"they ended {[len(names) for names in ended]} instances")
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


@asynccontextmanager
async def _always_served(bed: Bed) -> AsyncIterator[None]:
    """Beside the block, at least one instance is ready at each look."""
    seen: set[int] = set()

    async def look() -> None:
        while True:
            seen.add((await asyncio.to_thread(get, f"{bed.url}/health"))[0])
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
    assert seen == {200}, seen


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_files_in_shared_memory(make_bed: MakeBed, row: Row) -> None:
    row.done = "both instances map weights in /dev/shm, and have another file there open; both are stopped, then killed"
    mapped, opened = (Path(f"/dev/shm/syshax-faults-{kind}-{os.getpid()}") for kind in ("weights", "other"))
    for path in (mapped, opened):
        path.write_bytes(path.name.encode() * 10_000)
    try:
        bed = make_bed(engine_env={"FAULTS_MAPPED": str(mapped), "FAULTS_OPEN": str(opened)})
        row.counts.add(await ask(bed.port, 1))
        for command in ("stop", "start"):
            for name in NAMES:
                done = await asyncio.to_thread(bed.ctl, command, name, "--wait")
                assert done.returncode == 0, done.stderr
            assert_whole(mapped, opened)
        row.counts.add(await ask(bed.port, 2))
        for name in NAMES:
            await asyncio.to_thread(bed.crash, name)
        await bed.ready()
        assert_whole(mapped, opened)
        row.counts.add(await ask(bed.port, 3))
    finally:
        for path in (mapped, opened):
            path.unlink(missing_ok=True)
    assert row.counts.verdicts == {"ok": 3}, row.counts.told()


def assert_whole(*paths: Path) -> None:
    for path in paths:
        assert path.read_bytes() == path.name.encode() * 10_000
