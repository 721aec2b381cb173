# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The full HTTP server: aiohttp's low-level one, with connections that a relay writes to directly."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from syshaxd.core.openai import error_body
from syshaxd.gateway.errors import Answer, internal_error
from syshaxd.runner import Flow


class ClientConnection(RequestHandler):
    """A client's connection (a `Downstream`)."""

    __slots__ = ("_flow", "http10")

    def __init__(self, manager: web.Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._flow: Flow | None = None
        self.http10 = False

    def attach(self, flow: Flow) -> None:
        """Downstream: the relay is told when to pause and resume."""
        self._flow = flow
        if self.writing_paused:
            flow.pause()

    def detach(self) -> None:
        """Downstream: the relay is over."""
        self._flow = None

    def writer(self) -> Callable[[bytes], None]:
        """Downstream: sends bytes."""
        assert self.transport is not None
        return self.transport.write

    def abort(self) -> None:
        """Downstream: drops the connection without a proper end."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: the client is gone. The handler is cancelled soon; nothing may be written meanwhile."""
        if self._flow is not None:
            self._flow.cancel()
        super().connection_lost(exc)

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

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp: what it can't parse, and our own bugs, in OpenAI's form."""
        if status >= 500:
            self.log_exception("Error handling request", exc_info=exc)
            answer = internal_error()
        else:
            answer = Answer(status, error_body(message or "bad HTTP request", kind="invalid_request_error"))
        response = to_response(answer)
        response.force_close()
        return response


class Front(web.Server):
    """Calls the handler for each request, and cancels it when its client disconnects."""

    def __init__(self, handler: Any, *, max_body_bytes: int) -> None:
        super().__init__(handler, handler_cancellation=True, access_log=None)
        self._max_body_bytes = max_body_bytes
        self.request_factory = self._request

    def __call__(self) -> ClientConnection:
        """A protocol for a connection."""
        return ClientConnection(self, loop=self._loop, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._max_body_bytes
        )


def to_response(answer: Answer) -> web.Response:
    """An answer in aiohttp's form."""
    return web.Response(
        status=answer.status, body=answer.body, headers=answer.headers | {"content-type": answer.content_type}
    )


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
