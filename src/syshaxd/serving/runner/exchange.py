# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The parties of an exchange: a request on its way to an instance, the client's connection, and what is between."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.wire.body import RequestBody
from syshaxd.serving.runner.upstream import Sink, UpstreamConnection


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
    fields: RequestBody | None = None
    """What the body holds, if it is a JSON object."""


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
    answer_lines: bytes
    """Header lines that the present answer gets beside the instance's, each with its end."""

    def attach(self, flow: Flow) -> None:
        """From now on the flow's `pause` and `resume` are called when the client is slower than the instance."""

    def detach(self) -> None:
        """The flow is over."""

    def writer(self) -> Callable[[bytes], None]:
        """The function that sends bytes."""

    def abort(self) -> None:
        """Drops the connection: the client sees that the answer is incomplete."""


class Exchange(Sink):
    """Takes one response from an instance, as fast as the client takes it, and is looked after meanwhile."""

    __slots__ = ("_connection", "_paused", "_seen_at_s", "_seen_progress", "done", "progress")

    def __init__(self, done: "asyncio.Future[None]", *, paused: bool = False) -> None:
        self.done = done
        """Resolved when the response is over; InstanceFailedError or InstanceTimeoutError if it failed."""
        self.progress = 0
        """Grows with every read: the sweeper sees a silent instance by it."""
        self._connection: UpstreamConnection | None = None
        self._paused = paused
        self._seen_progress = -1
        self._seen_at_s = 0.0

    def start(self, connection: UpstreamConnection) -> None:
        """The response will come over `connection`."""
        self._connection = connection
        if self._paused:
            connection.pause_reading()

    def pause(self) -> None:
        """Flow: the client takes no more for now."""
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Flow: the client takes more again."""
        self._paused = False
        self.progress += 1
        if self._connection is not None:
            self._connection.resume_reading()

    def cancel(self) -> None:
        """Flow: nobody wants the rest; the instance is told by dropping its connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def silent_s(self, now_s: float) -> float:
        """How long nothing has moved, as far as this has been asked before."""
        if self.progress != self._seen_progress:
            self._seen_progress, self._seen_at_s = self.progress, now_s
        return now_s - self._seen_at_s

    def timed_out(self, after_s: float) -> None:
        """The sweeper: nothing moved for so long, by the instance's fault or the client's."""
        raise NotImplementedError

    def _settle(self, error: InstanceFailedError | InstanceTimeoutError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
