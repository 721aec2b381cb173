# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances that fail requests, generate nothing, or take too long, while they answer their health probes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.types import InstanceSpec, InstanceStatus, State
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.liveness import Liveness, generate_token
from syshaxd.serving.runner import TimeLimits
from tests.fakes.clock import pass_time
from tests.fakes.gateway import CHAT, MakeStand, Stand, stands
from tests.fakes.handover import well
from tests.fakes.instance import SSE_HEAD, Request, json_answer, sse
from tests.fakes.specs import make_spec
from tests.shell.test_time import in_movable_time

IN_TIME_S = 50.0


@pytest.fixture
async def make_stand() -> AsyncIterator[MakeStand]:
    async with stands() as make:
        yield make


async def ask(stand: Stand) -> tuple[int, str]:
    """The status, and the instance that answered."""
    async with stand.post() as response:
        await response.read()
        return response.status, response.headers.get("X-Syshax-Placement", "")


@contextmanager
def probing(stand: Stand) -> Iterator[None]:
    task = asyncio.create_task(stand.engine.breakers.run())
    try:
        yield
    finally:
        task.cancel()


def answering(status: str) -> Callable[[Request], Awaitable[None]]:
    async def answer(request: Request) -> None:
        await request.send(json_answer(b'{"error":{"message":"no","type":"t"}}', status))

    return answer


async def test_an_instance_that_fails_requests_gets_none(make_stand: MakeStand) -> None:
    stand = await make_stand(breaker_failures=3)
    stand.gpu.answer = answering("500 Internal Server Error")
    for _ in range(6):
        assert await ask(stand) == (200, "cpu"), "another instance answers instead"
    assert len(stand.gpu.requests) == 3
    assert [spec.name for spec in stand.engine.registry.ready] == ["cpu"]
    status = stand.instances.status()
    assert "3 of 3 requests failed lately" in status.open_circuits["gpu"]
    assert {each.spec.name: each.state for each in status.instances} == {"gpu": State.READY, "cpu": State.READY}
    assert any("gets no requests" in event.text for event in stand.engine.events.latest())


@in_movable_time
async def test_a_probe_with_one_token_closes_the_breaker() -> None:
    healthy, probes = False, 0

    async def ask_token(spec: InstanceSpec) -> None:
        nonlocal probes
        probes += 1
        if not healthy:
            raise InstanceFailedError("status 500")

    async with stands() as make:
        stand = await make(breaker_failures=3, ask_token=ask_token)
        with probing(stand):
            stand.gpu.answer = answering("500 Internal Server Error")
            for _ in range(3):
                await ask(stand)
            assert stand.engine.registry.open_circuits == {"gpu"}
            await pass_time(30)
            assert 2 <= probes <= 4, "after 2, 4, 8, ... seconds"
            assert "it failed a probe with one token: status 500" in stand.engine.breakers.reasons["gpu"]
            healthy, stand.gpu.answer = True, answering("200 OK")
            await pass_time(70)
            assert not stand.engine.registry.open_circuits
            assert await ask(stand) == (200, "gpu")


async def test_errors_of_clients_open_no_breaker(make_stand: MakeStand) -> None:
    stand = await make_stand(breaker_failures=1)
    stand.gpu.answer = answering("400 Bad Request")
    for _ in range(5):
        assert await ask(stand) == (400, "gpu")
    assert not stand.engine.breakers.reasons


async def test_the_last_instance_keeps_getting_requests(make_stand: MakeStand) -> None:
    stand = await make_stand(breaker_failures=2)
    stand.gpu.answer = stand.cpu.answer = answering("500 Internal Server Error")
    for _ in range(6):
        assert (await ask(stand))[0] == 500
    assert len(stand.engine.breakers.reasons) == 1, "one of two"
    (opened,) = stand.engine.breakers.reasons
    other = "cpu" if opened == "gpu" else "gpu"
    stand.supervisor.become(other, State.UNHEALTHY)
    assert not stand.engine.breakers.reasons, "the other has gone, so this one is the last"
    assert [spec.name for spec in stand.engine.registry.ready] == [opened]


async def test_a_new_generation_has_a_closed_breaker(make_stand: MakeStand) -> None:
    stand = await make_stand(breaker_failures=1)
    stand.gpu.answer = answering("500 Internal Server Error")
    await ask(stand)
    assert stand.engine.registry.open_circuits == {"gpu"}
    stand.supervisor.become("gpu", State.STARTING)
    assert not stand.engine.registry.open_circuits
    assert not stand.engine.breakers.reasons


async def test_retries_have_a_budget(make_stand: MakeStand) -> None:
    stand = await make_stand(slots=2, retry_ratio=0.0)
    stand.gpu.answer = answering("500 Internal Server Error")
    found = [(await ask(stand))[0] for _ in range(9)]
    assert found[:8] == [200] * 8, "a reserve of twice the slots"
    async with stand.post() as response:
        assert response.status == 502
        assert "system.retry_ratio" in await response.text()


async def _silent(request: Request) -> None:
    await request.gone.wait()


async def _drip(request: Request) -> None:
    await request.send(SSE_HEAD)
    while not request.gone.is_set():
        await request.send(sse(b'{"i":1}'))
        await asyncio.sleep(1)


STREAM = CHAT | {"stream": True}


async def _asked(stand: Stand, body: object) -> tuple[int, str]:
    async with stand.post(body, timeout=None) as response:
        return response.status, await response.text()


@in_movable_time
async def test_the_first_token_of_a_stream_has_a_limit_of_its_own() -> None:
    async with stands() as make:
        stand = await make(time_limits=TimeLimits(silence_s=600.0, first_token_s=20.0))
        stand.gpu.answer = _silent
        stream = asyncio.create_task(_asked(stand, STREAM))
        whole = asyncio.create_task(_asked(stand, CHAT))
        await pass_time(30)
        assert stream.done()
        assert (await stream)[0] == 504
        assert "silent for 20 s" in (await stream)[1]
        assert not whole.done(), "an answer in one piece has no first token"
        await pass_time(600)
        assert (await whole)[0] == 504


@in_movable_time
async def test_an_answer_has_a_limit_in_all() -> None:
    async with stands() as make:
        stand = await make(time_limits=TimeLimits(silence_s=600.0, total_s=60.0), breaker_failures=1)
        stand.gpu.answer = _drip
        stream = asyncio.create_task(_asked(stand, STREAM))
        await pass_time(65)
        status, text = await stream
        assert status == 200
        assert "the answer was not complete for 60 s" in text
        assert text.count('{"i":1}') > 30
        assert not stand.engine.breakers.reasons, "that is no failure of the instance"


# Liveness.


class Bed:
    """One instance whose tokens the test counts."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.spec = make_spec("gpu")
        self.registry = InstanceRegistry((self.spec,))
        self.status = InstanceStatus(spec=self.spec, state=State.READY, generation=1)
        self.registry.on_status(self.status)
        self.registry.learn(self.spec, catalog or assumed(self.spec), None)
        self.tokens = 0
        self.running = 0
        self.asked: list[float] = []
        self.fault: InstanceFailedError | InstanceTimeoutError | None = None
        self.reported: list[str] = []
        self.liveness = Liveness(
            well,
            self.ask,
            registry=self.registry,
            snapshot=self.snapshot,
            report=self.reported.append,
            interval_s=60.0,
        )

    def snapshot(self) -> Snapshot:
        load = InstanceLoad(read_at_s=1.0, generation_tokens=self.tokens, prompt_tokens=0, running=self.running)
        return Snapshot(instances={"gpu": load})

    async def ask(self, spec: InstanceSpec, timeout_s: float) -> None:
        self.asked.append(timeout_s)
        await asyncio.sleep(1)
        if self.fault is not None:
            raise self.fault

    @contextmanager
    def looking(self) -> Iterator[None]:
        task = asyncio.create_task(self.liveness.run())
        try:
            yield
        finally:
            task.cancel()


@in_movable_time
async def test_an_instance_that_generates_is_not_asked() -> None:
    bed = Bed()
    with bed.looking():
        for _ in range(20):
            bed.tokens += 1
            await pass_time(30)
        assert not bed.asked
        await pass_time(50)
        assert bed.asked == [30.0]
        bed.running = 1
        await pass_time(65)
        assert bed.asked[1:] == [120.0], "it may compute a long prompt first"
    await bed.liveness.probe(bed.spec)


@in_movable_time
async def test_one_that_generates_nothing_fails_its_probes_until_it_does() -> None:
    bed = Bed()
    bed.fault = InstanceTimeoutError("no token within 30 s")
    with bed.looking():
        await pass_time(70)
        assert bed.reported == ["gpu"]
        with pytest.raises(InstanceTimeoutError, match="answers /health but generates nothing: no token within 30 s"):
            await bed.liveness.probe(bed.spec)
        await pass_time(10)
        assert len(bed.asked) > 1, "it is asked again"
        assert bed.reported == ["gpu"]
        bed.fault = None
        await pass_time(5)
        await bed.liveness.probe(bed.spec)


@in_movable_time
async def test_a_fault_while_tokens_come_does_not_count() -> None:
    bed = Bed()
    bed.fault = InstanceTimeoutError("no token within 120 s")
    with bed.looking():
        while not bed.asked:
            await pass_time(0.5)
        bed.tokens += 1
        await pass_time(3)
        assert not bed.reported
        await bed.liveness.probe(bed.spec)


@in_movable_time
async def test_a_new_generation_begins_anew() -> None:
    bed = Bed()
    bed.fault = InstanceFailedError("status 500")
    with bed.looking():
        await pass_time(70)
        with pytest.raises(InstanceFailedError, match="status 500"):
            await bed.liveness.probe(bed.spec)
        bed.registry.on_status(InstanceStatus(spec=bed.spec, state=State.STOPPING, generation=1))
        await pass_time(2)
        await bed.liveness.probe(bed.spec)


@in_movable_time
async def test_instances_that_generate_no_text_are_not_asked() -> None:
    catalog = Catalog({"m": {"id": "m"}}, (), frozenset({("POST", "/v1/embeddings")}))
    bed = Bed(catalog)
    with bed.looking():
        await pass_time(200)
    assert not bed.asked


async def test_the_probe_takes_a_token_and_no_error(make_stand: MakeStand) -> None:
    stand = await make_stand()
    spec = stand.engine.registry.specs["gpu"]
    async with aiohttp.ClientSession() as session, asyncio.timeout(IN_TIME_S):
        await generate_token(session, spec)
        assert b'"max_tokens": 1' in stand.gpu.requests[-1].body
        stand.gpu.answer = answering("404 Not Found")
        await generate_token(session, spec)  # it answers, though not this
        stand.gpu.answer = answering("500 Internal Server Error")
        with pytest.raises(InstanceFailedError, match="status 500"):
            await generate_token(session, spec)
        stand.gpu.answer = _silent
        with pytest.raises(InstanceTimeoutError, match=r"no token within 0\.2 s"):
            await generate_token(session, spec, 0.2)
