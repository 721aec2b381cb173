# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""vLLM's HTTP API over the simulated engine."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Self

from aiohttp import web

from syshax_sim import metrics
from syshax_sim.engine import Engine, Generation
from syshax_sim.faults import Faults
from syshax_sim.handover import Arena, KvStore
from syshax_sim.images import Images
from syshax_sim.profile import Profile
from syshax_sim.reply import Reply, compact
from syshax_sim.stream import Stream
from syshax_sim.text import detokenize, render_chat, tokenize
from syshax_sim.wire import (
    VERSION,
    ApiError,
    Ask,
    check_model,
    malformed,
    messages_of,
    parse_ask,
    parse_object,
)

_MAX_BODY_BYTES = 64 * 1024 * 1024
_PROMPT_IDS_SINCE = (0, 32)
"""The first version whose chats take `kv_transfer_params.prompt_token_ids`."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SimInstance:
    """One simulated vLLM server. `async with SimInstance(profile) as sim:` listens until the block ends."""

    def __init__(
        self,
        profile: Profile,
        *,
        model: str = "m",
        host: str = "127.0.0.1",
        port: int = 0,
        old_metric_names: bool = False,
        version: str = VERSION,
        kv_store: KvStore | None = None,
        images: Images | None = None,
        document: dict[str, object] | None = None,
        die: Callable[[int], None] | None = None,
    ) -> None:
        """Remembers what to simulate.

        Args:
            profile: The device.
            model: The model's name in the API.
            host: Address to listen at.
            port: Port to listen at; 0: any, see `port` after the start.
            old_metric_names: Whether /metrics uses the names from before V1.
            version: That of vLLM, as /version reports it.
            kv_store: Where KV caches are handed over; instances that share one can do that.
            images: Speaks the dialect of the patched images 0.2.x, in this way. Default: it does not.
            document: Its /openapi.json. Default: one that lists the routes without describing them.
            die: What the fault `die` does. Default: all connections are closed, and no new ones are accepted.
        """
        self.engine = Engine(profile)
        self.faults = Faults()
        self.requests = 0
        """POSTs to /v1/... so far."""
        self.model = model
        self.host = host
        self.port = port
        self.kv_store = kv_store or KvStore()
        self._arena = Arena(
            token_bytes=profile.kv_token_bytes,
            size_bytes=profile.arena_bytes,
            bytes_per_s=profile.handover_bytes_per_s,
        )
        self._version = version
        self._document = document
        self._takes_prompt_ids = tuple(map(int, version.split(".")[:2])) >= _PROMPT_IDS_SINCE
        self._images = images
        self._old_metric_names = old_metric_names
        self._die = die or (lambda _: self.kill())
        self._created = int(time.time())
        self._unhung = asyncio.Event()
        self._steps: asyncio.Task[None] | None = None
        self._listener: asyncio.Server | None = None
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[self._guard])
        self._routes: dict[str, tuple[str, _Handler]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._complete),
            "/v1/models": ("GET", self._models),
            "/health": ("GET", self._health),
            "/ping": ("GET", self._ping),
            "/version": ("GET", self._tell_version),
            "/load": ("GET", self._load),
            "/metrics": ("GET", self._metrics),
            "/tokenize": ("POST", self._tokenize),
            "/detokenize": ("POST", self._detokenize),
            "/openapi.json": ("GET", self._openapi),
        }
        for path, (method, handler) in self._routes.items():
            app.router.add_route(method, path, handler)
        app.router.add_post("/sim/fault", self._set_faults)
        app.router.add_get("/sim/stats", self._stats)
        # A client that goes away ends its request, as in vLLM.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._runner.server, self.host, self.port, backlog=4096)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._steps = asyncio.create_task(self.engine.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._steps is not None:
            self._steps.cancel()
            with suppress(asyncio.CancelledError):
                await self._steps
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    def set_faults(self, faults: Faults) -> None:
        """Puts `faults` in force, in place of those that were."""
        self.faults = faults
        self.engine.stall(faults.stall)
        if not faults.hang:
            self._unhung.set()
            self._unhung = asyncio.Event()

    def kill(self) -> None:
        """Stops listening and breaks every connection, as when the process dies."""
        if self._listener is not None:
            self._listener.close()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path.startswith("/sim/"):
            return await handler(request)
        while self.faults.hang:
            await self._unhung.wait()
        try:
            return await handler(request)
        except ApiError as error:
            return _json(error.body, error.status)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            return _json({"detail": error.reason}, error.status)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        self.requests += 1
        self._fail_if_told()
        if request.content_type != "application/json":
            raise malformed("Unsupported Media Type: Only 'application/json' is allowed", "body")
        data = await request.read()
        if self.faults.poison and self.faults.poison.encode() in data:
            await asyncio.sleep(self.faults.poison_after_s)
            self._die(1)
        ask = parse_ask(
            data,
            chat=chat,
            model=self.model,
            profile=self.engine.profile,
            takes_prompt_ids=self._takes_prompt_ids,
        )
        ident = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        ident = f"chatcmpl-{ident}" if chat else f"cmpl-{ident}"
        if self._images is not None and chat:
            ask, ident = self._images.part(ask, parse_object(data), ident)
        if ask.orders.load is not None:
            await self.kv_store.published(ask.orders.load)
        faults = self.faults
        if ask.stream and faults.error_first:
            error = {"message": "simulated fault", "type": "InternalServerError", "param": None}
            events = f"data: {compact({'error': error | {'code': faults.error_first}})}\n\ndata: [DONE]\n\n"
            return web.Response(text=events, content_type="text/event-stream", headers=faults.answer_headers)
        reply = Reply(ask, ident=ident, model=self.model, created=int(time.time()), event_fields=faults.event_fields)
        if ask.stream:
            stream = Stream(
                request,
                ask,
                reply,
                tokens_per_event=self.engine.profile.tokens_per_event,
                break_after_events=faults.break_after_events,
                break_after_last_token=faults.break_after_last_token,
                headers=faults.answer_headers,
            )
            generations = self._start(ask, stream.on_token)
            try:
                return await stream.run(generations)
            finally:
                self._end(ask, generations)
        done = asyncio.Event()
        generations = self._start(ask, lambda _: done.set() if all(item.finished for item in generations) else None)
        try:
            await done.wait()
        finally:
            self._end(ask, generations)
        return web.Response(body=reply.whole(), content_type="application/json", headers=faults.answer_headers)

    def _fail_if_told(self) -> None:
        status, left = self.faults.api_status, self.faults.api_faults
        if status == 200:
            return
        if left:
            self.faults = self.faults.changed({"api_faults": left - 1} if left > 1 else {"api_status": 200})
        raise ApiError(status, "simulated fault", kind="InternalServerError")

    def _start(self, ask: Ask, on_token: Callable[[Generation], None]) -> list[Generation]:
        loaded = 0 if self.faults.lose_loads else ask.loaded_tokens
        if ask.orders.load is not None:
            loaded = 0 if self.faults.lose_loads else self.kv_store.load(ask.orders.load, _known_ids(ask))
            ask.orders.cached_tokens = loaded
        generations = [
            Generation(choice.prompt_tokens, choice.max_tokens, on_token, loaded_tokens=loaded)
            for choice in ask.choices
        ]
        for generation in generations:
            self.engine.add(generation)
        return generations

    def _end(self, ask: Ask, generations: list[Generation]) -> None:
        """The request is over, by itself or because its client has gone."""
        if all(generation.finished for generation in generations):
            ask.orders.finish(self.kv_store, self._arena, _known_ids(ask, generations[0].tokens))
        else:
            ids = _known_ids(ask, generations[0].tokens)
            ask.orders.abort(self.kv_store, self._arena, ids, step_left_s=self.engine.step_left_s)
        for generation in generations:
            self.engine.abort(generation)

    async def _models(self, request: web.Request) -> web.Response:
        card = {
            "id": self.model,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": self.model,
            "parent": None,
            "max_model_len": self.engine.profile.max_model_len,
            "permission": [],  # vLLM has one object here, which allows everything
        }
        return _json({"object": "list", "data": [card]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.faults.health_status)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _tell_version(self, request: web.Request) -> web.Response:
        return _json({"version": self._version})

    async def _load(self, request: web.Request) -> web.Response:
        return _json({"server_load": len(self.engine.running) + len(self.engine.waiting)})

    async def _metrics(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.faults.metrics_delay_s)
        text = self.faults.metrics_text or metrics.render(
            self.engine, model=self.model, old_names=self._old_metric_names
        )
        return web.Response(text=text, content_type="text/plain")

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        check_model(body, self.model)
        text = render_chat(messages_of(body)) if "messages" in body else str(body.get("prompt", ""))
        ids = tokenize(text)
        max_len = self.engine.profile.max_model_len
        return _json({"count": len(ids), "max_model_len": max_len, "tokens": ids, "token_strs": None})

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        check_model(body, self.model)
        ids = body.get("tokens")
        if not isinstance(ids, list) or not all(type(each) is int and each >= 0 for each in ids):
            raise malformed("Input should be a valid list of integers", "body.tokens")
        return _json({"prompt": detokenize(ids)})

    async def _openapi(self, request: web.Request) -> web.Response:
        if self._document is not None:
            return _json(self._document)
        paths: dict[str, object] = {path: {method.lower(): {}} for path, (method, _) in self._routes.items()}
        return _json({"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths})

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            faults = self.faults.changed(parse_object(await request.read()))
        except (ValueError, ApiError) as error:
            return _json({"detail": str(error)}, 400)
        if faults.die is not None:
            self._die(faults.die)
        if faults.busy_s:
            asyncio.get_running_loop().call_soon(_compute, faults.busy_s)
            faults = faults.changed({"busy_s": 0.0})
        self.set_faults(faults)
        return _json(asdict(faults))

    async def _stats(self, request: web.Request) -> web.Response:
        state = {
            "requests": self.requests,
            "running": len(self.engine.running),
            "waiting": len(self.engine.waiting),
            "kv_used_tokens": self.engine.kv_used_tokens,
        }
        return _json(state | asdict(self.engine.counters))


def _known_ids(ask: Ask, generated: int = 0) -> list[int]:
    """The tokens of the prompt, and of the answer as far as it has got."""
    choice = ask.choices[0]
    return choice.prompt.token_ids() + [choice.token_id(at, wide=ask.wide) for at in range(generated)]


def _compute(duration_s: float) -> None:
    """Keeps the loop's thread busy."""
    until_s = time.monotonic() + duration_s
    while time.monotonic() < until_s:
        pass


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=compact(body).encode(), status=status, content_type="application/json")
