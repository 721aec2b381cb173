# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAI endpoint: reads each request once, lets the Engine place it, answers what concerns the daemon itself."""

import asyncio
import errno
import itertools
import json
import logging
import re
import secrets
import socket
from collections.abc import Callable, Sequence

from aiohttp import web

from syshaxd.core.address import Address
from syshaxd.core.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RequestCancelledError,
    SyshaxError,
    UnavailableError,
)
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.records import Outcome, RequestRecord
from syshaxd.core.types import FULL_WEIGHTS
from syshaxd.core.wire.body import RequestBody
from syshaxd.core.wire.http1 import ProtocolError, end_to_end_headers
from syshaxd.gateway import routes
from syshaxd.gateway.bodies import (
    BodyIntake,
    HeldBody,
    answer_limit,
    model_of,
    refuse_router_fields,
    refuse_stored,
    streams,
)
from syshaxd.gateway.connection import SENT_CLOSE, SENT_KEEP_ALIVE, ClientConnection
from syshaxd.gateway.cors import Cors
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.gateway.errors import Answer, error_answer, internal_error
from syshaxd.gateway.front import Front
from syshaxd.gateway.limits import Limits
from syshaxd.gateway.routes import MODEL_PREFIX, split_target
from syshaxd.observe.metrics import ClientCounts, MetricsService
from syshaxd.serving.engine import Engine
from syshaxd.serving.runner import Outgoing
from syshaxd.system.activation import listens_at
from syshaxd.system.connecting import why_no_connection

__all__ = ["Gateway", "Limits"]

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_FIRST_REQUEST_LIMIT_S = 0.2
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_MAX_PLACE_CHARACTERS = 128
# Prompts are measured before they are tokenised.
_BYTES_PER_TOKEN = 4


class Gateway:
    """Serves the OpenAI API over HTTP."""

    def __init__(
        self,
        engine: Engine,
        metrics: MetricsService,
        *,
        limits: Limits | None = None,
        cors_origins: Sequence[str] = ("*",),
        allow_router_fields: bool = False,
        dashboard: Dashboard | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepares to serve.

        Args:
            engine: Places requests.
            metrics: Counts them.
            limits: What clients may take; None: the defaults.
            cors_origins: Whose pages may use the endpoint.
            allow_router_fields: Clients may set what only routers need.
            dashboard: The page of states and loads; None: there is none.
            clock: Seconds that never go back; None: the loop's.
        """
        self._engine = engine
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._cors = Cors(cors_origins)
        self._allow_router_fields = allow_router_fields
        self._intake = BodyIntake(limits or Limits())
        self._front = Front(self._handle, limits or Limits(), clock or self._loop.time)
        self._stopping = False
        self._servers: list[asyncio.Server] = []
        self._handed: Sequence[socket.socket] = ()
        self._sweeper: asyncio.Task[None] | None = None
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)
        self._own: dict[str, Callable[[web.BaseRequest], Answer]] = {
            "/v1/models": self._models,
            "/live": self._live,
            "/health": self._health,
            "/ping": self._health,
            "/ready": self._ready,
            "/metrics": self._render_metrics,
        }
        if dashboard is not None:
            self._own["/dashboard"] = lambda _: dashboard.page()
            self._own["/dashboard/status.json"] = lambda _: dashboard.status()

    @property
    def connections(self) -> int:
        """Clients' connections that are open."""
        return len(self._front.open)

    @property
    def held_bytes(self) -> int:
        """Bytes of requests' bodies that are held."""
        return self._intake.held_bytes

    def sweep(self) -> None:
        """Ends connections whose clients have used up their time, and returns memory. Done from time to time."""
        self._front.sweep()
        self._intake.trim()

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
                own = await self._loop.create_server(self._front, host, port, backlog=_BACKLOG)
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
        self._sweeper = self._loop.create_task(self._front.sweep_for_ever(self.sweep))
        return Address(host, port).url()

    async def serve_handed(self) -> None:
        """Takes the connections of the sockets that were handed over, from now on: also those that have waited."""
        for ready in self._handed:
            server = await self._loop.create_server(self._front, sock=ready, backlog=_BACKLOG)
            self._servers.append(server)

    async def stop(self, drain_timeout_s: float) -> None:
        """Accepts nothing more, lets running requests end, then closes every connection. May be called again."""
        if self._sweeper is None:
            return
        self._stopping = True
        for server in self._servers:
            server.close()
        self._sweeper.cancel()
        self._close_idle(lambda connection: not connection.fresh)
        if drain_timeout_s and any(connection.fresh for connection in self._front.open):
            # Their clients have nobody else to send a first request to: the socket may be systemd's, and stay open.
            await asyncio.sleep(_FIRST_REQUEST_LIMIT_S)
        self._close_idle(lambda _: True)
        await self._engine.drain(drain_timeout_s)
        for connection in list(self._front.open):
            connection.hang_up()
        await self._front.shutdown(1.0)
        self._intake.close()

    def _close_idle(self, which: Callable[[ClientConnection], bool]) -> None:
        for connection in list(self._front.open):
            if not connection.busy and which(connection):
                connection.hang_up()

    # Requests.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request, whatever happens."""
        client = request.protocol
        assert isinstance(client, ClientConnection)
        client.begin(request)
        # Pages of other origins may use the API, not look at the dashboard of whoever visits them.
        is_api = not request.path.startswith("/dashboard")
        cors = self._cors.headers(request.headers.get("Origin")) if is_api else {}
        client.answer_lines = "".join(f"{name}: {value}\r\n" for name, value in cors.items()).encode(
            "utf-8", "surrogateescape"
        )
        request_id = self._request_id(request.headers.get("X-Request-Id"))
        try:
            result = await self._respond(request, client, request_id)
        except asyncio.CancelledError:
            if client.answer_begun:
                client.abort()
            raise
        except Exception:  # noqa: BLE001 - a bug of ours: the client gets an answer, the log the trace
            _log.exception("request %s", request_id, extra={"request_id": request_id})
            result = internal_error(request_id)
        if isinstance(result, Answer):
            if client.answer_begun:
                client.abort()
                return SENT_CLOSE
            keep_alive = self._keeps_open(request, client) and request.content.is_eof()
            answer = result.with_headers(cors)
            client.writer()(answer.to_bytes(close=not keep_alive, head_only=request.method == "HEAD"))
            result = keep_alive
        await client.flush()
        client.end()
        return SENT_KEEP_ALIVE if result and not self._stopping else SENT_CLOSE

    def _keeps_open(self, request: web.BaseRequest, client: ClientConnection) -> bool:
        # What follows a CONNECT is no request to its sender, but the tunnel's.
        tunnel = request.method == "CONNECT"
        return request.keep_alive and not (tunnel or client.http10 or client.refused or self._stopping)

    async def _respond(self, request: web.BaseRequest, client: ClientConnection, request_id: str) -> bool | Answer:
        """Whether the connection may stay open, when the answer has been sent; else the answer."""
        preflight = self._cors.preflight(request.method, request.headers)
        if preflight is not None:
            return preflight
        try:
            if client.refused:
                raise UnavailableError("too many connections are open; try again later", retry_after_s=1.0)
            target, path = split_target(request.raw_path)
            _check_host(request)
            headers = end_to_end_headers(request.raw_headers)
        except ProtocolError as error:
            return error_answer(BadRequestError(str(error)), request_id)
        except SyshaxError as error:
            return error_answer(error, request_id)
        own = self._model if path.startswith(MODEL_PREFIX) and path != MODEL_PREFIX else self._own.get(path)
        if own is not None and (request.method in {"GET", "HEAD"} or path == "/ping"):
            return own(request)
        elsewhere = routes.redirected(target, path, self._is_known)
        if elsewhere is not None:
            return Answer(307, b"", headers={"location": elsewhere})
        outgoing = Outgoing(
            method=request.method,
            path=path,
            target=target,
            headers=headers,
            request_id=request_id,
            body=b"",
            keep_alive=self._keeps_open(request, client),
        )
        with self._intake.holding() as held:
            return await self._answer(outgoing, request, client, held)

    def _is_known(self, path: str) -> bool:
        return path in self._own or routes.methods(path, self._engine.methods) != frozenset()

    async def _answer(
        self, outgoing: Outgoing, request: web.BaseRequest, client: ClientConnection, held: HeldBody
    ) -> bool | Answer:
        """Serves a request and records it; returns as `_respond`."""
        record = RequestRecord(outgoing.request_id, outgoing.path, started_at_s=self._loop.time())
        try:
            return await self._serve(outgoing, request, client, held, record)
        except SyshaxError as error:
            answer = error_answer(error, record.request_id, record.route)
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
        request: web.BaseRequest,
        client: ClientConnection,
        held: HeldBody,
        record: RequestRecord,
    ) -> bool:
        path = outgoing.path
        if path in self._own or path.startswith(MODEL_PREFIX):
            raise MethodNotAllowedError(f"{path} takes GET, not {outgoing.method}", allowed=("GET", "HEAD"))
        routes.check(outgoing.method, path, self._engine.methods)
        outgoing.body = await self._intake.receive(request, client, held)
        outgoing.fields = await self._intake.read(outgoing.body, request.content_type)
        body = RequestBody({}) if outgoing.fields is None else outgoing.fields
        place = _place_of(request)
        if not self._allow_router_fields:
            refuse_router_fields(body)
        if path.startswith(routes.RESPONSES) and place is None and self._engine.is_several:
            routes.check_stored(path)
            refuse_stored(body)
        record.stream = streams(body)
        offload = path == routes.OFFLOADED_CHAT
        if offload:
            path = outgoing.path = outgoing.target = routes.CHAT
        return await self._engine.dispatch(
            InferenceRequest(
                request_id=outgoing.request_id,
                model=model_of(body),
                stream=record.stream,
                method=outgoing.method,
                path=path,
                pinned=place,
                full_weights=_wants_full_weights(request),
                offload=offload,
                prompt_tokens=len(outgoing.body) // _BYTES_PER_TOKEN,
                max_tokens=answer_limit(path, body),
            ),
            outgoing,
            client,
            record,
        )

    def _request_id(self, given: str | None) -> str:
        """The client's own id if it is a decent one, else a new one."""
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._id_prefix}-{next(self._ids):x}"

    # The daemon's own routes.

    def _models(self, request: web.BaseRequest) -> Answer:
        return _json({"object": "list", "data": [dict(model) for model in self._engine.models()]})

    def _model(self, request: web.BaseRequest) -> Answer:
        name = split_target(request.raw_path)[1].removeprefix(MODEL_PREFIX)
        known = {model["id"]: model for model in self._engine.models()}
        if name in known:
            return _json(dict(known[name]))
        text = f"the model {name!r} does not exist; there is {', '.join(map(str, known))}"
        error = NotFoundError(text, param="model", code="model_not_found")
        return error_answer(error, self._request_id(request.headers.get("X-Request-Id")))

    def _live(self, request: web.BaseRequest) -> Answer:
        """200 while the daemon lives."""
        return _json({"status": "ok"})

    def _health(self, request: web.BaseRequest) -> Answer:
        """200 while a request could be served, as an inference server's: routers before the host go by it."""
        if self._engine.ready_instances():
            return _json({"status": "ok"})
        return _json({"status": "no instance is ready"}, status=503)

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
        counts = ClientCounts(self.connections, self._front.refused, self.held_bytes)
        text = self._metrics.render(status, counts)
        return Answer(200, text, "text/plain; version=0.0.4; charset=utf-8")


def _place_of(request: web.BaseRequest) -> str | None:
    """The instance that the client requires. `X-Syshax-Place` is the old name of the field."""
    place = request.headers.get("X-Syshax-Instance", request.headers.get("X-Syshax-Place"))
    return None if place is None else place[:_MAX_PLACE_CHARACTERS].encode("utf-8", "replace").decode()


def _wants_full_weights(request: web.BaseRequest) -> bool:
    """Whether the client refuses answers of quantised weights. Raises BadRequestError."""
    asked = request.headers.get("X-Syshax-Weights")
    if asked not in {None, FULL_WEIGHTS}:
        raise BadRequestError(f"X-Syshax-Weights takes {FULL_WEIGHTS} only", code="invalid_weights")
    return asked is not None


def _check_host(request: web.BaseRequest) -> None:
    """Refuses requests that servers may take for different hosts. Raises BadRequestError."""
    hosts = len(request.headers.getall("Host", ()))
    if hosts > 1 or (not hosts and request.version >= (1, 1)):
        raise BadRequestError(f"a request has one Host header field, not {hosts}", code="invalid_host")


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


def _json(body: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())
