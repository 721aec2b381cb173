# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Requests whose instance ends: one that ends instances never reaches the last one, the others are answered."""

import asyncio

import pytest

from syshax_sim import Faults
from syshaxd.core.types import State
from tests.fakes.gateway import ANSWER, CHAT, MakeStand, Stand
from tests.fakes.handover import duo
from tests.fakes.instance import Request, json_answer
from tests.fakes.quiet import assert_quiet

POISON = {"model": "m", "messages": [{"role": "user", "content": "poison!"}], "max_tokens": 4}
WELL = POISON | {"messages": [{"role": "user", "content": "hi"}]}


async def _answer_well(request: Request) -> None:
    await request.send(json_answer(ANSWER))


async def _dead_engine(request: Request) -> None:
    await request.send(json_answer(b'{"error":{"message":"EngineCore died"}}', "500 Internal Server Error"))


class Ending:
    """What a stand's instance answers: once it has so many requests, it ends with them."""

    def __init__(self, stand: Stand, name: str, *after: State, requests: int = 1) -> None:
        self._stand, self._name, self._after = stand, name, after or (State.BACKOFF,)
        self._missing = requests
        self._over = asyncio.Event()

    async def __call__(self, request: Request) -> None:
        self._missing -= 1
        if self._missing <= 0:
            for state in self._after:
                self._stand.supervisor.become(self._name, state)
            self._over.set()
        await self._over.wait()
        request.abort()


async def _noted(stand: Stand, failures: int = 1) -> None:
    """So many requests have failed, and the engine knows it."""
    while len(stand.supervisor.suspected) < failures:
        await asyncio.sleep(0.001)


async def test_a_request_that_ends_instances_never_reaches_the_last_one(make_stand: MakeStand) -> None:
    stand = await make_stand()
    stand.gpu.answer, stand.cpu.answer = Ending(stand, "gpu"), Ending(stand, "cpu")
    sent = asyncio.create_task(_status_and_error(stand))
    await _noted(stand)
    await stand.ready("gpu")
    status, message = await sent
    assert (status, "2 instances ended while they ran this request" in message) == (502, True), message
    assert (len(stand.gpu.requests), len(stand.cpu.requests)) == (2, 0)
    status, message = await _status_and_error(stand)  # it is known now
    assert (status, "none is tried for 300 s" in message) == (503, True), message
    await stand.ready("gpu")
    status, message = await _status_and_error(stand)
    assert (status, "none is tried for" in message) == (503, True), message
    assert (len(stand.gpu.requests), len(stand.cpu.requests)) == (2, 0)
    stand.gpu.answer = stand.cpu.answer = _answer_well
    async with stand.post(CHAT | {"user": "another"}) as response:
        assert response.status == 200


async def test_a_known_request_waits_for_a_second_instance_with_a_limit(make_stand: MakeStand) -> None:
    stand = await make_stand(max_queue_wait_s=0.05)
    stand.gpu.answer = Ending(stand, "gpu")
    for _ in range(2):
        async with stand.post() as response:
            message = (await response.json())["error"]["message"]
            assert (response.status, response.headers["retry-after"]) == (503, "10"), message
            assert "only while two instances of its model are ready" in message
    assert not stand.cpu.requests
    stand.supervisor.become("gpu", State.FAILED)  # it is not started again: waiting is in vain
    status, message = await _status_and_error(stand)
    assert (status, "no second one is to run" in message) == (503, True), message
    stand.gpu.answer = _answer_well
    await stand.ready("gpu")
    for _ in range(2):  # as one to be tried, then as any other
        assert (await _status_and_error(stand))[0] == 200
    stand.supervisor.become("gpu", State.BACKOFF)
    assert (await _status_and_error(stand))[0] == 200


async def test_what_a_client_has_given_up_does_not_reach_the_last_instance(make_stand: MakeStand) -> None:
    stand = await make_stand(max_queue_wait_s=0.05)
    stand.gpu.answer = Ending(stand, "gpu", requests=99)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_status_and_error(stand), 0.05)
    await assert_quiet(stand.engine)
    stand.supervisor.become("gpu", State.UNHEALTHY)
    assert (await _status_and_error(stand))[0] == 503
    assert not stand.cpu.requests


async def _status_and_error(stand: Stand) -> tuple[int, str]:
    async with stand.post() as response:
        return response.status, str((await response.json())["error"]["message"]) if response.status != 200 else ""


@pytest.mark.parametrize("after", [(State.BACKOFF,), (State.UNHEALTHY,), (State.UNHEALTHY, State.STOPPING)])
async def test_what_may_have_ended_an_instance_is_tried_again_beside_a_second_one(
    make_stand: MakeStand, after: tuple[State, ...]
) -> None:
    stand = await make_stand()
    stand.gpu.answer = Ending(stand, "gpu", *after, requests=4)
    waiting = [asyncio.create_task(_status_and_error(stand)) for _ in range(4)]
    await _noted(stand, 4)
    async with stand.post(CHAT | {"user": "another"}) as response:
        assert response.headers["x-syshax-placement"] == "cpu"
    stand.gpu.answer = _answer_well
    stand.supervisor.become("gpu", State.STARTING)
    await stand.ready("gpu")
    assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 4


async def test_the_server_of_a_dead_engine_answers_before_its_end_is_known(make_stand: MakeStand) -> None:
    stand = await make_stand()
    stand.gpu.answer = _dead_engine
    stand.supervisor.unwell.add("gpu")
    sent = asyncio.create_task(_status_and_error(stand))
    while not stand.supervisor.asked:
        await asyncio.sleep(0.001)
    stand.gpu.answer = _answer_well
    async with stand.post(CHAT | {"user": "another"}, headers={"X-Syshax-Instance": "gpu"}) as response:
        assert response.status == 200
    assert not sent.done()
    assert not stand.cpu.requests
    stand.supervisor.become("gpu", State.BACKOFF)
    await stand.ready("gpu")
    assert await sent == (200, "")


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPING, State.STOPPED])
async def test_an_instance_that_was_told_to_end_was_not_ended_by_its_requests(
    make_stand: MakeStand, state: State
) -> None:
    stand = await make_stand()
    stand.gpu.answer = Ending(stand, "gpu", state)
    async with stand.post() as response:
        assert response.headers["x-syshax-placement"] == "cpu"


async def test_an_instance_that_has_gone_with_a_kept_connection_has_ended() -> None:
    async with duo() as both:
        await both.whole("/v1/chat/completions", WELL)
        both.gpu.set_faults(Faults(poison="poison!"))
        both.supervisor.unwell.add("gpu")
        sent = asyncio.create_task(both.whole("/v1/chat/completions", POISON))
        while not both.supervisor.asked:
            await asyncio.sleep(0.001)
        both.supervisor.become("gpu", State.BACKOFF)
        _, placement = await both.whole("/v1/chat/completions", WELL)
        assert placement == "cpu"
        assert not sent.done()
        sent.cancel()
