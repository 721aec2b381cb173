# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What an instance does wrong has one outcome, whether or not the stream could move; the client can always tell."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from syshaxd.core.placement.records import Outcome
from syshaxd.core.wire.http1 import LAST_CHUNK, chunk
from tests.fakes.gateway import ANSWER, MakeStand, Stand, stands
from tests.fakes.instance import SSE_HEAD, Request, json_answer, sse, stream_answer
from tests.fakes.rawclient import Got, ask

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PLAIN_HEAD = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\nretry-after: 3\r\n\r\n"
Answers = Callable[[Request], Awaitable[None]]


@pytest.fixture(params=[False, True], ids=["relayed", "movable"])
async def stand(request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    """A gateway whose instances can, or cannot, hand over to each other."""
    async with stands() as make:
        make_stand: MakeStand = make
        made = await make_stand(movable=request.param, silence_limit_s=0.5)
        yield made
        while made.engine.unreleased():
            await asyncio.sleep(0.001)


def event(text: str, number: int, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, "token_ids": [number]}
    told = {"id": "one", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]}
    return json.dumps(told, separators=(",", ":")).encode()


ROLE = json.dumps(
    {
        "id": "one",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        "prompt_token_ids": [1, 2],
    },
    separators=(",", ":"),
).encode()
WHOLE = (ROLE, event("a", 5), event("b", 6), event("", 7, "stop"))


def error_event(code: Any = 500) -> bytes:
    return json.dumps({"error": {"message": "EngineCore\x1b[2J died", "type": "E", "code": code}}).encode()


def text_of(got: Got) -> str:
    choices = [told["choices"][0] for told in got.events() if isinstance(told, dict) and told.get("choices")]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def sends(*pieces: bytes, breaks: bool = False) -> Answers:
    """Answers with these bytes, each in a read of its own as far as that can be had; then the connection may break."""

    async def answer(request: Request) -> None:
        for piece in pieces:
            await request.send(piece)
            await asyncio.sleep(0)
        if breaks:
            reset(request.transport)

    return answer


def reset(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def other(request: Request) -> None:
    await request.send(stream_answer(ROLE, event("other", 5), event("", 7, "stop")))


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("before", [(), (b": ping\n\n",)])
async def test_an_error_as_the_first_event_is_as_a_5xx(stand: Stand, version: str, before: tuple[bytes, ...]) -> None:
    stand.gpu.answer = sends(SSE_HEAD + b"".join(map(chunk, before)) + sse(error_event(), b"[DONE]") + LAST_CHUNK)
    stand.cpu.answer = other
    got = await ask(stand.url, CHAT, BODY, version=version)
    if before:
        return  # a comment has gone out
    assert (got.status, text_of(got), got.headers["x-syshax-placement"]) == (200, "other", "cpu")
    assert stand.supervisor.suspected == ["gpu"]
    stand.cpu.answer = stand.gpu.answer
    got = await ask(stand.url, CHAT, BODY, version=version)
    assert got.status == 502
    message = json.loads(got.body)["error"]["message"]
    assert "EngineCore" in message
    assert "\x1b" not in message
    assert stand.metrics.records[-1].outcome is Outcome.FAILED


@pytest.mark.parametrize(("interim", "placement"), [(1, "gpu"), (100, "gpu"), (101, "cpu"), (100_000, "cpu")])
async def test_interim_answers_have_a_limit(stand: Stand, interim: int, placement: str) -> None:
    stand.gpu.answer = sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" * interim + json_answer(b"{}"))
    stand.cpu.answer = sends(json_answer(b"{}"))
    for _ in range(2):  # also over a kept connection
        got = await ask(stand.url, CHAT, BODY)
        assert (got.status, got.headers["x-syshax-placement"]) == (200, placement)


async def test_an_error_of_the_clients_as_the_first_event_is_the_answer(stand: Stand) -> None:
    stand.gpu.answer = sends(SSE_HEAD + sse(error_event(400), b"[DONE]") + LAST_CHUNK)
    got = await ask(stand.url, CHAT, BODY)
    assert (got.status, got.complete) == (200, True)
    assert got.events()[0]["error"]["code"] == 400
    assert not stand.cpu.requests
    assert stand.supervisor.suspected == []
    assert stand.metrics.records[-1].outcome is Outcome.CLIENT_ERROR


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("torn", [b"", b"40\r\ndata: {", b"4"])
async def test_a_whole_answer_that_lacks_its_last_words_is_completed(stand: Stand, version: str, torn: bytes) -> None:
    stand.gpu.answer = sends(SSE_HEAD + sse(*WHOLE), torn, breaks=True)
    got = await ask(stand.url, CHAT, BODY, version=version)
    assert got.complete
    assert (text_of(got), got.events()[-1]) == ("ab", "[DONE]")
    assert got.events()[-2]["choices"][0]["finish_reason"] == "stop"
    assert stand.metrics.records[-1].outcome is Outcome.OK
    assert not stand.cpu.requests


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stream_that_breaks_with_nobody_to_go_on_ends_with_an_error_event(stand: Stand, version: str) -> None:
    stand.gpu.answer = sends(SSE_HEAD + sse(*WHOLE[:-1]), breaks=True)
    stand.cpu.answer = sends(json_answer(b"{}", "500 Oops"))
    got = await ask(stand.url, CHAT, BODY, version=version)
    assert text_of(got).startswith("ab")
    assert got.events()[-1]["error"]["code"] == "instance_failed"
    assert stand.metrics.records[-1].outcome is Outcome.FAILED


@pytest.mark.parametrize("framed", [True, False], ids=["length", "close"])
async def test_a_stream_of_an_old_instance_that_breaks_is_no_whole_one(stand: Stand, framed: bool) -> None:
    head = PLAIN_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: 5000\r\n\r\n") if framed else PLAIN_HEAD
    stand.cpu.answer = sends(json_answer(b"{}", "500 Oops"))
    body = b"".join(b"data: " + told + b"\n\n" for told in WHOLE[:-1])
    for breaks in (True, False):

        async def answer(request: Request, breaks: bool = breaks) -> None:
            await request.send(head + body)
            reset(request.transport) if breaks else request.close()

        stand.gpu.answer = answer
        got = await ask(stand.url, CHAT, BODY)
        assert b"[DONE]" not in got.body
        assert not got.complete or b'"error"' in got.body
        assert stand.metrics.records[-1].outcome is Outcome.FAILED


async def test_a_stream_of_an_old_instance_comes_through(stand: Stand) -> None:
    async def answer(request: Request) -> None:
        await request.send(PLAIN_HEAD + b"".join(b"data: " + told + b"\n\n" for told in (*WHOLE, b"[DONE]")))
        request.close()

    stand.gpu.answer = answer
    got = await ask(stand.url, CHAT, BODY)
    assert (got.complete, text_of(got), got.events()[-1]) == (True, "ab", "[DONE]")
    assert got.headers["retry-after"] == "3"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_chunk_over_a_mebibyte_comes_whole_or_is_seen_to_be_cut(stand: Stand, version: str) -> None:
    long = event("x" * 2_500_000, 6)
    data = SSE_HEAD + sse(ROLE, event("a", 5), long, event("", 7, "stop"), b"[DONE]") + LAST_CHUNK
    stand.gpu.answer = sends(*(data[at : at + 300_000] for at in range(0, len(data), 300_000)))
    got = await ask(stand.url, CHAT, BODY, version=version)
    assert got.complete
    assert len(text_of(got)) == 2_500_001
    stand.cpu.answer = sends(json_answer(b"{}", "500 Oops"))
    stand.gpu.answer = sends(data[:1_900_000], breaks=True)
    got = await ask(stand.url, CHAT, BODY, version=version)
    assert not got.complete or got.body.endswith(b"\n\n")
    assert b"[DONE]" not in got.body
    assert stand.metrics.records[-1].outcome is Outcome.FAILED


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("coding", ["length", "chunked", "close"])
async def test_json_that_breaks_over_the_limit_ends_in_a_reset(stand: Stand, version: str, coding: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    body = b'{"x":"' + b"y" * 6_000_000
    if coding == "length":
        head += b"content-length: 9000000\r\n"
    elif coding == "chunked":
        head += b"transfer-encoding: chunked\r\n"
        body = b"".join(chunk(body[at : at + 50_000]) for at in range(0, len(body), 50_000))

    async def answer(request: Request) -> None:
        await request.send(head + b"\r\n" + body)
        while not any(running.status for running in stand.engine.requests.running):
            await asyncio.sleep(0.001)  # until the client has got some of it
        reset(request.transport)

    stand.gpu.answer = answer
    got = await ask(stand.url, CHAT, BODY | {"stream": False}, version=version)
    assert not got.complete
    assert stand.metrics.records[-1].outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 O\nSet-Cookie: evil=1\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 O\rK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 O\0K\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nx: a\nSet-Cookie: evil=1\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: " + b"1" * 5000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n{}",
    ],
)
async def test_a_damaged_head_does_not_reach_the_client(
    stand: Stand, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stand.gpu.answer = stand.cpu.answer = sends(head)
    got = await ask(stand.url, CHAT, BODY)
    assert got.status == 502
    assert "evil" not in str(got.headers)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_of_the_hop_end_there_and_all_others_reach_the_client(stand: Stand, stream: bool) -> None:
    more = (
        b"retry-after: 3\r\nset-cookie: a=b\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n"
    )
    whole = stream_answer(*WHOLE) if stream else json_answer(ANSWER)
    stand.gpu.answer = sends(whole.replace(b"\r\n", b"\r\n" + more, 1))
    got = await ask(stand.url, CHAT, BODY | {"stream": stream})
    assert (got.headers["retry-after"], got.headers["set-cookie"]) == ("3", "a=b")
    assert {"x-hop", "keep-alive"}.isdisjoint(got.headers)


async def test_a_fault_is_told_in_bounds_and_without_its_control_characters(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    async def endless(request: Request) -> None:
        await request.send(
            b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\ncontent-length: 900000000\r\n\r\n\x1b[2J\n"
        )
        while not request.gone.is_set():
            await request.send(b"x" * 50_000)

    stand.gpu.answer = stand.cpu.answer = endless
    got = await ask(stand.url, CHAT, BODY)
    assert got.status == 502
    assert len(got.body) < 1000
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1000


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_silent_instance_is_given_up(stand: Stand, version: str) -> None:
    async def silent(request: Request) -> None:
        await request.send(SSE_HEAD + sse(ROLE, event("a", 5)))
        await request.gone.wait()

    stand.gpu.answer = silent
    stand.cpu.answer = sends(json_answer(b"{}", "500 Oops"))
    got = await ask(stand.url, CHAT, BODY, version=version)
    assert text_of(got).startswith("a")
    assert "error" in got.events()[-1]


async def test_a_clients_next_request_comes_over_the_same_connection(stand: Stand) -> None:
    stand.gpu.answer = sends(stream_answer(*WHOLE))
    for _ in range(3):
        async with stand.post(BODY) as response:
            assert response.headers.get("connection") is None
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
    assert stand.gpu.connections == 1
