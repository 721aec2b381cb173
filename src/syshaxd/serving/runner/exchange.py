# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One request to an instance and its response, as fast as the client takes it."""

import asyncio
from dataclasses import dataclass

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.serving.runner.upstream import Sink, UpstreamConnection


@dataclass(frozen=True, slots=True)
class Part:
    """What an instance is asked in place of the client's own request."""

    target: str
    """Path and query."""
    body: bytes
    request_id: str


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

    def chunk(self, data: bytes) -> bool:
        """Sink: a chunk may have come; not taken."""
        return False

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
        """Flow: the rest is not wanted; the connection is dropped, so that the instance stops."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def silent_s(self, now_s: float) -> float:
        """How long nothing has moved, as far as this has been asked before."""
        if self.progress != self._seen_progress:
            self._seen_progress, self._seen_at_s = self.progress, now_s
        return now_s - self._seen_at_s

    def timed_out(self, why: str, after_s: float) -> None:
        """The sweeper: the answer has taken too long; `why` says what the instance did, unless the client is slow."""
        raise NotImplementedError

    def _settle(self, error: InstanceFailedError | InstanceTimeoutError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
