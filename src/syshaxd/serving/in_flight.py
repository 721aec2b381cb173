# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is known of single requests: those in flight, and why the latest ones went where they went."""

import asyncio
from collections import deque
from dataclasses import dataclass

from syshaxd.core.placement.claims import Decided
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.records import RequestRecord
from syshaxd.system.events import History

_REMEMBERED = 2000


@dataclass(slots=True, eq=False)
class RunningRequest:
    """A request that the daemon is answering, or that waits for a place."""

    request: InferenceRequest
    record: RequestRecord
    task: "asyncio.Task[object] | None"
    cancelled: bool = False
    """By an operator."""


class RequestBook:
    """Requests in flight, the latest decisions, and how the latest requests ended. Lives in one event loop."""

    def __init__(self) -> None:
        self.running: set[RunningRequest] = set()
        self.decisions: History[Decided] = History(_REMEMBERED)
        self._ended: deque[RequestRecord] = deque(maxlen=_REMEMBERED)

    def begins(self, request: InferenceRequest, record: RequestRecord) -> RunningRequest:
        """Notes a request that the present task answers."""
        running = RunningRequest(request, record, asyncio.current_task())
        self.running.add(running)
        return running

    def ends(self, running: RunningRequest) -> None:
        """Its answer is over, or it has none."""
        self.running.discard(running)
        self._ended.append(running.record)

    def find(self, request_id: str) -> list[RunningRequest]:
        """Those in flight with that id; clients may have given it to several."""
        return [running for running in self.running if running.request.request_id == request_id]

    def explain(self, request_id: str) -> tuple[list[Decided], list[RequestRecord]]:
        """The decisions on a request, and the records of those with that id that have ended; both oldest first."""
        decisions = [entry for entry in self.decisions.latest() if entry.request.request_id == request_id]
        return decisions, [record for record in self._ended if record.request_id == request_id]

    def cancel(self, request_id: str) -> int:
        """Ends requests in flight; returns how many."""
        found = [running for running in self.find(request_id) if running.task is not None]
        for running in found:
            running.cancelled = True
            running.task.cancel()  # type: ignore[union-attr]
        return len(found)
