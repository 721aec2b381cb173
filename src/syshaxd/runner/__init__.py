# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runner: carries out a placement. Sends the request to the instance and relays what comes back."""

import asyncio
from dataclasses import dataclass

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.http1 import request_head
from syshaxd.core.types import InstanceSpec, RequestRecord
from syshaxd.runner.relay import Downstream, Relay
from syshaxd.runner.upstream import IDLE_LIMIT_S, UpstreamConnection, UpstreamPool

__all__ = ["Downstream", "Outgoing", "Relay", "Runner"]

SWEEP_INTERVAL_S = 1.0


@dataclass(slots=True)
class Outgoing:
    """A client's request as it goes to an instance, whichever that will be."""

    method: str
    target: str
    """Path and query."""
    headers: bytes
    """The client's header lines that go to an instance, from `core.http1`."""
    request_id: str
    body: bytes
    keep_alive: bool
    """The client's connection may stay open afterwards."""


class Runner:
    """Relays requests to instances over pooled connections."""

    def __init__(self, *, silence_limit_s: float) -> None:
        """`silence_limit_s`: an instance (or a client) that moves nothing for so long is given up."""
        self._loop = asyncio.get_running_loop()
        self._silence_limit_s = silence_limit_s
        self._pools: dict[tuple[str, int], UpstreamPool] = {}
        self._relays: dict[Relay, tuple[int, float]] = {}

    async def run(
        self, spec: InstanceSpec, outgoing: Outgoing, client: Downstream, record: RequestRecord, *, last_try: bool
    ) -> bool:
        """Sends the request to the instance and its answer to the client.

        A failure after the first byte ends the client's stream with an error event, or its connection: it is told in
        the record's outcome. Cancelling this drops the connection to the instance, which stops working on the request.

        Args:
            spec: The instance.
            outgoing: The request.
            client: Where the answer goes.
            record: Filled with status, times and tokens.
            last_try: There is no other instance to ask: its own error is the answer.

        Returns:
            Whether the client's connection may stay open.

        Raises:
            InstanceFailedError: Nothing was sent to the client; another instance may be asked.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        pool = self._pool(spec)
        connection = pool.take()
        relay = Relay(
            client,
            record,
            placement=spec.name,
            keep_alive=outgoing.keep_alive,
            last_try=last_try,
            clock=self._loop.time,
            done=self._loop.create_future(),
        )
        client.attach(relay)
        try:
            if connection is not None:
                try:
                    await self._exchange(connection, spec, outgoing, relay)
                except InstanceFailedError:
                    # It may have been closed just while it was idle: that says nothing about the instance.
                    if relay.progress:
                        raise
                    relay.done = self._loop.create_future()
                else:
                    return relay.keep_alive
            await self._exchange(await pool.connect(), spec, outgoing, relay)
            return relay.keep_alive
        finally:
            client.detach()
            relay.cancel()

    async def _exchange(
        self, connection: UpstreamConnection, spec: InstanceSpec, outgoing: Outgoing, relay: Relay
    ) -> None:
        relay.start(connection)
        head = request_head(
            outgoing.method,
            outgoing.target,
            spec.address,
            outgoing.headers,
            request_id=outgoing.request_id,
            length=len(outgoing.body),
        )
        parts = [head, outgoing.body] if outgoing.body else [head]
        connection.request(parts, relay, bodiless=outgoing.method == "HEAD")
        self._relays[relay] = (-1, 0.0)
        try:
            await relay.done
        finally:
            del self._relays[relay]

    def _pool(self, spec: InstanceSpec) -> UpstreamPool:
        key = (spec.host, spec.port)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = UpstreamPool(spec.host, spec.port, self._loop)
        return pool

    async def sweep(self) -> None:
        """Closes idle connections and gives up silent exchanges, for ever: one timer for all of them."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = self._loop.time()
            for pool in self._pools.values():
                pool.close_idle(IDLE_LIMIT_S - SWEEP_INTERVAL_S)
            for relay, (progress, since) in list(self._relays.items()):
                if relay.progress != progress:
                    self._relays[relay] = (relay.progress, now)
                elif now - since > self._silence_limit_s:
                    relay.timed_out(self._silence_limit_s)

    def close(self) -> None:
        """Closes all idle connections."""
        for pool in self._pools.values():
            pool.close_idle()
