# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Connections to instances: an HTTP/1.1 client that parses heads only and passes bodies on as they come.

aiohttp's client costs 110 us more a request and twice the CPU time of a streamed chunk (docs/decisions.md).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from syshaxd.core.address import Address
from syshaxd.core.errors import DaemonUnavailableError, InstanceFailedError
from syshaxd.core.wire.http1 import (
    MAX_HEAD_BYTES,
    ProtocolError,
    ResponseHead,
    chunk_size,
    complete_chunks,
    parse_response_head,
)
from syshaxd.system.connecting import why_no_connection
from syshaxd.system.descriptors import is_own_shortage

# uvicorn closes a connection that is idle for 5 s: be earlier.
IDLE_LIMIT_S = 4.0
# A chunk is passed on whole, so that an error can be added after it; one over this size goes in pieces.
MAX_HELD_BYTES = 1024 * 1024
# Up to here copying costs less than writing two pieces.
MAX_JOINED_BYTES = 16 * 1024
_MAX_INTERIM = 100


class Sink(Protocol):
    """Takes one response. After `end` or `failed` nothing more comes."""

    __slots__ = ()

    def head(self, head: ResponseHead) -> None:
        """The response's head has come."""

    def chunk(self, data: bytes) -> bool:
        """What begins with a chunk has come. True: it was one whole chunk, and is taken; else it goes to `body`."""

    def body(self, data: bytes, *, whole: bool) -> None:
        """Body bytes, with their chunk framing if the head says chunked; `whole`: they end with a whole chunk."""

    def end(self) -> None:
        """The response is complete."""

    def failed(self, error: InstanceFailedError) -> None:
        """The instance broke off, or does not speak HTTP."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an instance, for one request at a time."""

    __slots__ = (
        "_bodiless",
        "_chunk",
        "_head",
        "_held",
        "_interim",
        "_left",
        "_paused",
        "_pool",
        "_sink",
        "_take",
        "_transport",
        "idle_since_s",
    )

    def __init__(self, pool: "UpstreamPool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._head: ResponseHead | None = None
        self._interim = 0
        self._take: Callable[[bytes], None] = self._start  # what comes next
        self._chunk: Callable[[bytes], bool] | None = None  # the sink's, where a chunk may begin
        self._held = b""
        self._left = 0  # of a body with a length, or of a chunk that is passed on in pieces
        self._bodiless = False
        self._paused = False
        self.idle_since_s = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def request(self, head: bytes, body: bytes, sink: Sink, *, bodiless: bool) -> None:
        """Sends a request; its response goes to `sink`. `bodiless`: it has no body, whatever its head says (HEAD)."""
        assert self._transport is not None
        assert self._sink is None
        self._sink = sink
        self._bodiless = bodiless
        self._interim = 0
        if len(body) < MAX_JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def abort(self) -> None:
        """Drops the connection at once, without telling the sink; the instance cancels its work on the request."""
        self._sink = self._chunk = None
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """The client can't take more."""
        if self.usable and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The client takes more again."""
        if self.usable and self._paused:
            assert self._transport is not None
            self._paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is up."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        self._pool.forget(self)
        sink, self._sink = self._sink, None
        self._chunk = None
        if sink is None:
            return
        head = self._head
        if exc is None and head is not None and not head.chunked and head.content_length is None:
            sink.end()
        else:
            sink.failed(InstanceFailedError(f"the connection broke: {exc or 'closed by the instance'}"))

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of the response."""
        if self._chunk is not None and not self._held and self._chunk(data):
            return
        if self._sink is None:  # an instance that answers unasked is not to be trusted with a request
            self.abort()
            return
        if self._held:
            data = self._held + data
            self._held = b""
        try:
            self._take(data)
        except ProtocolError as error:
            sink = self._sink
            self.abort()
            if sink is not None:
                sink.failed(InstanceFailedError(f"the instance's answer is not HTTP/1.1: {error}"))

    def _start(self, data: bytes) -> None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise ProtocolError("the head has no end")
                self._held = data
                return
            head = parse_response_head(data[:end])
            data = data[end + 4 :]
            if head.status >= 200:
                break  # before it came an interim answer, such as 100
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise ProtocolError(f"more than {_MAX_INTERIM} interim answers")
        assert self._sink is not None
        self._head = head
        self._sink.head(head)
        if self._bodiless or head.status in {204, 304} or head.content_length == 0:
            self._end(reusable=not data)
            return
        self._left = head.content_length or 0
        if head.chunked:
            self._expect_chunks(self._sink)
        else:
            self._take = self._take_rest if head.content_length is None else self._take_length
        if data:
            self._take(data)

    def _expect_chunks(self, sink: Sink) -> None:
        self._take = self._take_chunks
        self._chunk = sink.chunk

    def _take_rest(self, data: bytes) -> None:
        """A body that ends with the connection."""
        if self._sink is not None:
            self._sink.body(data, whole=True)

    def _take_length(self, data: bytes) -> None:
        """A body whose length the head told."""
        if self._sink is None:
            return
        extra = len(data) - self._left
        if extra < 0:
            self._left -= len(data)
            self._sink.body(data, whole=True)
        else:
            self._sink.body(data[: self._left] if extra else data, whole=True)
            self._end(reusable=not extra)

    def _take_piece(self, data: bytes) -> None:
        """A chunk that is too large to be held."""
        sink = self._sink
        if sink is None:
            return
        if len(data) < self._left:
            self._left -= len(data)
            sink.body(data, whole=False)
            return
        sink.body(data[: self._left], whole=True)
        self._expect_chunks(sink)
        if len(data) > self._left:
            self._take_chunks(data[self._left :])

    def _take_chunks(self, data: bytes) -> None:
        """A chunked body."""
        sink = self._sink
        if sink is None:
            return
        whole, ended = complete_chunks(data)
        if ended:
            sink.body(data[:whole], whole=True)
            self._end(reusable=whole == len(data))
        elif whole == len(data):
            if whole:
                sink.body(data, whole=True)
        else:
            if whole:
                sink.body(data[:whole], whole=True)
                data = data[whole:]
            if len(data) <= MAX_HELD_BYTES:
                self._held = data
            else:
                line_end = data.index(b"\r\n")
                self._left = line_end + 4 + chunk_size(data[:line_end]) - len(data)
                self._take, self._chunk = self._take_piece, None
                sink.body(data, whole=False)

    def _end(self, *, reusable: bool) -> None:
        sink, self._sink = self._sink, None
        head, self._head = self._head, None
        self._take, self._chunk = self._start, None
        assert head is not None
        if reusable and head.keep_alive and self.usable:
            self.resume_reading()
            self._pool.give_back(self)
        elif self._transport is not None:
            self._transport.close()
        if sink is not None:
            sink.end()


class UpstreamPool:
    """Keep-alive connections to one instance, the latest used first."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self._address = address
        self._loop = loop
        self._idle: list[UpstreamConnection] = []

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None: then `connect`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self, timeout_s: float) -> UpstreamConnection:
        """A new connection, within so many seconds.

        Raises:
            InstanceFailedError: Refused, unreachable or too slow.
            UnavailableError: The daemon itself lacks what it needs.
        """
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self), self._address.host, self._address.port
                )
        except TimeoutError:
            raise InstanceFailedError(f"no connection within {timeout_s:g} s", reached=False) from None
        except (OSError, UnicodeError) as error:
            if is_own_shortage(error):
                raise DaemonUnavailableError(
                    "syshaxd itself lacks descriptors or memory for a connection to an instance", retry_after_s=1.0
                ) from error
            why = why_no_connection(error, self._address.host)
            raise InstanceFailedError(f"no connection: {why}", reached=False) from None
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """The connection's response is complete: it may be used again."""
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close_idle(self, older_than_s: float = 0.0) -> None:
        """Closes connections that have been idle for so long."""
        limit = self._loop.time() - older_than_s
        keep = [connection for connection in self._idle if connection.idle_since_s > limit]
        stale = [connection for connection in self._idle if connection.idle_since_s <= limit]
        self._idle = keep
        for connection in stale:
            connection.abort()
