# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One client's connection: aiohttp's parser reads it, a relay writes to it, and it knows what it waits for."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol, cast

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.tcp_helpers import tcp_keepalive

from syshaxd.core.wire.openai import error_body
from syshaxd.gateway.errors import Answer
from syshaxd.gateway.limits import Limits
from syshaxd.serving.request import Flow

# A client whose connection is being closed has this long to take its last answer, and to send what is left of its
# request.
_CLOSING_LIMIT_S = 5.0
# While this many requests of a client wait for the answers before them, nothing more is read from it.
_MAX_AHEAD = 16
_READ_AHEAD_BYTES = 256 * 1024
_MAX_HEADER_LINES = 128
# SO_LINGER: on, zero seconds.
_RESET = struct.pack("ii", 1, 0)
_TUNNELS = frozenset(("websocket", "tcp"))


class UnreadableBodyError(Exception):
    """A body is not encoded as its head says."""


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
    """The client, to read the end of its answer."""
    CLOSING = auto()
    """The client, to read the rest before the connection is closed."""


@dataclass(slots=True, eq=False)
class ClientRequest:
    """A request of a client, whose head has come."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By name, whatever its case; of several fields of one name, the first."""
    header_lines: Sequence[tuple[bytes, bytes]]
    """Names and values, as they came."""
    body: StreamReader
    keep_alive: bool
    """The connection may stay open afterwards, as far as the client is concerned."""
    http10: bool


class ConnectionOwner(Protocol):
    """Who counts the connections, decides which to refuse, and answers their requests."""

    limits: Limits
    clock: Callable[[], float]

    def opened(self, connection: "ClientConnection") -> None:
        """A client connected."""

    def closed(self, connection: "ClientConnection") -> None:
        """The connection is closed."""

    def answer(self, connection: "ClientConnection", request: ClientRequest) -> Coroutine[Any, Any, bool]:
        """Answers a request; returns whether the connection may stay open. Cancelled when the client is gone."""


class ClientConnection(BaseProtocol):
    """A client's connection (a `Downstream`). Its requests are answered one after the other, each by a task."""

    __slots__ = (
        "_ahead",
        "_body",
        "_body_began_bytes",
        "_ends",
        "_flow",
        "_is_too_far_ahead",
        "_owner",
        "_paused_at_s",
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
        "task",
    )

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        limits = owner.limits
        parser = HttpRequestParser(
            self,
            loop,
            _READ_AHEAD_BYTES,
            max_line_size=limits.max_header_bytes,
            max_field_size=limits.max_header_bytes,
            max_headers=_MAX_HEADER_LINES,
            payload_exception=UnreadableBodyError,
        )
        super().__init__(loop, parser)
        self._owner = owner
        self._socket_transport: asyncio.Transport
        self._ahead: deque[ClientRequest | HttpProcessingError] = deque()
        self._is_too_far_ahead = False
        self._ends = False  # no further request is read
        self._flow: Flow | None = None
        self._body: StreamReader | None = None
        self._received_bytes = self._body_began_bytes = self._seen_bytes = 0
        self._since_s = self._seen_at_s = self._paused_at_s = owner.clock()
        self.phase = Phase.IDLE
        self.task: asyncio.Task[None] | None = None
        """Answers the present request."""
        self.http10 = False
        self.answer_lines = b""
        self.answer_begun = False
        """Bytes of the present request's answer may have gone out."""
        self.fresh = True
        """The client has not sent anything yet."""
        self.refused = False
        """There are too many connections: it only gets an error."""

    @property
    def peer(self) -> object:
        """The client's address."""
        return self._socket_transport.get_extra_info("peername")

    # Downstream.

    def attach(self, flow: Flow) -> None:
        """Downstream: tells the relay when to pause and resume."""
        self._flow = flow
        if self._paused:
            flow.pause()

    def detach(self) -> None:
        """Downstream: the relay is over."""
        self._flow = None

    def writer(self) -> Callable[[bytes], None]:
        """Downstream: the function that sends bytes. From then on no other answer may be sent."""
        self.answer_begun = True
        return self._socket_transport.write

    def abort(self) -> None:
        """Downstream: resets the connection. To an HTTP/1.0 client, a clean close would mean a complete answer."""
        sock = self._socket_transport.get_extra_info("socket")
        if sock is not None and not self._socket_transport.is_closing():
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket_transport.abort()

    # The current request.

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
        """Its body has arrived."""
        self._body = None
        self._enter(Phase.ANSWER)

    async def _answer(self, request: ClientRequest) -> None:
        """Gets a request answered; begins the next one, or closes the connection."""
        stays_open = False
        try:
            stays_open = await self._owner.answer(self, request)
            if self._paused:  # the next answer may follow when the client has taken most of this one
                self._enter(Phase.FLUSH)
                await self._drain_helper()
        except ConnectionError:
            stays_open = False  # the client is gone
        finally:
            self.task = None
            if not request.body.is_eof():
                self._linger()
            elif not stays_open:
                self.hang_up()
            else:
                self._enter(Phase.IDLE)
                if self._ahead:
                    self._begin_next()

    def _begin_next(self) -> None:
        request = self._ahead.popleft()
        self.answer_begun = False
        self._enter(Phase.ANSWER)
        if isinstance(request, HttpProcessingError):
            self.writer()(self._explain(request).to_bytes(close=True))
            self._linger()
            return
        self.http10 = request.http10
        self.task = self._loop.create_task(self._answer(request))
        if self._is_too_far_ahead and not self._ahead:
            self._is_too_far_ahead = False
            self._socket_transport.resume_reading()

    def _linger(self) -> None:
        """Closes the connection when the client has closed it: while it sends, it would lose the answer."""
        self._ends = True
        self._enter(Phase.CLOSING)
        if not self._socket_transport.is_closing():
            if self._socket_transport.can_write_eof():  # not with TLS
                self._socket_transport.write_eof()
            self._socket_transport.resume_reading()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._since_s = self._owner.clock()

    # Limits.

    @property
    def busy(self) -> bool:
        """A request is arriving or being answered."""
        return self.phase is not Phase.IDLE

    def hang_up(self) -> None:
        """Closes the connection after flushing; cancels the request being answered."""
        self._ends = True
        self._enter(Phase.CLOSING)
        self._socket_transport.close()

    def check(self, now_s: float) -> None:
        """Closes the connection if the client is too slow."""
        limits = self._owner.limits
        waited_s = now_s - self._since_s
        if self._socket_transport.is_closing() and self.phase is not Phase.CLOSING:
            self._enter(Phase.CLOSING)
            return
        match self.phase:
            case Phase.CLOSING if waited_s > _CLOSING_LIMIT_S:
                self.abort()
            case Phase.IDLE if waited_s > limits.idle_timeout_s:
                self.hang_up()
            case Phase.HEAD if waited_s > limits.head_timeout_s:
                message = (
                    f"the request's head did not arrive within {limits.head_timeout_s:g} s (gateway.head_timeout_s)"
                )
                self.writer()(_bad_request(408, message).to_bytes(close=True))
                self._linger()
            case Phase.BODY if self._body_is_late(now_s):
                assert self._body is not None
                self._body.set_exception(TimeoutError())
            case Phase.ANSWER if self._paused and now_s - self._paused_at_s > limits.send_timeout_s:
                self.abort()
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
        """The socket's descriptor if reading is paused, so that its end would go unnoticed."""
        if self._socket_transport.is_closing() or self._socket_transport.is_reading():
            return None
        return cast("int", self._socket_transport.get_extra_info("socket").fileno())

    # asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client connected."""
        super().connection_made(transport)
        self._socket_transport = cast("asyncio.Transport", transport)
        tcp_keepalive(self._socket_transport)
        self._owner.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: the client is gone. The task is cancelled soon; nothing may be written meanwhile."""
        self._owner.closed(self)
        self._ends = True
        self._ahead.clear()
        if self._flow is not None:
            self._flow.cancel()
        super().connection_lost(exc)
        self._parser = self._body = None  # the parser refers to the connection, and to its last body
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of requests. aiohttp: b"" makes the parser continue with its buffer."""
        if self._ends:
            return
        self._received_bytes += len(data)
        if data and self.phase is Phase.IDLE:
            self.fresh = False
            self._enter(Phase.HEAD)
        assert self._parser is not None
        try:
            found, is_tunnel, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._ahead.append(error)
            self._ends = True
        else:
            if not found and not is_tunnel:
                return
            self._ahead.extend(_request(message, body) for message, body in found)
            self._ends = self._ends or is_tunnel
        if self.task is None and self._ahead and not self._socket_transport.is_closing():
            self._begin_next()
        if len(self._ahead) >= _MAX_AHEAD:
            self._is_too_far_ahead = True
            self._socket_transport.pause_reading()

    def pause_writing(self) -> None:
        """asyncio: the client's socket is full."""
        super().pause_writing()
        self._paused_at_s = self._owner.clock()
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """asyncio: the client's socket is writable again."""
        super().resume_writing()
        if self._flow is not None:
            self._flow.resume()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp: a body is not too far ahead of its reader. It is called for every body."""
        if self._reading_paused:
            super().resume_reading(resume_parser)
            if self._is_too_far_ahead:
                self._socket_transport.pause_reading()

    # What aiohttp can't parse.

    def _explain(self, error: HttpProcessingError) -> Answer:
        """The answer, in OpenAI's form."""
        if isinstance(error, LineTooLong):
            limit = f"(gateway.max_header_bytes is {self._owner.limits.max_header_bytes})"
            return _bad_request(431, f"the request's target or one of its header fields is too long {limit}")
        if isinstance(error, ContentEncodingError):
            return _bad_request(400, "the body has a Content-Encoding other than gzip and deflate")
        return _bad_request(400, _first_line(error.message) or "not an HTTP request")


def _request(message: RawRequestMessage, body: StreamReader) -> ClientRequest:
    http10 = message.version < HttpVersion11
    # What follows a CONNECT, or a change of the protocol, is no request to its sender, but the tunnel's.
    is_last = (
        http10
        or message.should_close
        or message.method == "CONNECT"
        or (message.upgrade and message.headers.get("Upgrade", "").lower() in _TUNNELS)
    )
    return ClientRequest(message.method, message.path, message.headers, message.raw_headers, body, not is_last, http10)


def _bad_request(status: int, message: str) -> Answer:
    return Answer(status, error_body(message, kind="invalid_request_error"))


def _first_line(message: str | None) -> str:
    """The parser's message without the bytes that it quotes."""
    return (message or "").strip().partition("\n")[0].rstrip(":")
