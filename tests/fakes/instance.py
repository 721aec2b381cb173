# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance that answers with exactly the bytes, breaks and pauses that the test says."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from syshaxd.core.http1 import LAST_CHUNK, chunk
from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind

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


@dataclass
class Request:
    """One request as the instance got it, and the connection to answer on."""

    head: bytes
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the other side has closed the connection."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def abort(self) -> None:
        self.writer.transport.abort()


Answer = Callable[[Request], Awaitable[None]]


class FakeInstance:
    """Serves one port; every request goes to `answer`."""

    def __init__(self, name: str, role: Role, answer: Answer) -> None:
        self.answer = answer
        self.name = name
        self._role = role
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests: list[Request] = []
        self.connections = 0

    async def __aenter__(self) -> "FakeInstance":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spec(self, max_num_seqs: int = 4) -> InstanceSpec:
        return InstanceSpec(
            name=self.name,
            role=self._role,
            device=Device.CPU,
            runtime=RuntimeKind.EXTERNAL,
            model="m",
            served_model="m",
            host="127.0.0.1",
            port=self.port,
            max_num_seqs=max_num_seqs,
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not reader.at_eof():
                request = await self._read(reader, writer)
                self.requests.append(request)
                answering = asyncio.ensure_future(self.answer(request))
                # Nobody pipelines here: a byte or an end while it is answered means that the other side went away.
                watching = asyncio.ensure_future(reader.read(1))
                self._tasks |= {answering, watching}
                await asyncio.wait([answering, watching], return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    request.gone.set()
                watching.cancel()
                await answering
        with suppress(Exception):
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        return Request(head, await reader.readexactly(length), writer)
