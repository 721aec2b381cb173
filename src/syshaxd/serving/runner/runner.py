# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runner: sends requests to instances over pooled connections, and gives up those that are silent."""

import asyncio
from dataclasses import dataclass

from syshaxd.core.address import Address
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.types import InstanceSpec
from syshaxd.core.wire.http1 import request_head
from syshaxd.serving.request import Request
from syshaxd.serving.runner.exchange import Exchange, Part
from syshaxd.serving.runner.time_limits import TimeLimits
from syshaxd.serving.runner.upstream import IDLE_LIMIT_S, UpstreamPool

SWEEP_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class _Server:
    """What each request to an instance needs."""

    spec: InstanceSpec
    pool: UpstreamPool
    host: str
    """Its Host field."""
    authorization: bytes
    """The header lines by which it knows the daemon."""


class Runner:
    """Keeps the connections to all instances. Lives in one event loop."""

    def __init__(self, limits: TimeLimits) -> None:
        """Has no connection yet."""
        self.loop = asyncio.get_running_loop()
        """For those who need it on a request's way: to ask asyncio for it costs a system call."""
        self.limits = limits
        """May be changed at any time."""
        self._pools: dict[Address, UpstreamPool] = {}
        self._exchanges: dict[Exchange, Request] = {}
        self._servers: dict[str, _Server] = {}

    async def exchange(
        self, spec: InstanceSpec, request: Request, exchange: Exchange, part: Part | None = None
    ) -> None:
        """Sends a request to an instance; returns when its answer is over. Cancelling drops the connection.

        Args:
            spec: The instance.
            request: The client's.
            exchange: Takes the response.
            part: What the instance is asked; None: what the client has asked.

        Raises:
            InstanceFailedError: What the exchange was settled with.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        body = request.body if part is None else part.body
        server = self._server(spec)
        pool = server.pool
        connection = pool.take()
        self._exchanges[exchange] = request
        reused = connection is not None
        broken: InstanceFailedError | None = None
        try:
            while True:
                if connection is None:
                    try:
                        connection = await pool.connect(self.limits.connect_s)
                    except InstanceFailedError as error:
                        raise broken or error from None  # the instance has gone with its connection
                exchange.start(connection)
                connection.request(_head(server, request, part), body, exchange, bodiless=request.method == "HEAD")
                try:
                    await exchange.done
                except InstanceFailedError as error:
                    # It may have been closed just while it was idle: that says nothing about the instance.
                    if not reused or exchange.progress:
                        raise
                    connection, reused, broken = None, False, error
                    exchange.done = self.loop.create_future()
                else:
                    return
        finally:
            del self._exchanges[exchange]
            exchange.cancel()

    def _server(self, spec: InstanceSpec) -> _Server:
        known = self._servers.get(spec.name)
        if known is None or known.spec is not spec:
            address = spec.address
            pool = self._pools.get(address)
            if pool is None:
                pool = self._pools[address] = UpstreamPool(address, self.loop)
            lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in own_headers(spec).items())
            known = self._servers[spec.name] = _Server(spec, pool, address.authority, lines)
        return known

    async def sweep(self) -> None:
        """Closes idle connections and gives up silent exchanges, for ever: one timer for all of them."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = self.loop.time()
            for pool in self._pools.values():
                pool.close_idle(IDLE_LIMIT_S - SWEEP_INTERVAL_S)
            for exchange, request in list(self._exchanges.items()):
                self._check_time(exchange, request, now)

    def _check_time(self, exchange: Exchange, request: Request, now_s: float) -> None:
        limits = self.limits
        if limits.total_s is not None and now_s - request.started_at_s > limits.total_s:
            request.expired = True
            exchange.timed_out("the answer was not complete", limits.total_s)
            return
        begins = request.inference.stream and request.ttft_s is None
        limit_s = (limits.first_token_s if begins else None) or limits.silence_s
        if exchange.silent_s(now_s) > limit_s:
            exchange.timed_out("the instance was silent", limit_s)

    def close(self) -> None:
        """Closes all idle connections."""
        for pool in self._pools.values():
            pool.close_idle()


def _head(server: _Server, request: Request, part: Part | None) -> bytes:
    return request_head(
        request.method,
        request.target if part is None else part.target,
        server.host,
        request.headers + server.authorization if request.own_credentials else request.headers,
        request_id=request.id if part is None else part.request_id,
        length=len(request.body if part is None else part.body),
    )
