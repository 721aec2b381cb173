# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Bodies that are huge, or made to be slow to read. Running streams must not stand still for more than a second."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.bed import Bed, get
from tests.faults.client import LIMIT_S, Counts, Load, exchange, request, under_load
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(600)

STANDSTILL_S = 1.0
_PINNED = "X-Syshax-Place: gpu\r\n"
_MB = 1_000_000


def honest() -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "word " * (32 * _MB // 5 - 30)}]}
    ).encode()


def _of(inner: bytes, outer: bytes = b'{"model":"nobody","messages":[%s]}') -> bytes:
    return outer % inner


_SIZE = sized(9, 27) * _MB
HOSTILE: dict[str, Callable[[], bytes]] = {
    "small objects": lambda: _of(b",".join([b"{}"] * (_SIZE // 3))),
    "small keys": lambda: b'{"model":"nobody","x":{%s}}' % b",".join(b'"%d":0' % i for i in range(_SIZE // 11)),
    "the same key": lambda: b"{%s}" % b",".join([b'"model":"nobody"'] * (_SIZE // 17)),
    "brackets, 1 MB deep": lambda: _of(b"[" * _MB),
    "objects, 100,000 deep": lambda: _of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "small arrays": lambda: _of(b",".join([b"[" * 500 + b"]" * 500] * (_SIZE // 1001))),
    "a number of 1 MB": lambda: b'{"model":"nobody","messages":[{}],"max_tokens":%s}' % (b"9" * _MB),
    "escapes": lambda: _of(b'{"role":"user","content":"%s"}' % (b"\\u00e9" * (_SIZE // 6))),
    "escaped quotes": lambda: _of(b'{"role":"user","content":"%s"}' % (b'\\":' * (_SIZE // 3))),
    "a key of escaped quotes": lambda: b'{"model":"nobody","%s":1}' % (b'\\"' * (_SIZE // 2)),
    "numbers in a prompt": lambda: b'{"model":"nobody","prompt":[%s]}' % b",".join([b"1"] * (_SIZE // 2)),
    "a string without an end": lambda: _of(b'{"role":"user","content":"' + b"x" * _SIZE),
}


async def test_large_bodies(bed: Bed, row: Row) -> None:
    bodies, streams = sized(8, 50), sized(10, 40)
    row.done = f"{bodies} bodies of 32 MB at once to cpu, beside {streams} streams of gpu"
    data = request(honest(), headers="X-Syshax-Place: cpu\r\n")
    await _beside_streams(bed, row, streams, [data] * bodies)


async def test_hostile_bodies(bed: Bed, row: Row) -> None:
    clients, streams = sized(2, 8), sized(10, 40)
    kinds = f"{', '.join(HOSTILE)}: {_SIZE // _MB} MB each, by {clients} clients at once, for an unknown model"
    row.done = f"{kinds}; beside {streams} streams of gpu"
    for make in HOSTILE.values():
        data = request(make())
        await _beside_streams(bed, row, streams, [data] * clients)


async def _beside_streams(bed: Bed, row: Row, streams: int, sent: list[bytes]) -> None:
    answers: Counter[bytes] = Counter()
    health: list[float] = []

    async def send(data: bytes) -> None:
        async with asyncio.timeout(LIMIT_S):
            raw, _ = await exchange(bed.port, data)
        answers[raw[9:12]] += 1

    async with under_load(bed.port, at_once=streams, tokens=50, headers=_PINNED) as load:
        watch = asyncio.create_task(_watch(bed, health))
        own = asyncio.create_task(_lateness())
        await asyncio.gather(*(send(data) for data in sent))
        watch.cancel()
        own.cancel()
    _add(row.counts, load)
    late_s = max(_LATE)
    told = (
        f"longest standstill {load.counts.longest_pause_s:.2f} s (of the client itself {late_s:.2f} s); {dict(answers)}"
    )
    print(told)
    row.notes[:] = [f"longest standstill {row.counts.longest_pause_s:.2f} s"]
    assert set(load.counts.verdicts) == {"ok"}, load.counts.told()
    assert not {b"500", b"502"} & set(answers), told
    assert -1 not in health, "no answer from /health"
    assert load.counts.longest_pause_s < STANDSTILL_S + late_s, told


def _add(counts: Counts, load: Load) -> None:
    counts.verdicts += load.counts.verdicts
    counts.statuses += load.counts.statuses
    counts.longest_pause_s = max(counts.longest_pause_s, load.counts.longest_pause_s)


async def _watch(bed: Bed, health: list[float]) -> None:
    while True:
        began_s = time.monotonic()
        status, _ = await asyncio.to_thread(get, f"{bed.url}/health", 10.0)
        health.append(time.monotonic() - began_s if status == 200 else -1)
        await asyncio.sleep(0.1)


_LATE = [0.0]


async def _lateness() -> None:
    """By how much this process was late: its own want of CPU is not the daemon's."""
    _LATE[:] = [0.0]
    while True:
        began_s = time.monotonic()
        await asyncio.sleep(0.02)
        _LATE.append(time.monotonic() - began_s - 0.02)
