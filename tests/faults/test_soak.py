# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Random clients while random things happen to the instances. FAULTS_SEED has them happen again."""

import asyncio
import os
import random
import time
from collections import Counter

import pytest

from tests.faults.bed import NAMES, Bed
from tests.faults.client import ask, chat, exchange, request
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(600)

DURATION_S = int(os.environ.get("FAULTS_SOAK_S") or sized(20, 120))
CLIENTS = sized(20, 60)


async def test_soak(bed: Bed, row: Row) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"FAULTS_SEED={seed}")
    row.done = (
        f"{CLIENTS} random clients for {DURATION_S} s; instances are drained, restarted, stopped, killed (seed {seed})"
    )
    choose = random.Random(seed)
    end_s = time.monotonic() + DURATION_S
    bed.told_to_end |= set(NAMES)
    seeds = [choose.randrange(10**9) for _ in range(CLIENTS)]
    asked: Counter[int] = Counter()
    clients = asyncio.gather(*(_client(bed, row, random.Random(seed), n, end_s, asked) for n, seed in enumerate(seeds)))
    try:
        while time.monotonic() < end_s:
            await _strike(bed, choose, asked, end_s)
        await clients
    finally:
        clients.cancel()
    await asyncio.to_thread(_moved, bed, row)
    assert set(row.counts.verdicts) <= {"ok"}, f"seed {seed}: {row.counts.told()}"


def _moved(bed: Bed, row: Row) -> None:
    row.notes.append(f"{bed.metric('syshax_handovers_total{'):.0f} hand-overs")


async def _client(bed: Bed, row: Row, choose: random.Random, number: int, end_s: float, asked: Counter[int]) -> None:
    """Counts its requests in `asked`."""
    first = 2_000_000 + number * 10_000
    while time.monotonic() < end_s:
        asked[number] += 1
        request_number = first + asked[number]
        kind = choose.random()
        if kind < 0.15:  # goes in the middle
            data = request(chat(request_number, tokens=200))
            try:
                async with asyncio.timeout(choose.random()):
                    await exchange(bed.port, data)
            except TimeoutError:
                continue
        else:
            tokens, stream = choose.choice((1, 2, 10, 60, 200)), kind < 0.7
            version = choose.choice(("1.0", "1.1", "1.1"))
            row.counts.add(await ask(bed.port, request_number, tokens=tokens, stream=stream, version=version))
        await asyncio.sleep(choose.random() * 0.1)


async def _strike(bed: Bed, choose: random.Random, asked: Counter[int], end_s: float) -> None:
    """Something happens to one instance, while the other is well."""
    name = choose.choice(NAMES)
    match choose.choice(("kill", "restart", "stop", "stall", "lose")):
        case "kill":
            await asyncio.to_thread(bed.crash, name)
            before = dict(asked)
            # What meets two kills is not tried again.
            while any(asked[client] <= count for client, count in before.items()) and time.monotonic() < end_s:
                await asyncio.sleep(0.05)
        case "restart":
            await asyncio.to_thread(bed.ctl, "restart", name, "--wait")
        case "stop":
            await asyncio.to_thread(bed.ctl, "stop", name, "--wait")
            await asyncio.to_thread(bed.ctl, "start", name, "--wait")
        case "stall":
            await asyncio.to_thread(bed.fault, name, stall=True)
            await asyncio.sleep(choose.random())
            await asyncio.to_thread(bed.fault, name, stall=False)
        case "lose":
            await asyncio.to_thread(bed.fault, name, lose_loads=True)
    await bed.ready()
    await asyncio.sleep(choose.random())
