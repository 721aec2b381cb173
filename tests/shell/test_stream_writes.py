# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the client of a movable stream gets leaves in few writes: each is a system call, and wakes the client."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.wire.http1 import Dechunker, chunk, parse_response_head
from syshaxd.serving.request import Flow, Request
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.delivery import Delivery
from syshaxd.serving.runner.relay import MovableRelay

CHAT = "/v1/chat/completions"
HEAD = parse_response_head(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked")
ROLE = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":[1,2]}\n\n'
)
TOKEN = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"a"},"logprobs":null,"finish_reason":%b,"token_ids":[%d]}]}\n\n'
)
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Client:
    """Keeps each write."""

    http10: bool = False
    answer_lines: bytes = b""
    writes: list[bytes] = field(default_factory=list)

    def attach(self, flow: Flow) -> None:
        """Downstream: never full."""

    def detach(self) -> None:
        """Downstream: never full."""

    def writer(self) -> Callable[[bytes], None]:
        """Downstream."""
        return self.writes.append

    def abort(self) -> None:
        """Downstream: no test here ends so."""
        raise NotImplementedError


@pytest.mark.parametrize("http10", [False, True])
async def test_a_head_leaves_with_the_first_events_and_the_last_event_with_the_end(http10: bool) -> None:
    loop = asyncio.get_running_loop()
    client = Client(http10)
    request = Request(id="r", route=CHAT, method="POST", path=CHAT, target=CHAT, client=client, started_at_s=0.0)
    answer = ClientAnswer(request, clock=loop.time)
    joined = JoinedAnswer(CHAT, {"stream": True})
    relay = MovableRelay(answer, request, loop.create_future(), joined=joined, last_try=False, paused=False)
    delivery = Delivery(answer, joined)
    delivery.head = HEAD

    relay.head(HEAD)
    assert client.writes == []
    relay.body(chunk(ROLE) + chunk(TOKEN % (b"null", 5)), whole=True)
    assert len(client.writes) == 1
    for number in (6, 7):
        data = chunk(TOKEN % (b"null", number))
        if not relay.chunk(data):
            relay.body(data, whole=True)
    relay.body(chunk(TOKEN % (b'"stop"', 8)), whole=True)
    assert len(client.writes) == 4
    relay.body(chunk(DONE) + b"0\r\n\r\n", whole=True)
    relay.end()
    delivery.finish()
    assert len(client.writes) == 5

    head, _, body = b"".join(client.writes).partition(b"\r\n\r\n")
    assert b"event-stream" in head
    told = body if http10 else Dechunker().feed(body)
    assert http10 or body.endswith(b"0\r\n\r\n")
    assert told.split(b"\n\n")[1:] == [TOKEN.replace(b"[%d]", b"null").strip() % b"null"] * 3 + [
        TOKEN.replace(b"[%d]", b"null").strip() % b'"stop"',
        DONE.strip(),
        b"",
    ]
