# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Clients' connections as they begin: plain requests on the two hot routes are read here, in a third of the time.

The first request that is anything else hands its connection over to the full HTTP server (front.py), for good.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from syshaxd.core.http1 import HotRequest, parse_hot_request
from syshaxd.runner import Flow

# More of a pipelining client's bytes are left in the socket.
_MAX_AHEAD_BYTES = 64 * 1024


class HotHandler(Protocol):
    """What answers hot requests, and where the others go."""

    max_body_bytes: int
    connections: "set[HotConnection]"
    stopping: bool
    """Connections are closed as soon as nothing is being answered on them."""

    def serve_hot(self, client: "HotConnection", request: HotRequest, body: bytes) -> Coroutine[Any, Any, None]:
        """Answers one request, then calls the client's `served`, whatever happens."""

    def full_protocol(self) -> asyncio.Protocol:
        """A protocol of the full HTTP server."""


class HotConnection(asyncio.Protocol):
    """A client's connection (a `Downstream`)."""

    __slots__ = (
        "_ahead",
        "_flow",
        "_handler",
        "_incomplete",
        "_loop",
        "_missing",
        "_paused",
        "_task",
        "_transport",
        "fresh",
        "idle_since_s",
    )

    http10 = False

    def __init__(self, handler: HotHandler, loop: asyncio.AbstractEventLoop) -> None:
        self._handler = handler
        self._loop = loop
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None] | None = None
        self._flow: Flow | None = None
        self._paused = False
        self._ahead: list[bytes] = []
        self._incomplete: HotRequest | None = None
        self._missing = 0
        self.idle_since_s = loop.time()
        self.fresh = True
        """No request has begun on it yet."""

    @property
    def busy(self) -> bool:
        """A request is being answered."""
        return self._task is not None

    def close(self) -> None:
        """Closes the connection; what is being answered on it is cancelled."""
        self._transport.close()

    # Downstream.

    def attach(self, flow: Flow) -> None:
        """The flow is told when to pause and resume."""
        self._flow = flow
        if self._paused:
            flow.pause()

    def detach(self) -> None:
        """The flow is over."""
        self._flow = None

    def writer(self) -> Callable[[bytes], None]:
        """Sends bytes."""
        return self._transport.write

    def abort(self) -> None:
        """Drops the connection without a proper end."""
        self._transport.abort()

    # asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._handler.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: nobody wants the answer."""
        self._handler.connections.discard(self)
        if self._flow is not None:
            self._flow.cancel()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client's socket is full."""
        self._paused = True
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """The client's socket has room again."""
        self._paused = False
        if self._flow is not None:
            self._flow.resume()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        self.fresh = False
        if self._task is not None:
            self._ahead.append(data)
            if sum(map(len, self._ahead)) > _MAX_AHEAD_BYTES:
                self._transport.pause_reading()
            return
        request = self._incomplete
        if request is not None:
            self._ahead.append(data)
            if len(data) < self._missing:
                self._missing -= len(data)
                return
            data = b"".join(self._ahead)
            self._ahead.clear()
            self._incomplete = None
        else:
            request = parse_hot_request(data)
            if request is None or request.length > self._handler.max_body_bytes:
                self._hand_over(data)
                return
        end = request.body_start + request.length
        if len(data) < end:
            self._incomplete = request
            self._missing = end - len(data)
            self._ahead.append(data)
            return
        if len(data) > end:
            self._ahead.append(data[end:])
        body = data[request.body_start : end]
        self._task = self._loop.create_task(self._handler.serve_hot(self, request, body))

    def served(self, *, keep_alive: bool) -> None:
        """The answer has been sent: the next request may be read."""
        self._task = None
        if self._transport.is_closing():
            return
        if not keep_alive or self._handler.stopping:
            self._transport.close()
            return

        self.idle_since_s = self._loop.time()
        if self._ahead:
            data = b"".join(self._ahead)
            self._ahead.clear()
            self._transport.resume_reading()
            self.data_received(data)

    def _hand_over(self, data: bytes) -> None:
        self._handler.connections.discard(self)
        protocol = self._handler.full_protocol()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)
