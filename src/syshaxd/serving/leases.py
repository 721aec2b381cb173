# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Slots that another gateway holds: until it reports the end, stops renewing its lease, or an operator cancels it."""

import asyncio
import secrets
from dataclasses import dataclass

from syshaxd.core.errors import BadRequestError, NotFoundError
from syshaxd.core.placement.decision import Decision, InferenceRequest
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.slots import Grant
from syshaxd.serving.engine import Engine
from syshaxd.serving.request import Request

# Short, so that the slots of a dead gateway are soon free. A live one renews its leases.
DEFAULT_TTL_S = 60.0
MAX_TTL_S = 3600.0


@dataclass(slots=True)
class _Lease:
    grant: Grant
    request: Request
    ttl_s: float
    expiry: asyncio.TimerHandle


class Leases:
    """Counts requests of other gateways among those in flight. Lives in one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._leases: dict[str, _Lease] = {}
        self._loop = asyncio.get_running_loop()

    def place(self, request: InferenceRequest, ttl_s: float = DEFAULT_TTL_S) -> tuple[Decision, str]:
        """Decides on a request, and takes its slots for `ttl_s`, or longer if the lease is renewed.

        Returns:
            The decision and the lease's id, which is empty if no slot was taken.

        Raises:
            BadRequestError: `ttl_s` is out of range.
            NotFoundError: No instance has such a model or route.
        """
        _check(ttl_s)
        decision, grant = self._engine.place(request)
        if grant is None:
            return decision, ""
        leased = Request(
            id=request.request_id,
            route=request.path,
            method=request.method,
            path=request.path,
            target=request.path,
            inference=request,
            client=None,
            started_at_s=self._loop.time(),
            placement="+".join(grant.placement.places),
        )
        self._engine.requests.add(leased)
        lease_id = secrets.token_hex(16)
        expiry = self._loop.call_later(ttl_s, self._expire, lease_id)
        self._leases[lease_id] = _Lease(grant, leased, ttl_s, expiry)
        return decision, lease_id

    def renew(self, lease_id: str, ttl_s: float | None = None) -> float:
        """Keeps the slots for `ttl_s` from now, by default as long as last time; returns that time.

        Raises:
            BadRequestError: `ttl_s` is out of range.
            NotFoundError: There is no such lease, or no more: the request is to end.
        """
        if ttl_s is not None:
            _check(ttl_s)
        lease = self._leases.get(lease_id)
        if lease is None:
            raise _no_lease(lease_id)
        lease.ttl_s = ttl_s or lease.ttl_s
        lease.expiry.cancel()
        lease.expiry = self._loop.call_later(lease.ttl_s, self._expire, lease_id)
        return lease.ttl_s

    def cancel(self, request_id: str) -> int:
        """Ends the leases of a request; returns how many. Their gateway learns of it when it renews or reports."""
        found = [id_ for id_, lease in self._leases.items() if lease.request.id == request_id]
        for lease_id in found:
            self.end(lease_id, outcome=Outcome.CANCELLED)
        return len(found)

    def end(self, lease_id: str, *, outcome: Outcome = Outcome.OK, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """Releases the slots.

        Raises:
            NotFoundError: There is no such lease, or no more.
        """
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            raise _no_lease(lease_id)
        lease.expiry.cancel()
        self._engine.requests.end(lease.request)
        self._engine.requests.keep(lease.request.record(outcome, self._loop.time(), (tokens_in, tokens_out)))
        lease.grant.release()

    def close(self) -> None:
        """Ends all leases."""
        for lease_id in tuple(self._leases):
            self.end(lease_id, outcome=Outcome.CANCELLED)

    def _expire(self, lease_id: str) -> None:
        if lease_id in self._leases:
            self.end(lease_id, outcome=Outcome.CLIENT_GONE)


def _check(ttl_s: float) -> None:
    if not 0 < ttl_s <= MAX_TTL_S:
        raise BadRequestError(f"ttl_s is {ttl_s:g}; it must be over 0 and at most {MAX_TTL_S:g} seconds")


def _no_lease(lease_id: str) -> NotFoundError:
    return NotFoundError(f"no lease {lease_id!r}: it has ended or expired, or an operator has cancelled it")
