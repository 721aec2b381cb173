# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Single requests: those in flight, the latest decisions with their reasons, and the latest outcomes."""

import asyncio
from collections import deque

from syshaxd.core.placement.alternatives import short_form
from syshaxd.core.placement.claims import Decided
from syshaxd.core.placement.records import RequestRecord
from syshaxd.serving.request import Request
from syshaxd.system.events import History

_REMEMBERED = 2000


class RequestBook:
    """Requests in flight, the latest decisions, and how the latest requests ended. Lives in one event loop."""

    def __init__(self) -> None:
        self.running: set[Request] = set()
        """Requests that the daemon or another gateway answers, or that wait for a slot."""
        self._busy = asyncio.Event()
        self.decisions: History[Decided] = History(_REMEMBERED)
        self._ended: deque[RequestRecord] = deque(maxlen=_REMEMBERED)

    def begin(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        """Adds a request, which the current task of this loop answers."""
        request.task = asyncio.current_task(loop)  # without the loop, it is asked for by a system call
        self.add(request)

    def add(self, request: Request) -> None:
        """Adds a request that another gateway answers."""
        self.running.add(request)
        self._busy.set()

    def end(self, request: Request) -> None:
        """Removes a request that is over."""
        self.running.discard(request)
        if not self.running:
            self._busy.clear()

    async def busy(self) -> None:
        """Returns when a request is in flight, also at once."""
        await self._busy.wait()

    def keep(self, record: RequestRecord) -> None:
        """Keeps the record of a request that has ended."""
        self._ended.append(record)

    def find(self, request_id: str) -> list[Request]:
        """The requests in flight with that id; clients may give one id to several."""
        return [request for request in self.running if request.id == request_id]

    def explain(self, request_id: str) -> tuple[list[Decided], list[RequestRecord]]:
        """The decisions on a request, and the records of those with that id that have ended; both oldest first."""
        decisions = [entry for entry in self.decisions.latest() if entry.request.request_id == request_id]
        return decisions, [record for record in self._ended if record.request_id == request_id]

    def latest_for(self, model: str) -> str:
        """The id of the latest request for a model on which something was decided; empty: none."""
        found = (entry.request.request_id for entry in reversed(self.decisions.latest()) if entry.is_for(model))
        return next(found, "")

    def ended(self) -> list[RequestRecord]:
        """The records of the latest requests that have ended, oldest first."""
        return list(self._ended)

    def short_explanation(self, request_id: str) -> str:
        """The latest decision on a request in one line of ASCII; empty: there is none."""
        for entry in reversed(self.decisions.latest()):
            if entry.request.request_id == request_id:
                return short_form(entry.view, entry.request, entry.decision)
        return ""

    def cancel(self, request_id: str) -> int:
        """Cancels requests in flight that the daemon answers; returns how many."""
        found = [request for request in self.find(request_id) if request.task is not None]
        for request in found:
            assert request.task is not None
            request.cancelled = True
            request.task.cancel()
        return len(found)
