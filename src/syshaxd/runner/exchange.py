# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The parties of an exchange: a request on its way to an instance, the client's connection, and what is between."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from syshaxd.runner.upstream import Sink, UpstreamConnection


@dataclass(slots=True)
class Outgoing:
    """A client's request as it goes to an instance, whichever that will be."""

    method: str
    path: str
    target: str
    """Path and query."""
    headers: bytes
    """The client's header lines that go to an instance, from `core.http1`."""
    request_id: str
    body: bytes
    keep_alive: bool
    """The client's connection may stay open afterwards."""


class Flow(Protocol):
    """What sends to a client's connection, as that sees it."""

    def pause(self) -> None:
        """The client takes no more for now."""

    def resume(self) -> None:
        """The client takes more again."""

    def cancel(self) -> None:
        """The client is gone."""


class Downstream(Protocol):
    """The client's connection."""

    http10: bool
    """The client speaks HTTP/1.0: no chunks, and the end of the connection ends the body."""

    def attach(self, flow: Flow) -> None:
        """From now on the flow's `pause` and `resume` are called when the client is slower than the instance."""

    def detach(self) -> None:
        """The flow is over."""

    def writer(self) -> Callable[[bytes], None]:
        """The function that sends bytes."""

    def abort(self) -> None:
        """Drops the connection: the client sees that the answer is incomplete."""


class Exchange(Sink, Protocol):
    """What takes one response from an instance, and is looked after meanwhile."""

    done: "asyncio.Future[None]"
    """Resolved when the response is over; InstanceFailedError or InstanceTimeoutError if it failed."""
    progress: int
    """Grows with every read."""

    def start(self, connection: UpstreamConnection) -> None:
        """The response will come over `connection`."""

    def cancel(self) -> None:
        """Nobody wants the rest: the instance is told by dropping its connection."""

    def silent_s(self, now_s: float) -> float:
        """How long nothing has moved, as far as this has been asked before."""

    def timed_out(self, after_s: float) -> None:
        """The sweeper: nothing moved for so long."""
