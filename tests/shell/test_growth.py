# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is remembered of requests, keys, models, conversations, clients and leases has a bound."""

import asyncio
import gc
import sys
import types
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.errors import NotFoundError
from syshaxd.core.events import EventKind
from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.rate_limits import RateLimits
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.retries import Suspects
from syshaxd.core.wire import http1
from syshaxd.gateway.connection import ClientConnection
from syshaxd.gateway.front import Front
from syshaxd.gateway.limits import Limits
from syshaxd.gateway.rates import RateLimiter
from syshaxd.observe.metrics import MetricsService
from syshaxd.serving.leases import Leases
from tests.fakes.daemon import FakeDaemon, fake_daemon

MOST = 10_000
"""Entries of the largest memory, that of conversations."""
IDS = MOST + 1000


class Clock:
    """A second passes between two ids."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Client:
    """A connection of an address of its own."""

    refused = False

    def __init__(self, number: int) -> None:
        self.peer = (f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 1)

    def abort(self) -> None:
        pass


class Parts:
    """The parts that see what clients choose."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.clock = Clock()
        self.daemon = daemon
        self.leases = Leases(daemon.engine)
        self.metrics = MetricsService(now=self.clock, clock=self.clock)
        self.rates = RateLimiter(RateLimits(), None, self.clock)
        self.suspects = Suspects()
        self.front = Front(cast("Any", None), Limits(max_body_bytes=1, max_connections_per_address=5), self.clock)

    def drive(self, number: int) -> None:
        """One request with an id, a key, a model, a conversation, an address and lengths of its own."""
        self.clock.now_s += 1.0
        connection = cast("ClientConnection", Client(number))
        self.front.opened(connection)
        self.front.closed(connection)

        key = ApiKey(name=f"key{number}", sha256=f"{number:064x}", requests_per_minute=10, max_requests=5)
        limited = self.rates.begin(key)
        limited.expect(7)
        limited.end(9)

        request = InferenceRequest(
            request_id=f"id{number}", model="", stream=True, key=key.name, conversation=number + 1, prompt_tokens=number
        )
        _, lease = self.leases.place(request, ttl_s=60.0 + number % 7)
        assert lease
        self.leases.end(lease, tokens_out=number % 50)
        with pytest.raises(NotFoundError):
            self.leases.place(
                InferenceRequest(request_id="x", model=f"model{number}", path=f"/v1/{number}", stream=False)
            )

        admission = self.daemon.engine._admission
        ended = InferenceRequest(request_id="x", model=f"adapter{number}", stream=False, key=key.name)
        admission.observe_answer(Claim(ended).request, 1.0, 5, ())

        (record,) = self.daemon.engine.requests.ended()[-1:]
        self.metrics.record(record)
        self.daemon.engine.events.add(EventKind.REQUEST, f"request id{number}")
        self.suspects.add(f"/v1/{number}", b"x" * (number % 100), self.clock())
        self.suspects.abandon("gpu", f"/v1/{number}", b"y", self.clock())
        http1.parse_response_head(b"HTTP/1.1 200 OK\r\nx-request-id: %d" % number)
        http1.complete_chunks(b"%x\r\n" % number)


BOUNDS: dict[str, tuple[int, Callable[[Parts], int]]] = {
    "latest decisions": (2000, lambda parts: len(parts.daemon.engine.requests.decisions.latest())),
    "latest ends of requests": (2000, lambda parts: len(parts.daemon.engine.requests.ended())),
    "latest events": (1000, lambda parts: len(parts.daemon.engine.events.latest())),
    "conversations": (10_000, lambda parts: len(parts.daemon.engine._admission._placer._conversations._instances)),
    "suspects": (1024, lambda parts: len(parts.suspects)),
    "bodies that clients have abandoned": (1024, lambda parts: len(parts.suspects._abandoned)),
    "kinds of requests with lengths of their own": (
        256,
        lambda parts: len(parts.daemon.engine._admission._placer.estimates.lengths_by_kind),
    ),
    "meters of keys": (1000, lambda parts: len(parts.rates._meters)),
    "candidates of models": (1000, lambda parts: len(parts.daemon.registry._kept)),
    "lines of heads": (4096, lambda _: http1._header.cache_info().currsize),
    "sizes of chunks": (4096, lambda _: len(http1._SIZES)),
}
"""What is kept of those that have gone, and how much of it at most."""
GONE: dict[str, Callable[[Parts], int]] = {
    "leases": lambda parts: len(parts.leases._leases),
    "requests in flight": lambda parts: len(parts.daemon.engine.requests.running),
    "connections by address": lambda parts: len(parts.front._per_address),
}
"""What goes with its request or connection."""


async def test_what_is_kept_has_a_bound(tmp_path: Path) -> None:
    async with fake_daemon(tmp_path) as daemon:
        parts = Parts(daemon)
        before = {id(each) for each in large(roots(parts))}
        for number in range(IDS):
            parts.drive(number)
            if number % 100 == 0:
                await asyncio.sleep(0)  # the event loop forgets timers that were cancelled
        kept = {name: count(parts) for name, (_, count) in BOUNDS.items()}
        assert {name: count for name, count in kept.items() if not 0 < count <= BOUNDS[name][0]} == {}
        assert {name: count(parts) for name, count in GONE.items()} == dict.fromkeys(GONE, 0)
        # Whatever else the parts hold, at any depth.
        grown = [each for each in large(roots(parts)) if id(each) not in before]
        assert [(type(each).__name__, len(each), str(next(iter(each)))[:99]) for each in grown] == []
        assert daemon.engine.requests.ended()[-1].outcome is Outcome.OK
        parts.leases.close()


def roots(parts: Parts) -> list[object]:
    modules = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("syshaxd.")]
    return [parts, *modules]


def large(start: Iterable[object]) -> list[Any]:
    """The containers with more than `MOST` entries that can be reached."""
    skipped = (type, types.ModuleType, types.FunctionType, types.FrameType, types.CodeType, str, bytes, int, float)
    seen: set[int] = set()
    found: list[Any] = []
    waiting: deque[object] = deque(start)
    while waiting:
        each = waiting.popleft()
        if id(each) in seen or isinstance(each, skipped):
            continue
        seen.add(id(each))
        if isinstance(each, dict | list | set | frozenset | deque | tuple | Counter) and len(each) > MOST:
            found.append(each)
        waiting.extend(gc.get_referents(each))
    return found
