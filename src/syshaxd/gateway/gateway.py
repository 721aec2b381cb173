# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAI endpoint: reads each request once, passes it to the Engine, and answers the daemon's own routes."""

import asyncio
import itertools
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from syshaxd.core.config.api_keys import Access, ApiKey
from syshaxd.core.errors import BadRequestError, DaemonUnavailableError, RateLimitedError, SyshaxError
from syshaxd.core.placement.records import Outcome
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.secrets import safe_text
from syshaxd.core.wire.http1 import ProtocolError, end_to_end_headers
from syshaxd.gateway import routes
from syshaxd.gateway.authentication import Authentication
from syshaxd.gateway.batches import BatchApi, BatchOptions, BatchWorker, Lines, send_file
from syshaxd.gateway.bodies import BodyIntake, HeldBody
from syshaxd.gateway.collected import Collected
from syshaxd.gateway.connection import ClientConnection, ClientRequest
from syshaxd.gateway.cors import Cors
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.gateway.document import OPENAPI, open_document
from syshaxd.gateway.errors import Answer, error_answer, internal_error, outcome_of
from syshaxd.gateway.front import Front
from syshaxd.gateway.limits import Limits
from syshaxd.gateway.listening import Listener
from syshaxd.gateway.own import OwnRoutes
from syshaxd.gateway.rates import LimitedRequest, RateLimiter, used_tokens
from syshaxd.gateway.reading import RequestReader
from syshaxd.gateway.tls import Tls
from syshaxd.observe.access_log import AccessLog, Caller
from syshaxd.observe.metrics import ClientCounts, MetricsService
from syshaxd.serving.engine import Engine
from syshaxd.serving.request import Request, is_request_id

if TYPE_CHECKING:
    from syshaxd.observe.tracing import Tracing  # which needs OpenTelemetry

_log = logging.getLogger(__name__)
_FIRST_REQUEST_LIMIT_S = 0.2
_MAX_LOGGED_PATH = 2048


class Gateway:
    """Serves the OpenAI API over HTTP."""

    def __init__(
        self,
        engine: Engine,
        metrics: MetricsService,
        status: Callable[[], EngineStatus],
        *,
        limits: Limits | None = None,
        cors_origins: Sequence[str] = ("*",),
        allow_router_fields: bool = False,
        authentication: Authentication | None = None,
        tls: Tls | None = None,
        public_routes: Collection[str] = (),
        dashboard: Dashboard | None = None,
        access_log: AccessLog | None = None,
        tracing: "Tracing | None" = None,
        batches: BatchOptions | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepares to serve.

        Args:
            engine: Places requests.
            metrics: Counts them.
            status: Tells everything at a moment, for the metrics.
            limits: What clients may take; None: the defaults.
            cors_origins: Whose pages may use the endpoint.
            allow_router_fields: Clients may set what only routers need.
            authentication: Checks the clients' API keys; None: none are needed.
            tls: Encrypts the connections; None: they are not encrypted.
            public_routes: Further routes of the instances that clients may use.
            dashboard: The page of states and loads; None: there is none.
            access_log: Gets a line for each request; None: there is none.
            tracing: Traces requests; None: none are.
            batches: How files and batches are kept; None: there are none.
            clock: Seconds that never go back; None: the loop's.
        """
        self._engine = engine
        self._metrics = metrics
        self._status = status
        self._loop = asyncio.get_running_loop()
        self._cors = Cors(cors_origins)
        self._authentication = authentication or Authentication()
        self._tls = tls
        its = limits or Limits()
        self._limiter = RateLimiter(its.rates, its.max_prompt_tokens, clock or self._loop.time)
        self._limited: Counter[str] = Counter()
        self._routes = routes.PublicRoutes(engine.registry.methods, public_routes)
        self._intake = BodyIntake(its)
        self._reader = RequestReader(self._intake, self._routes, engine.registry, router_fields=allow_router_fields)
        self._front = front = Front(self._handle, its, clock or self._loop.time)
        self._listener = Listener(front, tls=tls, handshake_limit_s=lambda: front.limits.head_timeout_s)
        self._access_log = access_log
        self._tracing = tracing
        self.batch_worker: BatchWorker | None = None
        """Carries batches out; None: there are none."""
        self._batches: BatchApi | None = None
        if batches is not None:
            lines = Lines(
                engine,
                metrics,
                self._intake,
                self._authentication,
                self._limiter,
                router_fields=allow_router_fields,
            )
            self.batch_worker = BatchWorker(batches.store, lines.begin, max_concurrency=batches.max_concurrency)
            self._batches = BatchApi(self.batch_worker)
        self._stopping = False
        self._sweeper: asyncio.Task[None] | None = None
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)
        self._own = OwnRoutes(engine.registry, self._render_metrics, self._load, dashboard)

    @property
    def works(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What runs beside the endpoint, by name."""
        works: dict[str, Callable[[], Awaitable[None]]] = {}
        if self._access_log is not None:
            works["access log"] = self._access_log.run
        if self.batch_worker is not None:
            works["batches"] = self.batch_worker.run
        return works

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._front.open)

    @property
    def held_bytes(self) -> int:
        """Bytes of request bodies in memory."""
        return self._intake.held_bytes

    def sweep(self) -> None:
        """Closes connections whose clients are too slow, and returns memory. Called periodically."""
        self._front.sweep()
        self._intake.trim()

    async def start(self, host: str, port: int, handed: Sequence[socket.socket] = ()) -> str:
        """Listens; returns the URL of the endpoint. Arguments and errors are those of `Listener.start`."""
        url = await self._listener.start(host, port, handed)
        self._sweeper = self._loop.create_task(self._front.sweep_for_ever(self.sweep))
        return url

    async def serve_handed(self) -> None:
        """Accepts connections of the inherited sockets, including those that are waiting."""
        await self._listener.serve_handed()

    async def stop(self, drain_timeout_s: float) -> None:
        """Stops accepting, waits for running requests, then closes every connection. May be called again."""
        if self._sweeper is None:
            return
        self._stopping = True
        if self.batch_worker is not None:
            self.batch_worker.stop()
        self._listener.close()
        self._sweeper.cancel()
        self._close_idle(lambda connection: not connection.fresh)
        if drain_timeout_s and any(connection.fresh for connection in self._front.open):
            # systemd may keep the socket open, so new clients wait there for the next daemon.
            await asyncio.sleep(_FIRST_REQUEST_LIMIT_S)
        self._close_idle(lambda _: True)
        await self._engine.drain(drain_timeout_s)
        await self._front.close(timeout_s=1.0)
        self._intake.close()

    def _close_idle(self, which: Callable[[ClientConnection], bool]) -> None:
        for connection in list(self._front.open):
            if not connection.busy and which(connection):
                connection.hang_up()

    # Requests.

    async def _handle(self, client: ClientConnection, request: ClientRequest) -> bool:
        """Answers a request, whatever happens; returns whether the connection may stay open."""
        request_id = self._request_id(request.headers.get("X-Request-Id"))
        try:
            found = self._examine(client, request, request_id)
            if isinstance(found, Answer):
                result: Answer | bool = found
                if self._access_log is not None and found.status >= 400:
                    path = safe_text(request.target.partition("?")[0][:_MAX_LOGGED_PATH])
                    caller = Caller(client=_address(client), method=request.method, path=path)
                    self._access_log.refused(caller, request_id, found.status)
            elif self._batches is not None and self._batches.knows(found.path):
                result = await self._serve_batches(self._batches, client, request, found)
            else:
                result = await self._serve_recorded(client, request, found)
        except asyncio.CancelledError:
            if client.answer_begun:
                client.abort()
            raise
        except Exception:  # noqa: BLE001 - a bug of ours: the client gets an answer, the log the trace
            _log.exception("request %s", request_id, extra={"request_id": request_id})
            result = internal_error(request_id)
        if not isinstance(result, Answer):
            return result and not self._stopping
        if client.answer_begun:
            client.abort()
            return False
        stays_open = self._keeps_open(client, request) and request.body.is_eof()
        head_only = request.method == "HEAD"
        client.writer()(result.to_bytes(close=not stays_open, head_only=head_only, extra=client.answer_lines))
        return stays_open

    def _keeps_open(self, client: ClientConnection, request: ClientRequest) -> bool:
        return request.keep_alive and not (client.refused or self._stopping)

    def _examine(self, client: ClientConnection, request: ClientRequest, request_id: str) -> Request | Answer:
        """The request for an instance, or the answer."""
        client.answer_lines = b""
        path = ""
        origin = request.headers.get("Origin")
        if origin is not None:
            preflight = self._cors.preflight(request.method, origin, request.headers)
            if preflight is not None:
                return preflight
            client.answer_lines = self._cors.lines(origin)
        try:
            if client.refused:
                raise DaemonUnavailableError("too many connections are open; try again later", retry_after_s=1.0)
            target, path = routes.split_target(request.target)
            key = self._authentication.caller(path, request.headers)
            if path not in routes.ALWAYS:
                if path.startswith("/dashboard"):
                    client.answer_lines = b""  # pages of other origins may use the API, not look at whose page it is
                if self._own.knows(path):
                    return self._own.answer(request.method, path, target.partition("?")[2], key)
                elsewhere = routes.redirected(target, path, self._is_known)
                if elsewhere is not None:
                    return Answer(307, b"", headers={"location": elsewhere})
            headers = end_to_end_headers(request.header_lines, credentials=key is None)
        except ProtocolError as error:
            return error_answer(BadRequestError(str(error)), request_id, path)
        except SyshaxError as error:
            return error_answer(error, request_id, path)
        return Request(
            id=request_id,
            route=path,
            method=request.method,
            path=path,
            target=target,
            headers=headers,
            client=client,
            key=key,
            own_credentials=key is not None,
            keep_alive=self._keeps_open(client, request),
            started_at_s=self._loop.time(),
        )

    def _is_known(self, path: str) -> bool:
        return self._own.knows(path) or self._routes.methods(path) != frozenset()

    def _document(self, collected: Collected, key: ApiKey | None) -> Answer:
        """An instance's OpenAPI document as a client with this key gets it. Raises InstanceFailedError."""
        status, body = collected.answer()
        if status != HTTPStatus.OK:
            return Answer(status, body)
        return Answer(status, open_document(body, partial(self._is_open, key), self._authentication.needs_key))

    def _is_open(self, key: ApiKey | None, method: str, path: str) -> bool:
        """Whether a client with this key may use a method of a route of the daemon's or of an instance's."""
        if not self._authentication.permits(key, path):
            return False
        if self._own.takes(method, path):
            return True
        if self._batches is not None and self._batches.knows(path):
            return self._batches.takes(method, path)
        admin = key is not None and key.access is Access.ADMIN
        try:
            self._routes.check(method, path, admin=admin, pinned=True)
        except BadRequestError:
            return False
        return True

    async def _serve_batches(
        self, batches: BatchApi, client: ClientConnection, request: ClientRequest, asked: Request
    ) -> bool | Answer:
        held = HeldBody(self._intake)
        try:
            self._authentication.check_instances_key(request.headers, self._engine.registry.specs.values())
            result = await batches.answer(
                asked.method,
                asked.path,
                asked.target.partition("?")[2],
                key=asked.key,
                content_type=request.headers.get("Content-Type", ""),
                body=await self._intake.receive(request, client, held),
            )
        except SyshaxError as error:
            return error_answer(error, asked.id, asked.route)
        finally:
            held.give_back()
        if isinstance(result, Answer):
            return result
        return await send_file(client, result, keep_alive=asked.keep_alive)

    async def _serve_recorded(self, client: ClientConnection, request: ClientRequest, asked: Request) -> bool | Answer:
        """Whether the connection may stay open, when an instance's answer has been sent; else the answer."""
        outcome = Outcome.FAILED
        held = HeldBody(self._intake)
        limited: LimitedRequest | None = None
        trace = None
        if self._tracing is not None:
            trace = self._tracing.begin(asked.started_at_s, request.headers, asked.headers)
            asked.headers = trace.lines
        try:
            limited = self._limiter.begin(asked.key)
            await self._reader.read(client, request, asked, held, limited)
            client.answer_lines += self._limiter.header_lines(asked.key)
            if (asked.method, asked.path) == ("GET", OPENAPI):
                asked.client = collected = Collected()
                outcome = await self._engine.dispatch(asked)
                return self._document(collected, asked.key)
            outcome = await self._engine.dispatch(asked)
            return asked.keep_alive
        except SyshaxError as error:
            if isinstance(error, RateLimitedError):
                self._limited[error.limit] += 1
                client.answer_lines += self._limiter.header_lines(asked.key)
            answer = error_answer(error, asked.id, asked.route)
            asked.status = answer.status
            outcome = outcome_of(error)
            if outcome is Outcome.FAILED:
                _log.warning("request %s: %s", asked.id, error, extra={"request_id": asked.id})
            return answer
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED if asked.cancelled else Outcome.CLIENT_GONE
            raise
        finally:
            held.give_back()
            record = asked.record(outcome, self._loop.time())
            if trace is not None:
                trace.end(record, method=asked.method, model=asked.inference.model)
            if self._access_log is not None:
                caller = Caller(
                    client=_address(client),
                    method=asked.method,
                    path=asked.route,
                    model=asked.inference.model,
                    key="" if asked.key is None else asked.key.name,
                )
                self._access_log.request(caller, record)
            prompt_tokens = asked.inference.prompt_tokens
            asked.release()
            if limited is not None:
                limited.end(used_tokens(record, prompt_tokens))
            self._metrics.record(record)
            self._engine.requests.keep(record)

    def _request_id(self, given: str | None) -> str:
        """The client's own ID if it is valid, else a new one."""
        if given is not None and is_request_id(given):
            return given
        return f"{self._id_prefix}-{next(self._ids):x}"

    def _load(self) -> int:
        """Requests that run or wait."""
        return self._engine.queued + sum(self._engine.inflight.values())

    def _render_metrics(self) -> bytes:
        counts = ClientCounts(
            self.connections,
            self._front.refused,
            self.held_bytes,
            self._authentication.refused,
            {} if self._tls is None else self._tls.ends_at_s,
            self._limited,
        )
        return self._metrics.render(self._status(), counts)


def _address(client: ClientConnection) -> str:
    peer = client.peer
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
