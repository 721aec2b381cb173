# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One client's connection: aiohttp's, to which a relay can write directly, and which knows what it is waiting for."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from syshaxd.core.wire.openai import error_body
from syshaxd.gateway.errors import Answer
from syshaxd.gateway.limits import Limits
from syshaxd.serving.runner import Flow

# A client that was told to go has so long to take its last answer.
_CLOSING_LIMIT_S = 5.0
# aiohttp's own timer would cut requests that are arriving; connections are swept instead.
_NEVER_S = 1e8

# SO_LINGER: on, for no time.
_RESET = struct.pack("ii", 1, 0)


class Phase(Enum):
    """What a connection is waiting for."""

    IDLE = auto()
    """The next request."""
    HEAD = auto()
    """The rest of a request's head."""
    BODY = auto()
    """The rest of its body."""
    ANSWER = auto()
    """An instance, or the daemon."""
    FLUSH = auto()
    """The client, to take the end of its answer."""
    CLOSING = auto()
    """The client, to take what is left before the connection is closed."""


class ConnectionOwner(Protocol):
    """Who counts the connections, and decides which to refuse."""

    limits: Limits
    clock: Callable[[], float]

    def opened(self, connection: "ClientConnection") -> None:
        """A client has connected."""

    def closed(self, connection: "ClientConnection") -> None:
        """It is gone."""


class ClientConnection(RequestHandler):
    """A client's connection (a `Downstream`)."""

    __slots__ = (
        "_body",
        "_body_began_bytes",
        "_flow",
        "_owner",
        "_received_bytes",
        "_seen_at_s",
        "_seen_bytes",
        "_since_s",
        "_socket_transport",
        "answer_begun",
        "answer_lines",
        "fresh",
        "http10",
        "phase",
        "refused",
    )

    def __init__(self, manager: web.Server, owner: ConnectionOwner, **kwargs: Any) -> None:
        super().__init__(manager, keepalive_timeout=_NEVER_S, **kwargs)
        self._owner = owner
        self._socket_transport: asyncio.Transport
        self._flow: Flow | None = None
        self._body: StreamReader | None = None
        self._received_bytes = self._body_began_bytes = self._seen_bytes = 0
        self._since_s = self._seen_at_s = owner.clock()
        self.phase = Phase.IDLE
        self.http10 = False
        self.answer_lines = b""
        self.answer_begun = False
        """Bytes of the present request's answer may have gone out."""
        self.fresh = True
        """Nothing has come from the client yet."""
        self.refused = False
        """There are too many connections: its only answer will say so."""

    # Downstream.

    def attach(self, flow: Flow) -> None:
        """Downstream: the relay is told when to pause and resume."""
        self._flow = flow
        if self.writing_paused:
            flow.pause()

    def detach(self) -> None:
        """Downstream: the relay is over."""
        self._flow = None

    def writer(self) -> Callable[[bytes], None]:
        """Downstream: the function that sends bytes. From now on no other answer may be sent."""
        self.answer_begun = True
        return self._socket_transport.write

    def abort(self) -> None:
        """Downstream: resets the connection. A mere end would be that of a whole answer to an HTTP/1.0 client."""
        sock = self._socket_transport.get_extra_info("socket")
        if sock is not None and not self._socket_transport.is_closing():
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket_transport.abort()

    # The request that is on it.

    def begin(self, request: web.BaseRequest) -> None:
        """A request's head has come."""
        self.http10 = request.version < (1, 1)
        self.answer_begun = False
        self._enter(Phase.ANSWER)

    def proceed(self) -> None:
        """Tells the client to send its body."""
        self._socket_transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def begin_body(self, body: StreamReader) -> None:
        """Its body is being read."""
        self._body = body
        self._enter(Phase.BODY)
        self._body_began_bytes = self._seen_bytes = self._received_bytes
        self._seen_at_s = self._since_s

    def end_body(self) -> None:
        """Its body has come."""
        self._body = None
        self._enter(Phase.ANSWER)

    async def flush(self) -> None:
        """The answer has been written: returns when the client has taken so much of it that the next may follow."""
        if self.writing_paused:
            self._enter(Phase.FLUSH)
            await self._drain_helper()

    def end(self) -> None:
        """The request is over."""
        self._body = None
        self._enter(Phase.IDLE)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._since_s = self._owner.clock()

    # Limits.

    @property
    def busy(self) -> bool:
        """A request is arriving or being answered."""
        return self.phase is not Phase.IDLE

    def hang_up(self) -> None:
        """Closes the connection, after what has been written; what is being answered on it is cancelled."""
        self._enter(Phase.CLOSING)
        self._socket_transport.close()

    def check(self, now_s: float) -> None:
        """Ends the connection if the client has used up its time."""
        limits = self._owner.limits
        waited_s = now_s - self._since_s
        if self._socket_transport.is_closing():
            if self.phase is not Phase.CLOSING:
                self._enter(Phase.CLOSING)
            elif waited_s > _CLOSING_LIMIT_S:
                self.abort()
            return
        match self.phase:
            case Phase.IDLE if waited_s > limits.idle_timeout_s:
                self.hang_up()
            case Phase.HEAD if waited_s > limits.head_timeout_s:
                message = f"the request's head did not come within {limits.head_timeout_s:g} s (gateway.head_timeout_s)"
                self.writer()(_bad_request(408, message).to_bytes(close=True))
                self.hang_up()
            case Phase.BODY if self._body_is_late(now_s):
                assert self._body is not None
                self._body.set_exception(TimeoutError())
            case Phase.FLUSH if waited_s > limits.body_timeout_s:
                self.abort()
            case _:
                pass

    def _body_is_late(self, now_s: float) -> bool:
        limits = self._owner.limits
        if self._received_bytes != self._seen_bytes:
            self._seen_bytes, self._seen_at_s = self._received_bytes, now_s
        received_bytes = self._received_bytes - self._body_began_bytes
        allowed_s = limits.body_timeout_s + received_bytes / limits.min_body_bytes_per_s
        return now_s - self._seen_at_s > limits.body_timeout_s or now_s - self._since_s > allowed_s

    def unread_fd(self) -> int | None:
        """The socket's number, if nothing is read from it at present, so that its end would go unnoticed."""
        if self._socket_transport.is_closing() or self._socket_transport.is_reading():
            return None
        return cast("int", self._socket_transport.get_extra_info("socket").fileno())

    # asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client has connected."""
        self._socket_transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._owner.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: the client is gone. The handler is cancelled soon; nothing may be written meanwhile."""
        self._owner.closed(self)
        if self._flow is not None:
            self._flow.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of requests."""
        self._received_bytes += len(data)
        if data and self.phase is Phase.IDLE:
            self.fresh = False
            self._enter(Phase.HEAD)
        super().data_received(data)

    def pause_writing(self) -> None:
        """asyncio: the client's socket is full."""
        super().pause_writing()
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """asyncio: the client's socket has room again."""
        super().resume_writing()
        if self._flow is not None:
            self._flow.resume()

    # aiohttp.

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp: what it can't parse, in OpenAI's form."""
        if isinstance(exc, LineTooLong):
            limit = f"(gateway.max_header_bytes is {self._owner.limits.max_header_bytes})"
            answer = _bad_request(431, f"the request's target or one of its header fields is too long {limit}")
        else:
            answer = _bad_request(400, _first_line(message) or "not an HTTP request")
        if not self.answer_begun:
            self.writer()(answer.to_bytes(close=True))
        return SENT_CLOSE

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """aiohttp: a client's fault, such as a body that ends too early; ours are caught before."""
        self.logger.debug(*args, **kwargs)


def _bad_request(status: int, message: str) -> Answer:
    return Answer(status, error_body(message, kind="invalid_request_error"))


def _first_line(message: str | None) -> str:
    """What a parser says, without the bytes that it shows after that."""
    return (message or "").strip().partition("\n")[0].rstrip(":")


class _Sent:
    """Tells aiohttp that the response has been written already."""

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to prepare."""

    async def write_eof(self) -> None:
        """Nothing is left to write."""


SENT_KEEP_ALIVE = cast("web.StreamResponse", _Sent(keep_alive=True))
SENT_CLOSE = cast("web.StreamResponse", _Sent(keep_alive=False))
