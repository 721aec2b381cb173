# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAI endpoint: parses each request once, lets the Engine place it, answers what concerns the daemon itself."""

import asyncio
import itertools
import json
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from syshaxd.core.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    SyshaxError,
    TooLargeError,
    UnavailableError,
)
from syshaxd.core.http1 import HotRequest, end_to_end_headers
from syshaxd.core.types import InferenceRequest, Outcome, RequestRecord
from syshaxd.engine import Call, Engine
from syshaxd.gateway.body import Body, ChatBody, CompletionBody, parse_body
from syshaxd.gateway.errors import Answer, error_answer
from syshaxd.gateway.front import SENT_CLOSE, SENT_KEEP_ALIVE, ClientConnection, Front, to_response
from syshaxd.gateway.hot import HotConnection
from syshaxd.metrics import MetricsService
from syshaxd.runner import Downstream, Outgoing

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_IDLE_LIMIT_S = 75.0
_SWEEP_INTERVAL_S = 5.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_BODIES: dict[str, type[Body]] = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}


@dataclass(slots=True)
class _Incoming:
    """A client's request, whichever server read it."""

    method: str
    target: str
    path: str
    headers: bytes
    """The lines that an instance gets."""
    request_id: str
    place: str | None
    """The instance that the client asks for."""
    is_json: bool
    keep_alive: bool


class Gateway:
    """Serves the OpenAI API over HTTP."""

    def __init__(self, engine: Engine, metrics: MetricsService, *, max_body_bytes: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.connections: set[HotConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._front = Front(self._handle, max_body_bytes=max_body_bytes)
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)
        self._own: dict[str, Callable[[web.BaseRequest], Answer]] = {
            "/v1/models": self._models,
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._render_metrics,
        }

    async def start(self, host: str, port: int) -> str:
        """Listens; returns the URL of the endpoint.

        Raises:
            SyshaxError: The address can't be had.
        """
        try:
            self._server = await self._loop.create_server(
                lambda: HotConnection(self, self._loop), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise SyshaxError(
                f"services.conductor: cannot listen on {host}:{port}: {error.strerror or error}. "
                f"See who has the port (ss -ltnp), or set services.conductor.port to another"
            ) from error
        self._sweeper = self._loop.create_task(self._sweep())
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self, drain_timeout_s: float) -> None:
        """Accepts nothing more, lets running requests end, then closes every connection. May be called again."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        self._sweeper.cancel()
        self._front.pre_shutdown()
        await self._engine.drain(drain_timeout_s)
        for connection in list(self.connections):
            connection.close()
        await self._front.shutdown(1.0)

    async def _sweep(self) -> None:
        """Closes connections that send nothing, or not the whole of a request: one timer for all."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            limit = self._loop.time() - _IDLE_LIMIT_S
            for connection in list(self.connections):
                if not connection.busy and connection.idle_since_s < limit:
                    connection.close()

    # The two servers' requests.

    def full_protocol(self) -> asyncio.Protocol:
        """HotHandler: a connection of the full HTTP server."""
        return self._front()

    async def serve_hot(self, client: HotConnection, request: HotRequest, body: bytes) -> bool:
        """HotHandler: answers a request that was recognised early."""
        incoming = _Incoming(
            method="POST",
            target=request.path,
            path=request.path,
            headers=request.headers,
            request_id=self._request_id(request.request_id),
            place=request.place,
            is_json=True,
            keep_alive=True,
        )
        record = RequestRecord(incoming.request_id, request.path, started_at_s=self._loop.time())
        result = await self._answer(incoming, body, client, record)
        if isinstance(result, bool):
            return result
        client.writer()(result.to_bytes())
        return True

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request of the full HTTP server."""
        path = request.raw_path.partition("?")[0]
        own = self._own.get(path)
        if own is not None and request.method in {"GET", "HEAD"}:
            return to_response(own(request))
        headers = request.headers
        incoming = _Incoming(
            method=request.method,
            target=request.raw_path,
            path=path,
            headers=end_to_end_headers(request.raw_headers),
            request_id=self._request_id(headers.get("X-Request-Id")),
            place=headers.get("X-Syshax-Place"),
            is_json=request.content_type == "application/json",
            keep_alive=request.keep_alive,
        )
        record = RequestRecord(incoming.request_id, path, started_at_s=self._loop.time())
        client = request.protocol
        assert isinstance(client, ClientConnection)
        client.http10 = request.version < (1, 1)
        result = await self._answer(incoming, request, client, record)
        if isinstance(result, Answer):
            return to_response(result)
        return SENT_KEEP_ALIVE if result else SENT_CLOSE

    async def _answer(
        self, incoming: _Incoming, body: bytes | web.BaseRequest, client: Downstream, record: RequestRecord
    ) -> bool | Answer:
        """Serves a request and records it.

        Returns:
            Whether the connection may stay open, when the answer has been sent; else the answer.
        """
        try:
            return await self._serve(incoming, body, client, record)
        except SyshaxError as error:
            answer = error_answer(error, record.request_id)
            record.status = answer.status
            if isinstance(error, BadRequestError):
                record.outcome = Outcome.CLIENT_ERROR
            elif isinstance(error, OverloadedError | UnavailableError):
                record.outcome = Outcome.REJECTED
            else:
                record.outcome = Outcome.FAILED
                _log.warning("request %s: %s", record.request_id, error)
            return answer
        except asyncio.CancelledError:
            record.outcome = Outcome.CLIENT_GONE
            raise
        finally:
            record.duration_s = self._loop.time() - record.started_at_s
            self._metrics.record(record)

    async def _serve(
        self, incoming: _Incoming, body: bytes | web.BaseRequest, client: Downstream, record: RequestRecord
    ) -> bool:
        path = incoming.path
        if path in self._own:
            raise MethodNotAllowedError(f"{path} takes GET, not {incoming.method}")
        if not path.startswith("/v1/"):
            raise NotFoundError(f"no route {path}; the API is under /v1", code="route_not_found")
        data = body if isinstance(body, bytes) else await self._read(body)
        parsed = _parse(incoming, data)
        record.stream = bool(parsed.stream)
        inference = InferenceRequest(
            request_id=record.request_id,
            model=parsed.model or "",
            stream=record.stream,
            max_tokens=parsed.max_tokens,
            pinned=incoming.place,
        )
        outgoing = Outgoing(
            method=incoming.method,
            target=incoming.target,
            headers=incoming.headers,
            request_id=record.request_id,
            body=data,
            keep_alive=incoming.keep_alive,
        )
        return await self._engine.dispatch(Call(inference, incoming.method, path), outgoing, client, record)

    async def _read(self, request: web.BaseRequest) -> bytes:
        limit = self.max_body_bytes
        if request.content_length is not None and request.content_length > limit:
            raise TooLargeError(f"the body has {request.content_length} bytes; at most {limit} are taken")
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise TooLargeError(f"the body has over {limit} bytes; at most {limit} are taken") from None
        except web.RequestPayloadError as error:
            raise BadRequestError(f"the body can't be read: {error}", code="invalid_body") from None

    def _request_id(self, given: str | None) -> str:
        """The client's own id if it is a decent one, else a new one."""
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._id_prefix}-{next(self._ids):x}"

    # The daemon's own routes.

    def _models(self, request: web.BaseRequest) -> Answer:
        return _json({"object": "list", "data": [dict(model) for model in self._engine.models()]})

    def _health(self, request: web.BaseRequest) -> Answer:
        return _json({"status": "ok"})

    def _ready(self, request: web.BaseRequest) -> Answer:
        """200 when a request could be served; with `?all=1` only when every instance that is wanted is ready."""
        ready = self._engine.ready_instances()
        instances = self._engine.status().instances
        wanted = {status.spec.name for status in instances if status.wanted}
        good = wanted <= set(ready) if request.query.get("all") else bool(ready)
        states = {status.spec.name: str(status.state) for status in instances}
        return _json({"ready": good, "instances": states}, status=200 if good else 503)

    def _render_metrics(self, request: web.BaseRequest) -> Answer:
        status = self._engine.status()
        text = self._metrics.render(status.instances, status.snapshot, status.queued, status.inflight)
        return Answer(200, text, "text/plain; version=0.0.4; charset=utf-8")


def _parse(incoming: _Incoming, data: bytes) -> Body:
    kind = _BODIES.get(incoming.path)
    if kind is not None:
        if incoming.method != "POST":
            raise MethodNotAllowedError(f"{incoming.path} takes POST, not {incoming.method}")
        return parse_body(kind, data)
    if data and incoming.is_json:
        return parse_body(Body, data)
    return Body()


def _json(body: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())
