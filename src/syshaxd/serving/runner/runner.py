# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runner: carries out a placement. Sends the request to the instance and relays what comes back."""

import asyncio

from syshaxd.core.address import Address
from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.placement.records import RequestRecord
from syshaxd.core.types import InstanceSpec
from syshaxd.core.wire.http1 import request_head
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.exchange import Downstream, Exchange, Flow, Outgoing
from syshaxd.serving.runner.relay import Relay
from syshaxd.serving.runner.upstream import IDLE_LIMIT_S, UpstreamPool

__all__ = ["Downstream", "Flow", "Outgoing", "Relay", "Runner"]

SWEEP_INTERVAL_S = 1.0


class Runner:
    """Relays requests to instances over pooled connections."""

    def __init__(self, *, silence_limit_s: float) -> None:
        """`silence_limit_s`: an instance (or a client) that moves nothing for so long is given up."""
        self._loop = asyncio.get_running_loop()
        self.silence_limit_s = silence_limit_s
        self._pools: dict[Address, UpstreamPool] = {}
        self._exchanges: set[Exchange] = set()

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
        answer = ClientAnswer(client, record, keep_alive=outgoing.keep_alive, clock=self._loop.time)
        relay = Relay(answer, outgoing, self._loop.create_future(), last_try=last_try)
        client.attach(relay)
        try:
            await self.exchange(spec, outgoing, relay)
        except (InstanceFailedError, InstanceTimeoutError) as error:
            if relay.client_stalled and not relay.committed:
                answer.abandon()
            elif not relay.committed:
                raise
            else:
                relay.break_off(error)
        finally:
            client.detach()
        return answer.keep_alive

    async def exchange(self, spec: InstanceSpec, outgoing: Outgoing, exchange: Exchange) -> None:
        """Sends a request to the instance; returns when its answer is over. Cancelling drops the connection.

        Raises:
            InstanceFailedError: What the exchange was settled with.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        pool = self._pool(spec)
        connection = pool.take()
        self._exchanges.add(exchange)
        reused = connection is not None
        try:
            while True:
                if connection is None:
                    connection = await pool.connect()
                exchange.start(connection)
                connection.request(_head(spec, outgoing), outgoing.body, exchange, bodiless=outgoing.method == "HEAD")
                try:
                    await exchange.done
                except InstanceFailedError:
                    # It may have been closed just while it was idle: that says nothing about the instance.
                    if not reused or exchange.progress:
                        raise
                    connection, reused = None, False
                    exchange.done = self._loop.create_future()
                else:
                    return
        finally:
            self._exchanges.remove(exchange)
            exchange.cancel()

    def tokens_of(self, record: RequestRecord) -> int:
        """Events that a streamed answer has so far; 0: it is not relayed here."""
        relays = (exchange for exchange in self._exchanges if isinstance(exchange, Relay))
        return next((relay.events for relay in relays if relay.record is record), 0)

    def _pool(self, spec: InstanceSpec) -> UpstreamPool:
        address = spec.address
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = UpstreamPool(address, self._loop)
        return pool

    async def sweep(self) -> None:
        """Closes idle connections and gives up silent exchanges, for ever: one timer for all of them."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = self._loop.time()
            for pool in self._pools.values():
                pool.close_idle(IDLE_LIMIT_S - SWEEP_INTERVAL_S)
            for exchange in list(self._exchanges):
                if exchange.silent_s(now) > self.silence_limit_s:
                    exchange.timed_out(self.silence_limit_s)

    def close(self) -> None:
        """Closes all idle connections."""
        for pool in self._pools.values():
            pool.close_idle()


def _head(spec: InstanceSpec, outgoing: Outgoing) -> bytes:
    return request_head(
        outgoing.method,
        outgoing.target,
        spec.address.authority,
        outgoing.headers,
        request_id=outgoing.request_id,
        length=len(outgoing.body),
    )
