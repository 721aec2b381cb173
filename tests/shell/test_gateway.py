# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Gateway, Engine and Runner together, over real sockets, against instances that answer byte by byte as told."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from syshaxd.core.errors import SyshaxError
from syshaxd.core.placement.decision import InferenceRequest, RunOn
from syshaxd.core.placement.records import Outcome
from syshaxd.core.types import InstanceSpec, QuantisedWeights, State
from syshaxd.core.wire.body import RequestBody
from syshaxd.core.wire.http1 import chunk
from syshaxd.gateway import Gateway, Limits
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.serving.request import Request as ClientRequest
from tests.fakes.gateway import ANSWER, CHAT, MakeStand, Stand, answer_after
from tests.fakes.instance import SSE_HEAD, Request, json_answer, sse, stream_answer


async def _error(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return body["error"]


async def test_an_answer_comes_through_as_it_is_with_placement_and_id(make_stand: MakeStand) -> None:
    stand = await make_stand()
    async with stand.post(headers={"X-Request-Id": "mine-1"}) as response:
        assert response.status == 200
        assert await response.read() == ANSWER
        assert response.headers["x-syshax-placement"] == "gpu"
        assert response.headers["x-request-id"] == "mine-1"
    request = stand.gpu.requests[0]
    assert json.loads(request.body) == CHAT
    assert b"x-request-id: mine-1\r\n" in request.head
    record = stand.metrics.records[0]
    assert (record.placement, record.outcome, record.status) == ("gpu", Outcome.OK, 200)
    assert (record.tokens_in, record.tokens_out) == (3, 5)


async def test_why_a_request_was_placed_there_is_told_in_a_header_on_demand(make_stand: MakeStand) -> None:
    stand = await make_stand()
    async with stand.post(headers={"X-Syshax-Explain": "1"}) as response:
        told = response.headers["x-syshax-explain"]
    assert told.startswith("run-on gpu; ")
    assert "the GPU has room" in told
    assert b"x-syshax-explain" not in stand.gpu.requests[0].head.lower()
    async with stand.post() as response:
        assert "x-syshax-explain" not in response.headers
    async with stand.post(headers={"X-Syshax-Explain": "yes"}) as response:
        assert response.status == 400
        assert (await _error(response))["code"] == "invalid_explain"


async def test_a_stream_comes_through_byte_by_byte_and_its_connection_is_used_again(make_stand: MakeStand) -> None:
    stand = await make_stand()
    events = [b'{"i":%d}' % i for i in range(20)]

    async def answer(request: Request) -> None:
        data = stream_answer(*events)
        for start in range(0, len(data), 7):  # cuts heads, size lines and events anywhere
            await request.send(data[start : start + 7])

    stand.gpu.answer = answer
    for _ in range(3):
        async with stand.post(CHAT | {"stream": True}) as response:
            assert response.status == 200
            assert await response.read() == b"".join(b"data: %b\n\n" % event for event in (*events, b"[DONE]"))
    assert stand.gpu.connections == 1
    assert stand.metrics.records[0].tokens_out == len(events) - 1  # a chat's first event only tells the role
    assert stand.metrics.records[0].ttft_s is not None


async def test_a_stream_counts_the_usage_that_the_instance_tells(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        usage = b'{"choices":[],"usage":{"prompt_tokens":11,"total_tokens":18,"completion_tokens":7}}'
        await request.send(stream_answer(b'{"a":1}', b'{"a":2}', usage))

    stand.gpu.answer = answer
    async with stand.post(CHAT | {"stream": True}) as response:
        await response.read()
    assert (stand.metrics.records[0].tokens_in, stand.metrics.records[0].tokens_out) == (11, 7)


@pytest.mark.parametrize("piece_bytes", [11, 300, 100_000])
async def test_requests_that_are_pipelined_and_cut_up_are_answered_in_order(
    make_stand: MakeStand, piece_bytes: int
) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        await request.send(json_answer(request.body))

    stand.gpu.answer = answer
    reader, writer = await stand.raw()
    bodies = [json.dumps(CHAT | {"user": str(i) * 100}).encode() for i in range(5)]
    data = b"".join(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies
    )
    for start in range(0, len(data), piece_bytes):
        writer.write(data[start : start + piece_bytes])
        await writer.drain()
    for body in bodies:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readexactly(len(body)) == body
    writer.close()


async def test_an_http10_client_gets_a_plain_body_and_the_connections_end(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        await request.send(SSE_HEAD + sse(b'{"i":1}'))
        await request.send(sse(b'{"i":2}', b"[DONE]") + b"0\r\n\r\n")

    stand.gpu.answer = answer
    reader, writer = await stand.raw()
    body = json.dumps(CHAT | {"stream": True}).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert rest == b'data: {"i":1}\n\ndata: {"i":2}\n\ndata: [DONE]\n\n'
    writer.close()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'"text"', 400, "invalid_json"),
        (b'{"model":"m","messages":' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400, "invalid_json"),
        (CHAT | {"kv_transfer_params": {"syshax": {}}}, 400, "unsupported_parameter"),
        (CHAT | {"ec_transfer_params": 1}, 400, "unsupported_parameter"),
        (CHAT | {"vllm_xargs": {"kv_transfer_params": "x"}}, 400, "unsupported_parameter"),
        (CHAT | {"model": "other"}, 404, "model_not_found"),
        (CHAT | {"user": "x" * 200_000}, 413, "body_too_large"),
    ],
)
async def test_bad_bodies_get_an_openai_error_and_reach_no_instance(
    make_stand: MakeStand, body: Any, status: int, code: str | None
) -> None:
    stand = await make_stand()
    async with stand.post(body, headers={"Content-Type": "application/json"}) as response:
        assert response.status == status
        error = await _error(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert stand.gpu.requests == stand.cpu.requests == []
    assert stand.metrics.records[0].outcome is Outcome.CLIENT_ERROR
    async with stand.post() as response:  # the daemon goes on
        assert response.status == 200


async def test_a_body_over_the_limit_that_hides_its_length_is_refused_too(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    async with stand.session.post(stand.url + "/v1/chat/completions", data=pieces()) as response:
        assert response.status == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/nothing", 404),
        ("GET", "/", 404),
        ("POST", "/sleep", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/v1%2Fload_lora_adapter", 404),
        ("POST", "/v1/responses/../load_lora_adapter", 404),
        ("POST", "/v1/anything", 404),
    ],
)
async def test_unknown_routes_and_methods(make_stand: MakeStand, method: str, path: str, status: int) -> None:
    stand = await make_stand()
    async with stand.session.request(method, stand.url + path, json=CHAT) as response:
        assert response.status == status
        await _error(response)


async def test_what_is_not_http_gets_a_400(make_stand: MakeStand) -> None:
    stand = await make_stand()
    reader, writer = await stand.raw()
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b'"error"' in answer
    writer.close()


async def test_other_v1_routes_go_to_an_instance_that_has_them(make_stand: MakeStand) -> None:
    def catalog(spec: InstanceSpec) -> Catalog:
        plain = {("POST", "/v1/chat/completions")} | ({("POST", "/v1/embeddings")} if spec.name == "cpu" else set())
        return Catalog(assumed(spec).models, (), frozenset(plain))

    stand = await make_stand(catalog=catalog)
    async with stand.post({"model": "m", "input": "x"}, path="/v1/embeddings?a=b") as response:
        assert (response.status, response.headers["x-syshax-placement"]) == (200, "cpu")
    assert stand.cpu.requests[0].head.startswith(b"POST /v1/embeddings?a=b HTTP/1.1\r\n")
    async with stand.post({"model": "m"}, path="/v1/rerank") as response:
        assert response.status == 404
        assert (await _error(response))["code"] == "route_not_found"
    pinned = {"X-Syshax-Place": "gpu"}
    async with stand.post({"model": "m", "input": "x"}, path="/v1/embeddings", headers=pinned) as response:
        assert response.status == 404
        assert (await _error(response))["message"].startswith("gpu does not serve POST /v1/embeddings for the model")


async def test_a_pinned_request_for_a_model_of_the_other_instance_is_a_404(make_stand: MakeStand) -> None:
    def catalog(spec: InstanceSpec) -> Catalog:
        name = f"of-{spec.name}"
        return replace(assumed(spec), models={name: {"id": name}})

    stand = await make_stand(catalog=catalog)
    async with stand.post(CHAT | {"model": "of-cpu"}, headers={"X-Syshax-Place": "gpu"}) as response:
        assert response.status == 404
        told = (await _error(response))["message"]
    assert told == "gpu does not serve the model 'of-cpu'; it serves of-gpu"


@pytest.mark.parametrize("name", ["X-Syshax-Instance", "X-Syshax-Place"])
async def test_a_pinned_request_goes_where_it_asks(make_stand: MakeStand, name: str) -> None:
    stand = await make_stand()
    async with stand.post(headers={name: "cpu"}) as response:
        assert response.headers["x-syshax-placement"] == "cpu"
    assert name.lower().encode() not in stand.cpu.requests[0].head.lower()
    async with stand.post(headers={"X-Syshax-Place": "npu"}) as response:
        assert response.status == 404
    stand.supervisor.become("cpu", State.BACKOFF)
    async with stand.post(headers={"X-Syshax-Place": "cpu"}) as response:
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1


Q8 = QuantisedWeights(quantize="q8_0")
FULL = {"X-Syshax-Weights": "full"}


async def test_an_answer_tells_that_its_weights_are_quantised(make_stand: MakeStand) -> None:
    stand = await make_stand(cpu_weights=Q8)
    async with stand.post(headers={"X-Syshax-Place": "cpu"}) as response:
        assert response.headers["x-syshax-weights"] == "q8_0"
    async with stand.post(headers={"X-Syshax-Place": "gpu"}) as response:
        assert "x-syshax-weights" not in response.headers


async def test_a_client_can_insist_on_the_full_weights(make_stand: MakeStand) -> None:
    stand = await make_stand(cpu_weights=Q8, movable=True)
    for _ in range(3):
        async with stand.post(headers=FULL) as response:
            assert response.headers["x-syshax-placement"] == "gpu"
    assert b"x-syshax-weights" not in stand.gpu.requests[0].head.lower()
    async with stand.post(headers=FULL | {"X-Syshax-Place": "cpu"}) as response:
        assert response.status == 404
        assert (await _error(response))["message"] == "cpu has quantised weights, and the request asks for full ones"
    stand.supervisor.become("gpu", State.BACKOFF)
    async with stand.post(headers=FULL) as response:
        assert response.status == 503
    async with stand.post() as response:
        assert response.headers["x-syshax-placement"] == "cpu"
    async with stand.post(headers={"X-Syshax-Weights": "q8_0"}) as response:
        assert response.status == 400
        assert (await _error(response))["code"] == "invalid_weights"


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({}, {}, "interactive"),
        ({}, {"service_tier": "auto"}, "interactive"),
        ({}, {"service_tier": "flex"}, "batch"),
        ({"X-Syshax-Class": "batch"}, {}, "batch"),
        ({"X-Syshax-Class": "interactive"}, {"service_tier": "flex"}, "interactive"),
    ],
)
async def test_a_request_names_its_class(
    make_stand: MakeStand, headers: dict[str, str], fields: dict[str, str], expected: str
) -> None:
    stand = await make_stand()
    async with stand.post({**CHAT, **fields}, headers=headers) as response:
        assert response.status == 200
    assert stand.engine.requests.decisions.latest()[-1].request.request_class == expected
    assert b"x-syshax-class" not in stand.gpu.requests[0].head.lower()


async def test_an_unknown_class_is_refused(make_stand: MakeStand) -> None:
    stand = await make_stand()
    async with stand.post(headers={"X-Syshax-Class": "gold"}) as response:
        assert response.status == 400
        assert (await _error(response))["code"] == "invalid_class"


async def test_a_stream_of_full_weights_never_moves_to_others(make_stand: MakeStand) -> None:
    stand = await make_stand(cpu_weights=Q8, movable=True)
    request = InferenceRequest(request_id="1", model="m", stream=True, full_weights=True)
    path = "/v1/chat/completions"
    asked = ClientRequest(
        id="1",
        route=path,
        method="POST",
        path=path,
        target=path,
        fields=RequestBody({}),
        inference=request,
        client=None,
        started_at_s=0.0,
    )
    examined = stand.engine._handover.examine(asked)
    assert (examined.whole_because, examined.movable) == ("the client asks for the full weights", False)


async def test_no_ready_instance_is_a_503_with_retry_after(make_stand: MakeStand) -> None:
    stand = await make_stand()
    stand.supervisor.become("gpu", State.STARTING)
    stand.supervisor.become("cpu", State.FAILED)
    async with stand.post() as response:
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
        assert (await _error(response))["type"] == "service_unavailable_error"
    assert stand.metrics.records[0].outcome is Outcome.REJECTED
    async with stand.session.get(stand.url + "/ready") as response:
        assert response.status == 503
        assert (await response.json())["instances"] == {"gpu": "STARTING", "cpu": "FAILED"}
    for path in ("/health", "/ping"):
        async with stand.session.get(stand.url + path) as response:
            assert response.status == 503
    async with stand.session.get(stand.url + "/live") as response:
        assert response.status == 200


async def _break_before_the_answer(request: Request) -> None:
    request.abort()


async def _break_after_the_head(request: Request) -> None:
    await request.send(SSE_HEAD)
    request.abort()


async def _break_inside_json(request: Request) -> None:
    await request.send(json_answer(ANSWER)[:-10])
    request.abort()


async def _engine_dead(request: Request) -> None:
    await request.send(json_answer(b'{"error":{"message":"EngineCore died"}}', "500 Internal Server Error"))


async def _not_http(request: Request) -> None:
    await request.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@pytest.mark.parametrize(
    "fault", [_break_before_the_answer, _break_after_the_head, _break_inside_json, _engine_dead, _not_http]
)
async def test_what_fails_before_the_first_byte_is_answered_by_the_other_instance(
    make_stand: MakeStand, fault: Callable[[Request], Awaitable[None]]
) -> None:
    stand = await make_stand()
    stand.gpu.answer = fault
    async with stand.post() as response:
        assert response.status == 200
        assert response.headers["x-syshax-placement"] == "cpu"
        assert await response.read() == ANSWER
    assert stand.supervisor.suspected == ["gpu"]
    record = stand.metrics.records[0]
    assert (record.placement, record.outcome, record.retries) == ("cpu", Outcome.OK, 1)


async def test_a_refused_connection_is_a_failure_too(make_stand: MakeStand) -> None:
    stand = await make_stand()
    await stand.gpu.__aexit__()
    async with stand.post() as response:
        assert response.headers["x-syshax-placement"] == "cpu"


async def test_when_both_fail_the_client_gets_a_502(make_stand: MakeStand) -> None:
    stand = await make_stand()
    stand.gpu.answer = stand.cpu.answer = _break_before_the_answer
    async with stand.post() as response:
        assert response.status == 502
        error = await _error(response)
    assert error["code"] == "instance_failed"
    assert "cpu" in error["message"]
    assert stand.metrics.records[0].outcome is Outcome.FAILED


async def test_the_last_instances_own_error_goes_out_as_it_is(make_stand: MakeStand) -> None:
    stand = await make_stand()
    stand.gpu.answer = stand.cpu.answer = _engine_dead
    async with stand.post() as response:
        assert response.status == 500
        assert await response.json() == {"error": {"message": "EngineCore died"}}


async def test_an_instances_4xx_is_the_answer(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def too_long(request: Request) -> None:
        await request.send(json_answer(b'{"error":{"message":"too long","code":400}}', "400 Bad Request"))

    stand.gpu.answer = too_long
    async with stand.post() as response:
        assert response.status == 400
        assert await response.json() == {"error": {"message": "too long", "code": 400}}
    assert not stand.cpu.requests
    assert not stand.supervisor.suspected
    assert stand.metrics.records[0].outcome is Outcome.CLIENT_ERROR


@pytest.mark.parametrize("torn", [b"", b"40\r\ndata: {", b"4"])
async def test_a_stream_that_breaks_ends_with_an_error_event(make_stand: MakeStand, torn: bytes) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        await request.send(SSE_HEAD + sse(b'{"i":1}', b'{"i":2}') + torn)
        request.abort()

    stand.gpu.answer = answer
    async with stand.post(CHAT | {"stream": True}) as response:
        events = (await response.read()).split(b"\n\n")
    assert events[:2] == [b'data: {"i":1}', b'data: {"i":2}']
    assert json.loads(events[2].removeprefix(b"data: "))["error"]["code"] == "instance_failed"
    assert events[3:] == [b""]
    assert stand.metrics.records[0].outcome is Outcome.FAILED
    async with stand.post(headers={"X-Syshax-Place": "cpu"}) as response:
        assert response.status == 200


async def test_a_stream_of_messages_that_breaks_ends_with_anthropics_error_event(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        await request.send(SSE_HEAD + sse(b'{"type":"message_start"}'))
        request.abort()

    stand.gpu.answer = answer
    async with stand.post(CHAT | {"stream": True}, path="/v1/messages") as response:
        events = (await response.read()).split(b"\n\n")
    name, data = events[1].split(b"\n")
    assert name == b"event: error"
    error = json.loads(data.removeprefix(b"data: "))
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")


async def test_a_silent_instance_is_given_up(make_stand: MakeStand) -> None:
    stand = await make_stand(silence_limit_s=0.5)

    async def silent(request: Request) -> None:
        await request.gone.wait()

    async def then_silent(request: Request) -> None:
        await request.send(SSE_HEAD + sse(b'{"i":1}'))
        await request.gone.wait()

    stand.gpu.answer = silent
    async with stand.post() as response:
        assert response.status == 504
        assert (await _error(response))["code"] == "instance_timeout"
    stand.gpu.answer = then_silent
    async with stand.post(CHAT | {"stream": True}) as response:
        assert b"silent" in await response.read()
    for request in stand.gpu.requests:
        await asyncio.wait_for(request.gone.wait(), 50)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_clients_disconnect_reaches_the_instance_and_frees_the_slot(
    make_stand: MakeStand, stream: bool
) -> None:
    stand = await make_stand()
    begun = asyncio.Event()

    async def answer(request: Request) -> None:
        if stream:
            await request.send(SSE_HEAD + sse(b'{"i":1}'))
        begun.set()
        await request.gone.wait()

    stand.gpu.answer = answer
    reader, writer = await stand.raw()
    body = json.dumps(CHAT | {"stream": stream}).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    if stream:
        await reader.readuntil(b"\n\n")
    await begun.wait()
    writer.close()
    await asyncio.wait_for(stand.gpu.requests[0].gone.wait(), 50)
    await stand.engine.drain(5)
    assert stand.engine.inflight == {"gpu": 0, "cpu": 0}
    assert [record.outcome for record in stand.metrics.records] == [Outcome.CLIENT_GONE]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_request_that_an_operator_cancels_gets_an_error(make_stand: MakeStand, path: str) -> None:
    stand = await make_stand()
    begun = asyncio.Event()

    async def answer(request: Request) -> None:
        begun.set()
        await request.gone.wait()

    stand.gpu.answer = answer
    asking = asyncio.create_task(_status_and_text(stand, path, {"X-Request-Id": "mine"}))
    await begun.wait()
    assert stand.engine.requests.cancel("other") == 0
    assert stand.engine.requests.cancel("mine") == 1
    status, text = await asking
    assert status == 503
    assert json.loads(text)["error"]["code"] == "cancelled"
    await stand.gpu.requests[0].gone.wait()
    assert stand.engine.inflight == {"gpu": 0, "cpu": 0}
    assert [record.outcome for record in stand.metrics.records] == [Outcome.CANCELLED]
    assert not stand.engine.requests.running


async def _status_and_text(stand: Stand, path: str, headers: dict[str, str]) -> tuple[int, str]:
    async with stand.post(path=path, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_a_stream_that_an_operator_cancels_loses_its_connection(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        await request.send(SSE_HEAD + sse(b'{"i":1}') + sse(b'{"i":2}'))
        await request.gone.wait()

    stand.gpu.answer = answer
    async with stand.post(CHAT | {"stream": True}, headers={"X-Request-Id": "mine"}) as got:
        await got.content.readuntil(b"\n\n")
        (running,) = stand.engine.requests.find("mine")
        assert running.tokens == 2
        assert stand.engine.requests.cancel("mine") == 1
        with pytest.raises(aiohttp.ClientPayloadError):
            await got.content.read()
    assert [record.outcome for record in stand.metrics.records] == [Outcome.CANCELLED]


async def test_a_request_that_waits_for_a_place_can_be_cancelled(make_stand: MakeStand) -> None:
    stand = await make_stand()
    placed = [
        stand.engine.place(InferenceRequest(request_id=f"l{number}", model="m", stream=False)) for number in range(9)
    ]
    assert all(isinstance(decision, RunOn) for decision, _ in placed)
    asking = asyncio.create_task(_status_and_text(stand, "/v1/chat/completions", {"X-Request-Id": "mine"}))
    while not stand.engine.queued:
        await asyncio.sleep(0)
    assert stand.engine.requests.cancel("mine") == 1
    assert (await asking)[0] == 503
    assert stand.engine.queued == 0
    for _, grant in placed:
        assert grant is not None
        grant.release()


async def test_a_slow_reader_slows_the_instance_instead_of_filling_memory(make_stand: MakeStand) -> None:
    stand = await make_stand()
    total = 64 * 1024 * 1024
    sent = 0
    piece = chunk(b"data: " + b"x" * 65_500 + b"\n\n")

    async def flood(request: Request) -> None:
        nonlocal sent
        await request.send(SSE_HEAD)
        while sent < total:
            await request.send(piece)
            sent += len(piece)
        await request.send(b"0\r\n\r\n")

    stand.gpu.answer = flood
    reader, writer = await stand.raw()
    body = json.dumps(CHAT | {"stream": True}).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await reader.readuntil(b"\r\n\r\n")
    before, turns = -1, 0
    while turns < 1000:  # of the loop, in which everything runs that could send or read
        turns = turns + 1 if sent == before else 0
        before = sent
        await asyncio.sleep(0)
    assert sent < total / 2
    received = 0
    while not (data := await reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
        received += len(data)
    assert received + len(data) >= total
    writer.close()


async def test_when_all_are_full_requests_wait_in_order_and_are_refused_over_the_limit(make_stand: MakeStand) -> None:
    stand = await make_stand(slots=1, max_queue_size=2)  # places: gpu 1 and a backlog of 1, cpu 1
    go = asyncio.Semaphore(0)
    arrived: list[str] = []

    async def answer(request: Request) -> None:
        arrived.append(json.loads(request.body)["user"])
        await go.acquire()
        await request.send(json_answer(ANSWER))

    stand.gpu.answer = stand.cpu.answer = answer

    async def ask(user: str) -> tuple[int, str]:
        async with stand.post(CHAT | {"user": user}) as response:
            await response.read()
            return response.status, response.headers.get("retry-after", "")

    asked = []
    for number in range(5):
        asked.append(asyncio.create_task(ask(str(number))))
        while sum(stand.engine.inflight.values()) + stand.engine.queued <= number:
            await asyncio.sleep(0)
    assert stand.engine.inflight == {"gpu": 2, "cpu": 1}
    assert stand.engine.queued == 2
    status, retry_after = await ask("one too many")
    assert status == 429
    assert int(retry_after) >= 1
    for place_freed in range(2):
        go.release()
        while len(arrived) < 4 + place_freed:
            await asyncio.sleep(0)
    assert arrived[3:] == ["3", "4"]
    for _ in range(3):
        go.release()
    assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 5
    assert stand.engine.inflight == {"gpu": 0, "cpu": 0}


async def test_a_request_that_waits_too_long_gets_a_503_and_leaves_the_queue(make_stand: MakeStand) -> None:
    stand = await make_stand(slots=1, max_queue_wait_s=0.05)
    go = asyncio.Event()
    stand.gpu.answer = stand.cpu.answer = answer_after(go)

    async def ask() -> int:
        async with stand.post() as response:
            return int(response.status)

    first = [asyncio.create_task(ask()) for _ in range(3)]
    while sum(stand.engine.inflight.values()) < 3:
        await asyncio.sleep(0)
    assert await ask() == 503
    assert stand.engine.queued == 0
    go.set()
    assert await asyncio.gather(*first) == [200] * 3


async def test_a_draining_instance_gets_nothing_new_and_is_told_when_it_is_empty(make_stand: MakeStand) -> None:
    stand = await make_stand()
    go = asyncio.Event()
    stand.gpu.answer = answer_after(go)

    async def ask() -> str:
        async with stand.post() as response:
            await response.read()
            return str(response.headers["x-syshax-placement"])

    running = asyncio.create_task(ask())
    while not stand.gpu.requests:
        await asyncio.sleep(0)
    stand.supervisor.become("gpu", State.DRAINING)
    assert await ask() == "cpu"
    assert stand.supervisor.drained_names == []
    go.set()
    assert await running == "gpu"
    assert stand.supervisor.drained_names == ["gpu"]


async def test_a_connection_that_the_instance_closed_while_idle_does_no_harm(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def answer_and_close(request: Request) -> None:
        await request.send(json_answer(ANSWER))
        request.close()

    stand.gpu.answer = answer_and_close
    for _ in range(5):
        async with stand.post() as response:
            assert response.headers["x-syshax-placement"] == "gpu"
    assert stand.supervisor.suspected == []


async def test_models_lists_what_the_instances_serve(make_stand: MakeStand) -> None:
    stand = await make_stand()
    async with stand.session.get(stand.url + "/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["m"]


async def test_one_model_is_found_by_its_id(make_stand: MakeStand) -> None:
    stand = await make_stand(catalog=lambda _: Catalog({"org/m": {"id": "org/m", "object": "model"}}))
    for path in ("org/m", "org%2Fm", "org/m?x=1"):
        async with stand.session.get(f"{stand.url}/v1/models/{path}") as response:
            assert (response.status, await response.json()) == (200, {"id": "org/m", "object": "model"})
    async with stand.session.get(f"{stand.url}/v1/models/other") as response:
        assert response.status == 404
        assert (await _error(response))["code"] == "model_not_found"


async def test_stop_lets_running_requests_end(make_stand: MakeStand) -> None:
    stand = await make_stand()
    go = asyncio.Event()
    stand.gpu.answer = answer_after(go)

    async def ask() -> bytes:
        async with stand.post() as response:
            return bytes(await response.read())

    running = asyncio.create_task(ask())
    while not stand.gpu.requests:
        await asyncio.sleep(0)
    idle, idle_writer = await stand.raw()
    stopping = asyncio.create_task(stand.gateway.stop(10.0))
    assert await idle.read() == b""  # nothing is being answered there
    idle_writer.close()
    assert not running.done()
    go.set()
    assert await running == ANSWER
    await stopping
    with pytest.raises(aiohttp.ClientError):
        await ask()


async def test_an_address_that_cannot_be_had_is_told_with_what_helps(make_stand: MakeStand) -> None:
    stand = await make_stand()
    gateway = Gateway(stand.engine, stand.metrics, stand.instances.status, limits=Limits(max_body_bytes=1000))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SyshaxError, match=rf"127\.0\.0\.1:{port}: the port is taken; find the program \(ss -ltnp\)"
        ):
            await gateway.start("127.0.0.1", port)
    with pytest.raises(SyshaxError, match=r"203\.0\.113\.1:8010: .*; set services\.conductor\.host to an address"):
        await gateway.start("203.0.113.1", 8010)


async def test_sockets_that_were_handed_over_are_served_beside_the_endpoint(
    make_stand: MakeStand, caplog: pytest.LogCaptureFixture
) -> None:
    stand = await make_stand()
    with socket.create_server(("127.0.0.1", 0)) as kept:
        port = kept.getsockname()[1]
        for configured, endpoint_is_kept in ((port, True), (0, False)):
            caplog.clear()
            gateway = Gateway(stand.engine, stand.metrics, stand.instances.status, limits=Limits(max_body_bytes=1000))
            url = await gateway.start("127.0.0.1", configured, [kept.dup()])
            waiting = asyncio.create_task(stand.session.get(f"http://127.0.0.1:{port}/health"))
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
            await gateway.serve_handed()
            assert (await waiting).status == 200
            assert url.endswith(f":{port}") is endpoint_is_kept
            assert ("syshaxd.socket" in caplog.text) is not endpoint_is_kept
            for base in {url, f"http://127.0.0.1:{port}"}:
                async with stand.session.get(f"{base}/health") as response:
                    assert response.status == 200
            await gateway.stop(0.0)


async def test_a_connection_that_was_just_accepted_gets_its_answer_before_a_stop(make_stand: MakeStand) -> None:
    stand = await make_stand()
    _, used = await stand.raw()
    reader, writer = await stand.raw()
    while stand.gateway.connections < 2:
        await asyncio.sleep(0.001)
    stopping = asyncio.create_task(stand.gateway.stop(5.0))
    await asyncio.sleep(0)
    body = json.dumps(CHAT).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert (await reader.readline()).split()[1] == b"200"
    await stopping
    for each in (used, writer):
        each.close()
