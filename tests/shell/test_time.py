# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What happens after minutes, hours and weeks: the event loop's time is moved on, so that they pass in moments."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps

import pytest

from syshaxd.core.errors import InstanceFailedError, NotFoundError
from syshaxd.core.parity import PROMPTS, Bounds, PromptAnswer, TokenStep
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.types import InstanceSpec, InstanceStatus, State
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.instances.discovery import Discovery
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.parity import ParityService
from syshaxd.serving.leases import Leases
from tests.fakes.clock import pass_time, run_in_movable_time
from tests.fakes.gateway import Stand, stands
from tests.fakes.handover import well
from tests.fakes.instance import SSE_HEAD, Request, sse
from tests.fakes.specs import make_spec

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0


def in_movable_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        run_in_movable_time(test())  # type: ignore[arg-type]

    del run.__wrapped__  # pytest would take it for asynchronous
    return run


async def connected(stand: Stand, data: bytes) -> "asyncio.Task[bytes]":
    """What a client gets until its connection is closed."""
    reader, writer = await stand.raw()
    writer.write(data)

    async def read() -> bytes:
        got = await reader.read()
        writer.close()
        return got

    task = asyncio.create_task(read())
    await pass_time(0.5)
    return task


@in_movable_time
async def test_an_idle_connection_is_closed_after_75_seconds_and_not_before() -> None:
    async with stands() as make:
        stand = await make()
        client = await connected(stand, b"GET /live HTTP/1.1\r\nHost: h\r\n\r\n")
        await pass_time(70)
        assert not client.done()
        await pass_time(10)
        assert (await client).startswith(b"HTTP/1.1 200")


@in_movable_time
async def test_half_a_head_and_half_a_body_are_answered_with_408() -> None:
    async with stands() as make:
        stand = await make()
        head = await connected(stand, b"POST /v1/chat/completions HTTP/1.1\r\nHo")
        body = await connected(stand, b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n{")
        await pass_time(15)
        assert not head.done()
        assert not body.done()
        await pass_time(30)
        assert (await head).startswith(b"HTTP/1.1 408")
        assert (await body).startswith(b"HTTP/1.1 408")


@in_movable_time
async def test_a_stream_may_take_hours_if_it_is_never_silent_for_long() -> None:
    async with stands() as make:
        stand = await make(silence_limit_s=600.0)

        async def slow(request: Request) -> None:
            await request.send(SSE_HEAD)
            for _ in range(3 * 6 + 1):
                await request.send(sse(b'{"i":1}'))
                await asyncio.sleep(10 * MINUTE_S - 5)
            await request.send(sse(b"[DONE]") + b"0\r\n\r\n")

        stand.gpu.answer = slow

        async def ask() -> bytes:
            async with stand.post({"model": "m", "messages": [], "stream": True}, timeout=None) as response:
                return bytes(await response.read())

        asking = asyncio.create_task(ask())
        await pass_time(3.5 * HOUR_S, step_s=2.5)
        assert (await asking).endswith(b"data: [DONE]\n\n")


@in_movable_time
async def test_a_lease_lives_as_long_as_it_is_renewed() -> None:
    async with stands() as make:
        stand = await make()
        leases = Leases(stand.engine)
        _, lease = leases.place(InferenceRequest(request_id="r", model="m", stream=False), 60.0)
        for _ in range(24 * 60):
            await pass_time(50, step_s=10)
            leases.renew(lease)
        assert sum(stand.engine.inflight.values()) == 1
        await pass_time(61, step_s=1)
        assert sum(stand.engine.inflight.values()) == 0
        with pytest.raises(NotFoundError):
            leases.renew(lease)


@in_movable_time
async def test_an_instance_that_cannot_be_compared_for_42_days_is_asked_hourly_and_then_compared() -> None:
    specs = (make_spec("gpu"), make_spec("cpu"))
    registry = InstanceRegistry(specs)
    steps = tuple(TokenStep(1, {1: -0.1}) for _ in range(16))
    tries, faulty = 0, True

    async def ask(spec: InstanceSpec) -> tuple[PromptAnswer, ...]:
        nonlocal tries
        if spec.name == "cpu" and faulty:
            tries += 1
            raise InstanceFailedError("it is busy")
        return tuple(PromptAnswer(steps, steps) for _ in PROMPTS)

    service = ParityService(registry, ask, Bounds())
    for spec in specs:
        registry.on_status(InstanceStatus(spec=spec, state=State.READY, generation=1))
        registry.learn(spec, None, None)
    running = asyncio.create_task(service.run())
    await pass_time(42 * DAY_S, step_s=5 * MINUTE_S)
    assert 42 * 23 < tries < 42 * 25 + 10
    assert "it is busy" in service.refusal("gpu", "cpu").reason
    faulty = False
    await pass_time(1.1 * HOUR_S, step_s=MINUTE_S)
    async with asyncio.timeout(MINUTE_S):
        while service.refusal("gpu", "cpu"):
            await asyncio.sleep(0.01)
    running.cancel()


@in_movable_time
async def test_instances_are_asked_for_their_models_all_day() -> None:
    spec = make_spec("gpu")
    registry = InstanceRegistry((spec,))
    asked = 0

    async def read_catalog(spec: InstanceSpec) -> Catalog:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise InstanceFailedError("not now")
        return assumed(spec)

    async def no_facts(spec: InstanceSpec) -> None:
        raise AssertionError(spec.name)

    discovery = Discovery(registry, health=well, read_catalog=read_catalog, read_facts=no_facts)  # type: ignore[arg-type]
    registry.on_status(InstanceStatus(spec=spec, state=State.READY, generation=1))
    running = asyncio.create_task(discovery.run())
    await pass_time(DAY_S, step_s=5.0)
    assert DAY_S / 10 * 0.6 < asked < DAY_S / 10 + 10
    running.cancel()
    await discovery.close()
