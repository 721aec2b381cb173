# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance that answers with exactly the bytes, breaks and pauses that the test says."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from syshaxd.core.types import InstanceSpec, Role
from syshaxd.core.wire.http1 import LAST_CHUNK, chunk
from tests.fakes.specs import external_spec

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def json_answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status.encode(),
        len(body),
        body,
    )


def sse(*events: bytes) -> bytes:
    return b"".join(chunk(b"data: " + event + b"\n\n") for event in events)


def stream_answer(*events: bytes) -> bytes:
    return SSE_HEAD + sse(*events, b"[DONE]") + LAST_CHUNK


@dataclass(eq=False)
class Request:
    """One request as the instance got it, and the connection to answer on."""

    head: bytes
    body: bytes
    transport: asyncio.Transport
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the connection is lost."""
    writable: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        await self.writable.wait()

    def abort(self) -> None:
        self.transport.abort()

    def close(self) -> None:
        self.transport.close()


Answer = Callable[[Request], Awaitable[None]]


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, instance: "FakeInstance") -> None:
        self._instance = instance
        self._buffer = b""
        self._current: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._instance.transports.add(transport)
        self._instance.connections += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end or self._current is not None:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._current = Request(head + end, rest[:length], self._transport)
        self._current.writable.set()
        self._instance.requests.append(self._current)
        task = asyncio.ensure_future(self._instance.answer(self._current))
        self._instance.tasks.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._instance.tasks.discard(task)
        self._current = None
        self._next()

    def pause_writing(self) -> None:
        if self._current is not None:
            self._current.writable.clear()

    def resume_writing(self) -> None:
        if self._current is not None:
            self._current.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._instance.transports.discard(self._transport)
        if self._current is not None:
            self._current.gone.set()
            self._current.writable.set()


class FakeInstance:
    """Serves one port; every request goes to `answer`."""

    def __init__(self, name: str, role: Role, answer: Answer) -> None:
        self.answer = answer
        self.name = name
        self._role = role
        self.tasks: set[asyncio.Future[None]] = set()
        self.transports: set[asyncio.Transport] = set()
        self.requests: list[Request] = []
        self.connections = 0

    async def __aenter__(self) -> "FakeInstance":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for transport in list(self.transports):
            transport.abort()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spec(self, max_num_seqs: int = 4) -> InstanceSpec:
        return external_spec(self.name, role=self._role, port=self.port, max_num_seqs=max_num_seqs)
