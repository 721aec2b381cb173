# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""200 hand-overs at once, of which 30 % of the clients leave at any moment: nothing is lost, nothing stays."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.e2e.handover.client import body, loading, new_key, prompt, saving
from tests.e2e.handover.conftest import REAPED_WITHIN_S, Engine, Engines
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)

COUNT = 200
TOKENS = 6


@dataclass
class Visit:
    """One client: prefill on `a`, the rest on `b` or `c`."""

    number: int
    patience_s: float | None
    """When it leaves; None stays."""

    @property
    def token_ids(self) -> list[int]:
        return prompt(20 + 7 * self.number % 500, 5000 + self.number)


async def _post(session: aiohttp.ClientSession, engine: Engine, content: dict[str, Any]) -> dict[str, Any]:
    async with session.post(f"{engine.url}/v1/completions", json=content) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def _visit(session: aiohttp.ClientSession, engines: Engines, visit: Visit) -> list[int] | None:
    key, consumer = new_key(), engines.c if visit.number % 2 else engines.b
    try:
        async with asyncio.timeout(visit.patience_s):
            first = await _post(session, engines.a, body(visit.token_ids, 1, saving(key)))
            assert first["kv_transfer_params"]["syshax"]["state"] == "saving", first
            begun = first["choices"][0]["token_ids"]
            rest = await _post(session, consumer, body(visit.token_ids + begun, TOKENS - 1, loading(key)))
            return begun + rest["choices"][0]["token_ids"]
    except TimeoutError:
        return None


async def _visit_all(engines: Engines, visits: list[Visit]) -> list[list[int] | None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*(_visit(session, engines, visit) for visit in visits))


async def _alone(engines: Engines, visits: list[Visit]) -> list[list[int]]:
    """What one engine answers, without any hand-over."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        bodies = [body(visit.token_ids, TOKENS, {}) for visit in visits]
        answers = await asyncio.gather(*(_post(session, engines.a, content) for content in bodies))
    return [answer["choices"][0]["token_ids"] for answer in answers]


def test_many_at_once(engines: Engines) -> None:
    chance = random.Random(7)
    visits = [Visit(number, chance.uniform(0, 4) if chance.random() < 0.3 else None) for number in range(COUNT)]
    before = [engine.results() for engine in (engines.b, engines.c)]
    answers = asyncio.run(_visit_all(engines, visits))
    assert all(answer is not None for visit, answer in zip(visits, answers, strict=True) if visit.patience_s is None)
    assert answers.count(None) > COUNT // 20, "some clients were to leave"
    for answer, alone in zip(answers, asyncio.run(_alone(engines, visits)), strict=True):
        assert answer in (alone, None)

    after = [engine.results() for engine in (engines.b, engines.c)]
    loaded = sum(
        later["load loaded"] - earlier.get("load loaded", 0) for earlier, later in zip(before, after, strict=True)
    )
    assert loaded >= COUNT - answers.count(None), "none that stayed was computed"
    until(lambda: not engines.handovers(), REAPED_WITHIN_S, "no hand-over is left")
    until(lambda: engines.a.gauge("arena_used_bytes") == 0, REAPED_WITHIN_S, "all room is free again")
    for engine in (engines.a, engines.b, engines.c):
        for state in ("running", "waiting"):
            (sample,) = engine.samples(f"vllm:num_requests_{state}")
            assert sample.value == 0
