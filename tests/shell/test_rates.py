# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Limits by API key and of all clients together."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.placement.rate_limits import RateLimits
from syshaxd.gateway.authentication import Authentication
from syshaxd.system.api_keys import ApiKeys
from tests.fakes.gateway import ANSWER, CHAT, LIMITS, MakeStand, Stand
from tests.fakes.instance import Request, json_answer

USED = 8
"""Tokens of `ANSWER`."""


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "api_keys")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def made(keys: ApiKeys, name: str, **limits: int) -> dict[str, str]:
    new = await asyncio.to_thread(lambda: keys.create(name, **limits))
    return {"Authorization": f"Bearer {new.secret}"}


async def ask(stand: Stand, body: Any = CHAT, **headers: str) -> tuple[int, dict[str, str]]:
    async with stand.post(body, headers=headers) as answer:
        await answer.read()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}


async def test_requests_a_minute(make_stand: MakeStand, keys: ApiKeys) -> None:
    clock = Clock()
    stand = await make_stand(authentication=Authentication(keys), clock=clock)
    alice, bob = await made(keys, "alice", requests_per_minute=2), await made(keys, "bob")
    for left in ("1", "0"):
        status, headers = await ask(stand, **alice)
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, left)
    status, headers = await ask(stand, **alice)
    assert (status, headers["retry-after"], headers["x-ratelimit-reset-requests"]) == (429, "30", "1m0s")
    async with stand.post(headers=alice) as answer:
        error = (await answer.json())["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    status, headers = await ask(stand, **bob)
    assert status == 200
    assert not any(name.startswith("x-ratelimit") for name in headers)
    clock.now_s += 30
    assert (await ask(stand, **alice))[0] == 200
    assert len(stand.gpu.requests) == 4


async def test_tokens_a_minute_are_those_that_the_instance_counts(make_stand: MakeStand, keys: ApiKeys) -> None:
    clock = Clock()
    stand = await make_stand(authentication=Authentication(keys), clock=clock)
    alice = await made(keys, "alice", tokens_per_minute=60)
    status, headers = await ask(stand, **alice)
    assert (status, headers["x-ratelimit-limit-tokens"]) == (200, "60")
    long = CHAT | {"user": "x" * 160}
    assert (await ask(stand, long, **alice))[0] == 429  # some 50 tokens are left
    clock.now_s += USED
    assert (await ask(stand, long, **alice))[0] == 200
    assert len(stand.gpu.requests) == 2


async def test_tokens_of_a_request_that_got_no_instance_are_given_back(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys), clock=Clock())
    alice = await made(keys, "alice", tokens_per_minute=60)
    for _ in range(9):
        assert (await ask(stand, CHAT | {"model": "other"}, **alice))[0] == 404
    assert (await ask(stand, **alice))[0] == 200


async def test_requests_at_a_time(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    alice, bob = await made(keys, "alice", max_requests=1), await made(keys, "bob", max_requests=1)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> None:
        arrived.set()
        await go_on.wait()
        await request.send(json_answer(ANSWER))

    stand.gpu.answer = answer
    first = asyncio.create_task(ask(stand, **alice))
    await arrived.wait()
    status, headers = await ask(stand, **alice)
    assert (status, headers["retry-after"]) == (429, "1")
    second = asyncio.create_task(ask(stand, **bob))
    go_on.set()
    assert [(await each)[0] for each in (first, second)] == [200, 200]
    assert (await ask(stand, **alice))[0] == 200


async def test_a_client_that_has_gone_counts_no_more(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    alice = await made(keys, "alice", max_requests=1)
    arrived = asyncio.Event()

    async def never(request: Request) -> None:
        arrived.set()
        await request.gone.wait()

    stand.gpu.answer = never
    first = asyncio.create_task(ask(stand, **alice))
    await arrived.wait()
    first.cancel()
    while stand.gateway.connections:
        await asyncio.sleep(0)
    stand.gpu.answer = stand.cpu.answer
    assert (await ask(stand, **alice))[0] == 200


async def test_all_clients_together_have_a_limit_with_and_without_keys(make_stand: MakeStand, keys: ApiKeys) -> None:
    limits = replace(LIMITS, rates=RateLimits(requests_per_minute=3))
    stand = await make_stand(authentication=Authentication(keys), limits=limits, clock=Clock())
    assert (await ask(stand))[1]["x-ratelimit-limit-requests"] == "3"
    alice, bob = await made(keys, "alice", requests_per_minute=2), await made(keys, "bob")
    assert (await ask(stand, **alice))[1]["x-ratelimit-limit-requests"] == "2"
    assert [(await ask(stand, **bob))[0] for _ in range(2)] == [200, 429]
    assert (await ask(stand, **alice))[0] == 429


async def test_another_key_of_the_same_name_begins_anew(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys), clock=Clock())
    alice = await made(keys, "alice", requests_per_minute=1)
    assert [(await ask(stand, **alice))[0] for _ in range(2)] == [200, 429]
    await asyncio.to_thread(keys.revoke, "alice")
    alice = await made(keys, "alice", requests_per_minute=1)
    assert (await ask(stand, **alice))[0] == 200


async def test_long_prompts_are_refused_before_any_work(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys), limits=replace(LIMITS, max_prompt_tokens=100))
    alice, bob = await made(keys, "alice", max_prompt_tokens=50), await made(keys, "bob")
    for characters, of_alice, of_bob in ((1, 200, 200), (200, 400, 200), (400, 400, 400)):
        body = CHAT | {"user": "x" * characters}
        assert ((await ask(stand, body, **alice))[0], (await ask(stand, body, **bob))[0]) == (of_alice, of_bob)
    assert len(stand.gpu.requests) == 3
    async with stand.post(b"{" * 500, headers=alice | {"Content-Type": "application/json"}) as response:
        error = (await response.json())["error"]
    assert error["code"] == "context_length_exceeded", "its fields were not read"
    assert "at most 50 " in error["message"], "the lower of the two limits"
