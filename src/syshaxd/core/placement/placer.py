# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Placer: decides where one claim runs, from what is known of the instances, and takes its slots."""

import math
from collections.abc import Sequence

from msgspec.structs import replace

from syshaxd.core.errors import OverloadedError
from syshaxd.core.placement import scheduler
from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.claims import Claim, Fleet
from syshaxd.core.placement.conversations import Conversations
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, Reject, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates, observe_answer, observe_handover, observe_loads
from syshaxd.core.placement.holdout import Holdout
from syshaxd.core.placement.interference import InterferenceMeter
from syshaxd.core.placement.prediction import predict_first_s
from syshaxd.core.placement.records import HandoverRecord
from syshaxd.core.placement.rules import Policy, View
from syshaxd.core.placement.slots import Slot, Slots
from syshaxd.core.types import InstanceSpec, Role

_MAX_RETRY_AFTER_S = 60.0
_MEAN_WEIGHT = 0.05
"""Weight of the newest request in the mean duration, from which Retry-After is estimated."""
_HELD_OUT = "held out: it waits for the GPU, to measure what help by the CPU gains"


class Placer:
    """Holds the slots and the estimates. It knows nothing of the queues."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """Decides from now on; may be exchanged at any time."""
        self.slots = Slots()
        self.estimates = Estimates()
        self.holdout = Holdout()
        self._conversations = Conversations()
        self._meter = InterferenceMeter()
        self._mean_duration_s = 1.0

    # Decisions.

    def view(
        self,
        fleet: Fleet,
        candidates: Sequence[InstanceSpec] = (),
        request: InferenceRequest | None = None,
        *,
        queued: int = 0,
    ) -> View:
        """What a decision on a request rests on; without a request, one on streams or on room."""
        taken = self.slots.latest()
        return View(
            policy=self.policy,
            snapshot=fleet.snapshot,
            inflight=taken.counts,
            ended=taken.ended,
            candidates=candidates,
            pairs=fleet.pairs,
            queued=queued,
            estimates=self.estimates if request is None else self.estimates.for_kinds(request.kinds),
            kv_tokens=taken.kv_tokens,
            request_kv_tokens=0.0 if request is None else self.estimates.kv_tokens(request),
            cached_at="" if request is None else self._conversations.instance(request.conversation),
        )

    def room(self, spec: InstanceSpec, fleet: Fleet) -> Room:
        """How much more an instance can take."""
        return scheduler.room(self.view(fleet), spec)

    def decide(self, claim: Claim, view: View) -> Decision:
        """Decides on a claim, without the hold-out's lottery."""
        return scheduler.decide(self._allowed(claim, view), claim.request)

    def decide_or_hold_out(self, claim: Claim, view: View, now_s: float) -> Decision:
        """Decides on a claim; holds out some of the interactive claims that a CPU is about to help with."""
        decision = self.decide(claim, view)
        share = self.policy.holdout
        if share and claim.member is None and not (claim.first or claim.is_batch):
            prediction = decision.prediction if isinstance(decision, RunOn | Offload) else None
            if prediction is not None:
                claim.member = self.holdout.enroll(prediction, now_s, share)
                if claim.held_out:
                    decision = self.decide(claim, view)
        if not claim.held_out or isinstance(decision, Reject):
            return decision
        decision = replace(decision, reasons=(*decision.reasons, _HELD_OUT))
        # The CPU's room is for others.
        return replace(decision, cpu_has_room=True) if isinstance(decision, Wait) else decision

    def _allowed(self, claim: Claim, view: View) -> View:
        """The view of a claim. If it is held out or help is switched off, no CPU is a candidate next to a GPU."""
        asked = claim.request.pinned is not None or claim.request.offload
        if asked or not (self.holdout.is_off or claim.held_out):
            return view
        gpus = view.specs(Role.GPU)
        return replace(view, candidates=gpus) if gpus else view

    # Slots.

    def take(self, request: InferenceRequest, placement: Placement, view: View, fleet: Fleet) -> tuple[Slot, ...]:
        """Takes a slot on each instance of a placement, in its order."""
        kv_tokens = view.request_kv_tokens
        parts = (request.prompt_tokens, kv_tokens) if isinstance(placement, Offload) else (kv_tokens,)
        self._conversations.note(request.conversation, placement.places[-1])
        return tuple(
            self.slots.take(fleet.specs[name], tokens) for name, tokens in zip(placement.places, parts, strict=True)
        )

    def reserve(self, claim: Claim, spec: InstanceSpec, fleet: Fleet) -> Slot | None:
        """Takes a slot for a stream that moves to an instance; None: it has no room."""
        if not self.room(spec, fleet).has_place:
            return None
        return self.slots.take(spec, self.estimates.kv_tokens(claim.request))

    # Waiting times.

    def late(self, claim: Claim, view: View) -> OverloadedError | None:
        """Why a request that has just come is refused: where it would be placed, its first token came too late.

        Returns:
            None: it is served, in time or late.
        """
        request = claim.request
        target = self.policy.target(request)
        if not target.refuse or target.ttft_s is None or request.pinned is not None:
            return None
        first_s = self._first_s(request, self.decide(claim, view), view)
        if first_s <= target.ttft_s:
            return None
        text = f"the first token would take {first_s:.1f} s, the target of its class is {target.ttft_s:g} s"
        late_s = math.ceil(first_s - target.ttft_s)
        return OverloadedError(text, retry_after_s=min(_MAX_RETRY_AFTER_S, max(1.0, late_s)))

    def _first_s(self, request: InferenceRequest, decision: Decision, view: View) -> float:
        """Seconds to the first token that a decision is expected to lead to; 0: not known."""
        if isinstance(decision, RunOn | Offload):
            if decision.prediction is not None:
                return decision.prediction.offload_first_s or 0.0
            rooms = [scheduler.room(view, spec) for spec in view.candidates if spec.name == decision.places[0]]
            return predict_first_s(self.estimates, rooms[0], request, view.queued)
        rooms = [scheduler.room(view, spec) for spec in view.specs(Role.GPU)]
        slots = sum(room.slots for room in rooms)
        waits_s = (
            predict_first_s(self.estimates, room, request, math.ceil(view.queued * room.slots / slots))
            for room in rooms
        )
        return min(waits_s, default=0.0)

    def retry_after_s(self, model: str, queued: int, fleet: Fleet) -> float:
        """Seconds until a model's instances have served this many requests, at the present mean duration."""
        slots = sum(self.room(spec, fleet).slots for spec in fleet.ready if spec.served_model == model) or 1
        return min(_MAX_RETRY_AFTER_S, math.ceil(1 + queued * self._mean_duration_s / slots))

    # Measurements.

    def observe_answer(
        self, request: InferenceRequest, duration_s: float, tokens: int, handovers: Sequence[HandoverRecord]
    ) -> None:
        """Learns from an answer that ended well."""
        self._mean_duration_s += _MEAN_WEIGHT * (duration_s - self._mean_duration_s)
        if tokens:
            self.estimates = observe_answer(self.estimates, tokens, request.kinds)
        for handover in handovers:
            self.estimates = observe_handover(self.estimates, handover)

    def observe_loads(self, fleet: Fleet) -> None:
        """Learns from new readings."""
        self.slots.observe_loads(fleet.snapshot)
        taken = self.slots.latest()
        tokens = {name: taken.kv_tokens[name] / count for name, count in taken.counts.items() if count}
        self._meter.observe(fleet.snapshot, fleet.specs, self.estimates)
        self.estimates = observe_loads(self.estimates, fleet.snapshot, tokens)
        if self.estimates.slowdowns is not self._meter.slowdowns:
            self.estimates = replace(self.estimates, slowdowns=self._meter.slowdowns)
