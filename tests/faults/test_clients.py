# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Clients that are slow, old, or gone."""

import asyncio
import random
from typing import Any

import pytest

from tests.fakes.waiting import until_async
from tests.faults.bed import Bed
from tests.faults.client import Counts, ask_many, chat, judge, request, under_load
from tests.faults.conftest import MakeBed
from tests.faults.report import FULL, Row, sized

pytestmark = pytest.mark.timeout(600)

_POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_BEGINNINGS = {
    "nothing": b"",
    "half a request line": b"POST /v1/cha",
    "half a head": _POST,
    "half a body": _POST + b'Content-Length: 5000\r\n\r\n{"model": "m", "mess',
    "half a body in chunks": _POST + b'Transfer-Encoding: chunked\r\n\r\n400\r\n{"model": ',
    "half a body of another route": b'POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{"',
    "a head for another route": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "100-continue and no body": _POST + b"Expect: 100-continue\r\nContent-Length: 900\r\n\r\n",
}
LIMIT_S = 100.0 if FULL else 30.0
"""The default of `idle_timeout_s` is 75 s; it counts for those who send nothing at all."""


async def test_slow_clients(make_bed: MakeBed, row: Row) -> None:
    slow, streams = sized(240, 2500), sized(40, 2000)
    bed = make_bed(changes={"gateway": limits()}, slots=max(512, streams))
    row.done = f"{slow:,} clients with half a head or half a body, beside {streams:,} streams; all closed in the end"
    clients = [await asyncio.open_connection("127.0.0.1", bed.port) for _ in range(slow)]
    for (_, writer), number in zip(clients, range(slow), strict=True):
        writer.write(list(_BEGINNINGS.values())[number % len(_BEGINNINGS)])
    try:
        row.counts = await ask_many(bed.port, range(streams), at_once=streams, tokens=40)
        closed = asyncio.gather(*(_until_closed(reader) for reader, _ in clients))
        try:
            async with asyncio.timeout(LIMIT_S):
                await asyncio.shield(closed)
        except TimeoutError:
            closed.cancel()
            left = [
                list(_BEGINNINGS)[at % len(_BEGINNINGS)]
                for at, (reader, _) in enumerate(clients)
                if not reader.at_eof()
            ]
            pytest.fail(f"{len(left)} of {slow} are still open: {sorted(set(left))}")
    finally:
        for _, writer in clients:
            writer.transport.abort()
    assert row.counts.verdicts == {"ok": streams}, row.counts.told()


def limits() -> dict[str, Any]:
    """Shorter ones than the defaults, where there is no time to wait for those."""
    return {} if FULL else {"head_timeout_s": 2.0, "body_timeout_s": 2.0, "idle_timeout_s": 3.0}


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


async def test_clients_that_vanish(bed: Bed, row: Row) -> None:
    vanishing = sized(200, 2000)
    row.done = f"{vanishing:,} clients that go in the middle of their request or answer, beside 20 streams"
    choose = random.Random(1)

    async def vanish(number: int) -> None:
        data = request(chat(number, tokens=200))
        reader, writer = await asyncio.open_connection("127.0.0.1", bed.port)
        writer.write(data if number % 2 else data[: choose.randrange(len(data))])
        for _ in range(choose.randrange(4) if number % 2 else 0):
            await reader.read(4096)
        if number % 3:
            writer.transport.abort()
        else:
            writer.close()

    async with under_load(bed.port, at_once=20, tokens=60) as load:
        row.counts = load.counts
        for first in range(0, vanishing, 50):
            await asyncio.gather(*(vanish(number) for number in range(first, first + 50)))
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def test_clients_of_http_1_0(bed: Bed, row: Row) -> None:
    clients = sized(100, 1000)
    row.done = f"{clients:,} clients that speak HTTP/1.0, half of them streaming"
    for stream in (True, False):
        counts = await ask_many(bed.port, range(clients // 2), at_once=50, tokens=300, stream=stream, version="1.0")
        row.counts = merge(row.counts, counts)
    assert row.counts.verdicts == {"ok": clients}, row.counts.told()


def merge(one: Counts, other: Counts) -> Counts:
    one.verdicts += other.verdicts
    one.statuses += other.statuses
    one.details += other.details
    return one


async def test_clients_that_do_not_read(bed: Bed, row: Row) -> None:
    clients, tokens = sized(20, 200), 3000
    row.done = f"{clients} clients that read nothing before their answer of {tokens:,} tokens is complete"

    async def lazy(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bed.port, limit=1024)
        writer.write(request(chat(number, tokens=tokens)))
        await until_async(quiet, 120, "the instances have made all answers, or wait for the clients")
        raw = b""
        while piece := await reader.read(65536):
            raw += piece
        writer.close()
        row.counts.add(judge(raw, True, number, tokens=tokens, stream=True))

    made = [0.0]

    async def quiet() -> bool:
        await asyncio.sleep(1)
        before, made[0] = (
            made[0],
            sum([(await asyncio.to_thread(bed.stats, name))["generation_tokens"] for name in bed.ports]),
        )
        return bool(made[0] == before)

    await asyncio.gather(*(lazy(number) for number in range(clients)))
    assert row.counts.verdicts == {"ok": clients}, row.counts.told()
