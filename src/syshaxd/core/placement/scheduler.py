# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Scheduler: where a request goes. Pure: the same request, loads and counts give the same decision.

What a client insists on comes first; all else the rules of the policy decide.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Reject, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.rules import RULES, Move, Policy, Rules, View
from syshaxd.core.placement.rules.view import least_loaded
from syshaxd.core.types import InstanceSpec, Role

_NO_PAIRS: Set[tuple[str, str]] = frozenset()
_NONE_ENDED: Mapping[str, int] = {}
_NO_TOKENS: Mapping[str, float] = {}
_NOTHING_KNOWN = Estimates()


class Scheduler:
    """Decides by one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """May be exchanged at any time."""

    def decide(
        self,
        request: InferenceRequest,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        candidates: Sequence[InstanceSpec],
        pairs: Set[tuple[str, str]] = _NO_PAIRS,
        *,
        ended: Mapping[str, int] = _NONE_ENDED,
        queued: int = 0,
        estimates: Estimates = _NOTHING_KNOWN,
        kv_tokens: Mapping[str, float] = _NO_TOKENS,
        cached_at: str = "",
    ) -> Decision:
        """Places one request.

        Args:
            request: The request.
            snapshot: The latest readings, up to one interval old.
            inflight: Requests that the daemon itself has running on each instance now.
            candidates: The READY instances that serve the request's model and route, in order of preference.
            pairs: Which of them can hand over to which, by name.
            ended: Requests of the daemon that ended on each instance since the readings.
            queued: Requests that get the GPU before this one, beside those inside it.
            estimates: What the instances were measured to do.
            kv_tokens: Sum of what the requests on each instance are expected to have in the KV cache.
            cached_at: The instance that has answered the previous turn of the conversation; empty: none.
        """
        view = self.view(
            snapshot,
            inflight,
            candidates,
            pairs,
            ended=ended,
            queued=queued,
            estimates=estimates,
            kv_tokens=kv_tokens,
            request_kv_tokens=estimates.kv_tokens(request),
            cached_at=cached_at,
        )
        rules = self._rules
        if request.pinned is not None:
            rooms = [rules.room(view, spec) for spec in candidates if spec.name == request.pinned]
            return _pinned(request.pinned, rooms)
        if not candidates:
            return Reject("no instance that serves this request is ready", retry_after_s=5.0)
        if request.offload and not request.whole_because and (forced := _asked(view, rules)):
            return forced
        return rules.decide(view, request)

    def room(
        self,
        spec: InstanceSpec,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        ended: Mapping[str, int] = _NONE_ENDED,
        estimates: Estimates = _NOTHING_KNOWN,
        *,
        kv_tokens: Mapping[str, float] = _NO_TOKENS,
    ) -> Room:
        """How much more an instance can take. Arguments are those of `decide`."""
        view = self.view(snapshot, inflight, (spec,), ended=ended, estimates=estimates, kv_tokens=kv_tokens)
        return self._rules.room(view, spec)

    def moves(
        self,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        ready: Sequence[InstanceSpec],
        pairs: Set[tuple[str, str]],
        estimates: Estimates = _NOTHING_KNOWN,
        *,
        kv_tokens: Mapping[str, float] = _NO_TOKENS,
        queued: int = 0,
    ) -> tuple[Move, ...]:
        """Which running streams should move. Arguments are those of `decide`.

        Args:
            snapshot: As in `decide`.
            inflight: As in `decide`.
            ready: All READY instances.
            pairs: As in `decide`.
            estimates: As in `decide`.
            kv_tokens: As in `decide`.
            queued: Requests that wait, of which the first is an interactive one.
        """
        view = self.view(snapshot, inflight, ready, pairs, estimates=estimates, kv_tokens=kv_tokens)
        return self._rules.moves(replace(view, queued=queued) if queued else view)

    @property
    def _rules(self) -> Rules:
        return RULES[self.policy.name]

    def view(
        self,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        candidates: Sequence[InstanceSpec],
        pairs: Set[tuple[str, str]] = _NO_PAIRS,
        *,
        ended: Mapping[str, int] = _NONE_ENDED,
        queued: int = 0,
        estimates: Estimates,
        kv_tokens: Mapping[str, float],
        request_kv_tokens: float = 0.0,
        cached_at: str = "",
    ) -> View:
        """What the rules see. Arguments are those of `decide`."""
        return View(
            policy=self.policy,
            snapshot=snapshot,
            inflight=inflight,
            ended=ended,
            candidates=candidates,
            pairs=pairs,
            queued=queued,
            estimates=estimates,
            kv_tokens=kv_tokens,
            request_kv_tokens=request_kv_tokens,
            cached_at=cached_at,
        )


def _pinned(name: str, rooms: Sequence[Room]) -> Decision:
    if not rooms:
        return Reject(f"{name}, which the request asks for, is not ready", retry_after_s=5.0)
    return least_loaded(rooms, ("the request asks for it",))


def _asked(view: View, rules: Rules) -> Offload | Wait | None:
    """An offload that the client asks for, now or later; None: it cannot be."""
    able = [
        (rules.room(view, gpu), rules.room(view, cpu))
        for gpu in view.specs(Role.GPU)
        for cpu in view.specs(Role.CPU)
        if (gpu.name, cpu.name) in view.pairs
    ]
    for gpu, cpu in able:
        if gpu.has_place and cpu.has_place:
            return Offload(gpu.spec.name, cpu.spec.name, ("the request asks for it",))
    return Wait(("the request asks for an offload, and the backlogs are full",)) if able else None
