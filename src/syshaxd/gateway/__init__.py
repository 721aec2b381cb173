# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAI endpoint: parses each request once, lets the Engine place it, answers what concerns the daemon itself."""

import asyncio
import errno
import itertools
import json
import logging
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from aiohttp import web

from syshaxd.activation import listens_at
from syshaxd.connecting import why_no_connection
from syshaxd.core.address import Address
from syshaxd.core.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RequestCancelledError,
    SyshaxError,
    TooLargeError,
    UnavailableError,
)
from syshaxd.core.http1 import HotRequest, end_to_end_headers
from syshaxd.core.placement import InferenceRequest
from syshaxd.core.records import Outcome, RequestRecord
from syshaxd.engine import Engine
from syshaxd.gateway.body import Body, ChatBody, CompletionBody, parse_body
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.gateway.errors import Answer, error_answer, internal_error
from syshaxd.gateway.front import SENT_CLOSE, SENT_KEEP_ALIVE, ClientConnection, Front, to_response
from syshaxd.gateway.hot import HotConnection
from syshaxd.metrics import MetricsService
from syshaxd.runner import Downstream, Outgoing

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_MODEL_PATH = "/v1/models/"
_IDLE_LIMIT_S = 75.0
_SWEEP_INTERVAL_S = 5.0
_FIRST_REQUEST_LIMIT_S = 0.2
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CHAT = "/v1/chat/completions"
_OFFLOADED_CHAT = "/v1/chat/pd_disagg"
"""A chat whose prefill and decode are to be in different places; instances know it as a chat."""
# Prompts are measured before they are tokenised.
_BYTES_PER_TOKEN = 4
_BODIES: dict[str, type[Body]] = {_CHAT: ChatBody, "/v1/completions": CompletionBody, _OFFLOADED_CHAT: ChatBody}


class Gateway:
    """Serves the OpenAI API over HTTP."""

    def __init__(
        self, engine: Engine, metrics: MetricsService, *, max_body_bytes: int, dashboard: Dashboard | None = None
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.connections: set[HotConnection] = set()
        self.stopping = False

        self._loop = asyncio.get_running_loop()
        self._front = Front(self._handle, max_body_bytes=max_body_bytes)
        self._servers: list[asyncio.Server] = []
        self._handed: Sequence[socket.socket] = ()
        self._sweeper: asyncio.Task[None] | None = None
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)
        self._own: dict[str, Callable[[web.BaseRequest], Answer]] = {
            "/v1/models": self._models,
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._render_metrics,
        }
        if dashboard is not None:
            self._own["/dashboard"] = lambda _: dashboard.page()
            self._own["/dashboard/status.json"] = lambda _: dashboard.status()

    async def start(self, host: str, port: int, handed: Sequence[socket.socket] = ()) -> str:
        """Listens; returns the URL of the endpoint.

        Args:
            host: The endpoint's address.
            port: The endpoint's port.
            handed: Sockets that listen already, at the endpoint's address or elsewhere; connections to them wait for
                `serve_handed`.

        Raises:
            SyshaxError: The address can't be had.
        """
        try:
            if not any(listens_at(ready, host, port) for ready in handed):
                own = await self._loop.create_server(self._hot_connection, host, port, backlog=_BACKLOG)
                self._servers.append(own)
                port = own.sockets[0].getsockname()[1]
                if handed:
                    _log.warning(
                        "syshaxd.socket has not the address of services.conductor (%s), which refuses connections "
                        "while syshaxd restarts; set its ListenStream= with `systemctl edit syshaxd.socket`",
                        Address(host, port),
                    )
        except (OSError, UnicodeError) as error:
            raise SyshaxError(
                f"services.conductor: cannot listen on {Address(host, port)}: {_why_not(error, host)}"
            ) from error
        self._handed = handed
        self._sweeper = self._loop.create_task(self._sweep())
        return Address(host, port).url()

    async def serve_handed(self) -> None:
        """Takes the connections of the sockets that were handed over, from now on: also those that have waited."""
        for ready in self._handed:
            server = await self._loop.create_server(self._hot_connection, sock=ready, backlog=_BACKLOG)
            self._servers.append(server)

    def _hot_connection(self) -> HotConnection:
        return HotConnection(self, self._loop)

    async def stop(self, drain_timeout_s: float) -> None:
        """Accepts nothing more, lets running requests end, then closes every connection. May be called again."""
        if self._sweeper is None:
            return
        self.stopping = True
        for server in self._servers:
            server.close()
        self._sweeper.cancel()
        self._front.pre_shutdown()
        self._close_idle(lambda connection: not connection.fresh)
        if drain_timeout_s and any(connection.fresh for connection in self.connections):
            # Their clients have nobody else to send a first request to: the socket may be systemd's, and stay open.
            await asyncio.sleep(_FIRST_REQUEST_LIMIT_S)
        self._close_idle(lambda _: True)
        await self._engine.drain(drain_timeout_s)
        for connection in list(self.connections):
            connection.close()
        await self._front.shutdown(1.0)

    def _close_idle(self, which: Callable[[HotConnection], bool]) -> None:
        for connection in list(self.connections):
            if not connection.busy and which(connection):
                connection.close()

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

    async def serve_hot(self, client: HotConnection, request: HotRequest, body: bytes) -> None:
        """HotHandler: answers a request that was recognised early."""
        outgoing = Outgoing(
            method="POST",
            path=request.path,
            target=request.path,
            headers=request.headers,
            request_id=self._request_id(request.request_id),
            body=body,
            keep_alive=True,
        )
        keep_alive = False
        try:
            result = await self._answer(outgoing, request.place, client)
            keep_alive = result is not False
            if isinstance(result, Answer):
                client.writer()(result.to_bytes())
        except Exception:  # noqa: BLE001 - a bug of ours: the client gets an answer, the log the trace
            _log.exception("request %s", outgoing.request_id, extra={"request_id": outgoing.request_id})
            client.writer()(internal_error().to_bytes(close=True))
        finally:
            client.served(keep_alive=keep_alive)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request of the full HTTP server."""
        path = request.raw_path.partition("?")[0]
        own = self._model if path.startswith(_MODEL_PATH) else self._own.get(path)
        if own is not None and request.method in {"GET", "HEAD"}:
            return to_response(own(request))
        headers = request.headers
        outgoing = Outgoing(
            method=request.method,
            path=path,
            target=request.raw_path,
            headers=end_to_end_headers(request.raw_headers),
            request_id=self._request_id(headers.get("X-Request-Id")),
            body=b"",
            keep_alive=request.keep_alive,
        )
        client = request.protocol
        assert isinstance(client, ClientConnection)
        client.http10 = request.version < (1, 1)
        result = await self._answer(outgoing, headers.get("X-Syshax-Place"), client, request)
        if isinstance(result, Answer):
            return to_response(result)
        return SENT_KEEP_ALIVE if result else SENT_CLOSE

    async def _answer(
        self, outgoing: Outgoing, place: str | None, client: Downstream, unread: web.BaseRequest | None = None
    ) -> bool | Answer:
        """Serves a request and records it.

        Args:
            outgoing: The request.
            place: The instance that the client asks for.
            client: Where the answer goes.
            unread: Where to read the request's body from, if that is still to be done.

        Returns:
            Whether the connection may stay open, when the answer has been sent; else the answer.
        """
        record = RequestRecord(outgoing.request_id, outgoing.path, started_at_s=self._loop.time())
        try:
            return await self._serve(outgoing, place, client, unread, record)
        except SyshaxError as error:
            answer = error_answer(error, record.request_id)
            record.status = answer.status
            if isinstance(error, BadRequestError):
                record.outcome = Outcome.CLIENT_ERROR
            elif isinstance(error, RequestCancelledError):
                record.outcome = Outcome.CANCELLED
            elif isinstance(error, OverloadedError | UnavailableError):
                record.outcome = Outcome.REJECTED
            else:
                record.outcome = Outcome.FAILED
                _log.warning("request %s: %s", record.request_id, error, extra={"request_id": record.request_id})
            return answer
        except asyncio.CancelledError:
            if record.outcome is not Outcome.CANCELLED:
                record.outcome = Outcome.CLIENT_GONE
            raise
        finally:
            record.duration_s = self._loop.time() - record.started_at_s
            self._metrics.record(record)

    async def _serve(
        self,
        outgoing: Outgoing,
        place: str | None,
        client: Downstream,
        unread: web.BaseRequest | None,
        record: RequestRecord,
    ) -> bool:
        path = outgoing.path
        is_json = True
        if unread is not None:
            if path in self._own:
                raise MethodNotAllowedError(f"{path} takes GET, not {outgoing.method}")
            if not path.startswith("/v1/"):
                dashboard = ", the dashboard at /dashboard" if "/dashboard" in self._own else ""
                raise NotFoundError(f"no route {path}; the API is under /v1{dashboard}", code="route_not_found")
            outgoing.body = await self._read(unread)
            is_json = unread.content_type == "application/json"
        body = _parse(outgoing, is_json=is_json)
        record.stream = bool(body.stream)
        offload = path == _OFFLOADED_CHAT
        if offload:
            path = outgoing.path = outgoing.target = _CHAT
        request = InferenceRequest(
            request_id=outgoing.request_id,
            model=body.model or "",
            stream=record.stream,
            method=outgoing.method,
            path=path,
            pinned=place,
            offload=offload,
            prompt_tokens=len(outgoing.body) // _BYTES_PER_TOKEN,
            max_tokens=body.answer_limit,
        )
        return await self._engine.dispatch(request, outgoing, client, record)

    async def _read(self, request: web.BaseRequest) -> bytes:
        limit = self.max_body_bytes
        at_most = f"at most {limit} are taken (gateway.max_body_bytes)"
        if request.content_length is not None and request.content_length > limit:
            raise TooLargeError(f"the body has {request.content_length} bytes; {at_most}")
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise TooLargeError(f"the body is too large; {at_most}") from None
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

    def _model(self, request: web.BaseRequest) -> Answer:
        name = unquote(request.raw_path.partition("?")[0].removeprefix(_MODEL_PATH))
        known = {model["id"]: model for model in self._engine.models()}
        if name in known:
            return _json(dict(known[name]))
        text = f"the model {name!r} does not exist; there is {', '.join(map(str, known))}"
        error = NotFoundError(text, param="model", code="model_not_found")
        return error_answer(error, self._request_id(request.headers.get("X-Request-Id")))

    def _health(self, request: web.BaseRequest) -> Answer:
        return _json({"status": "ok"})

    def _ready(self, request: web.BaseRequest) -> Answer:
        """200 when a request could be served; with `?all=1` only when every instance that is wanted is ready."""
        ready = self._engine.ready_instances()
        instances = self._engine.status().instances
        wanted = {status.spec.name for status in instances if status.wanted}
        good = bool(ready) and (wanted <= set(ready) or not request.query.get("all"))
        states = {status.spec.name: str(status.state) for status in instances}
        return _json({"ready": good, "instances": states}, status=200 if good else 503)

    def _render_metrics(self, request: web.BaseRequest) -> Answer:
        status = self._engine.status()
        text = self._metrics.render(status)
        return Answer(200, text, "text/plain; version=0.0.4; charset=utf-8")


def _why_not(error: OSError | UnicodeError, host: str) -> str:
    """Why an address can't be listened on, and what helps."""
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return "the port is taken; see by whom (ss -ltnp), or set services.conductor.port to another"
        case errno.EACCES:
            return "this user may not listen there; set services.conductor.port to 1024 or more"
        case _:
            return (
                f"{why_no_connection(error, host)}; "
                "set services.conductor.host to an address of this host, or 0.0.0.0 for all"
            )


def _parse(outgoing: Outgoing, *, is_json: bool) -> Body:
    kind = _BODIES.get(outgoing.path)
    if kind is not None:
        if outgoing.method != "POST":
            raise MethodNotAllowedError(f"{outgoing.path} takes POST, not {outgoing.method}")
        return parse_body(kind, outgoing.body)
    if outgoing.body and is_json:
        return parse_body(Body, outgoing.body)
    return Body()


def _json(body: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())
