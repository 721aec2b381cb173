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
from syshaxd.core.http1 import request_head
from syshaxd.core.types import InferenceRequest, Outcome, RequestRecord
from syshaxd.engine import Call, Engine
from syshaxd.gateway.body import Body, ChatBody, CompletionBody, parse_body
from syshaxd.gateway.errors import error_response, status_of
from syshaxd.gateway.front import SENT_CLOSE, SENT_KEEP_ALIVE, ClientConnection, Front
from syshaxd.metrics import MetricsService
from syshaxd.runner import Outgoing

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_BODIES: dict[str, type[Body]] = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}
_PLACE_HEADER = "X-Syshax-Place"


class Gateway:
    """Serves the OpenAI API over HTTP."""

    def __init__(self, engine: Engine, metrics: MetricsService, *, max_body_bytes: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._front = Front(self._handle, max_body_bytes=max_body_bytes)
        self._server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)
        self._own: dict[str, Callable[[web.BaseRequest], web.Response]] = {
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
            self._server = await self._loop.create_server(self._front, host, port, backlog=_BACKLOG)
        except OSError as error:
            raise SyshaxError(
                f"services.conductor: cannot listen on {host}:{port}: {error.strerror or error}. "
                f"See who has the port (ss -ltnp), or set services.conductor.port to another"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self, drain_timeout_s: float) -> None:
        """Accepts nothing more, lets running requests end, then closes every connection."""
        if self._server is None:
            return
        self._server.close()
        self._front.pre_shutdown()
        await self._engine.drain(drain_timeout_s)
        await self._front.shutdown(1.0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        path = target.partition("?")[0]
        own = self._own.get(path)
        if own is not None and request.method in {"GET", "HEAD"}:
            return own(request)
        record = RequestRecord(
            request_id=self._request_id(request),
            route=path,
            started_at_s=self._loop.time(),
        )
        try:
            if own is not None:
                raise MethodNotAllowedError(f"{path} takes GET, not {request.method}", code="method_not_allowed")
            if not path.startswith("/v1/"):
                raise NotFoundError(f"no route {path}; the API is under /v1", code="route_not_found")
            keep = await self._serve(request, target, path, record)
        except SyshaxError as error:
            record.status = status_of(error)
            if isinstance(error, BadRequestError):
                record.outcome = Outcome.CLIENT_ERROR
            elif isinstance(error, OverloadedError | UnavailableError):
                record.outcome = Outcome.REJECTED
            else:
                record.outcome = Outcome.FAILED
                _log.warning("request %s: %s", record.request_id, error)
            return error_response(error, record.request_id)
        except asyncio.CancelledError:
            record.outcome = Outcome.CLIENT_GONE
            raise
        finally:
            record.duration_s = self._loop.time() - record.started_at_s
            self._metrics.record(record)
        return SENT_KEEP_ALIVE if keep else SENT_CLOSE

    async def _serve(self, request: web.BaseRequest, target: str, path: str, record: RequestRecord) -> bool:
        data = await self._read(request)
        body = _parse(request, path, data)
        record.stream = bool(body.stream)
        headers = request.headers
        inference = InferenceRequest(
            request_id=record.request_id,
            model=body.model or "",
            stream=record.stream,
            max_tokens=body.max_tokens,
            pinned=headers.get(_PLACE_HEADER),
        )
        client = request.protocol
        assert isinstance(client, ClientConnection)
        client.http10 = request.version < (1, 1)
        outgoing = Outgoing(
            method=request.method,
            target=target,
            head=request_head(
                request.method,
                request.raw_headers,
                request_id=record.request_id.encode("ascii"),
                length=len(data),
            ),
            body=data,
            keep_alive=request.keep_alive,
        )
        return await self._engine.dispatch(Call(inference, request.method, path), outgoing, client, record)

    async def _read(self, request: web.BaseRequest) -> bytes:
        limit = self._max_body_bytes
        if request.content_length is not None and request.content_length > limit:
            raise TooLargeError(f"the body has {request.content_length} bytes; at most {limit} are taken")
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise TooLargeError(f"the body has over {limit} bytes; at most {limit} are taken") from None
        except web.RequestPayloadError as error:
            raise BadRequestError(f"the body can't be read: {error}", code="invalid_body") from None

    def _request_id(self, request: web.BaseRequest) -> str:
        """The client's own id if it is a decent one, else a new one."""
        given = request.headers.get("X-Request-Id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._id_prefix}-{next(self._ids):x}"

    def _models(self, request: web.BaseRequest) -> web.Response:
        return _json({"object": "list", "data": [dict(model) for model in self._engine.models()]})

    def _health(self, request: web.BaseRequest) -> web.Response:
        return _json({"status": "ok"})

    def _ready(self, request: web.BaseRequest) -> web.Response:
        """200 when a request could be served; with `?all=1` only when every instance that is wanted is ready."""
        ready = self._engine.ready_instances()
        states = {status.spec.name: str(status.state) for status in self._engine.status().instances}
        wanted = {status.spec.name for status in self._engine.status().instances if status.wanted}
        good = wanted <= set(ready) if request.query.get("all") else bool(ready)
        return _json({"ready": good, "instances": states}, status=200 if good else 503)

    def _render_metrics(self, request: web.BaseRequest) -> web.Response:
        status = self._engine.status()
        text = self._metrics.render(status.instances, status.snapshot, status.queued, status.inflight)
        return web.Response(body=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


def _parse(request: web.BaseRequest, path: str, data: bytes) -> Body:
    kind = _BODIES.get(path)
    if kind is not None:
        if request.method != "POST":
            raise MethodNotAllowedError(f"{path} takes POST, not {request.method}", code="method_not_allowed")
        return parse_body(kind, data)
    if data and request.content_type == "application/json":
        return parse_body(Body, data)
    return Body()


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")
