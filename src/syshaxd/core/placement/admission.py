# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission: which request gets slots now, and which waits for them. Pure: events in, effects out.

The queue is that for the GPU. A request that a CPU can serve sooner leaves it, from its end, where the wait is longest;
no request is overtaken. If the answer can move, the request's position stays in the queue: when it comes up, the stream
migrates to the GPU.

Each method but the questions is an event. It returns the effects, which the Engine (or a simulator) carries out in
order. When a slot is released, `admit` is to be called.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from syshaxd.core.errors import NotFoundError, OverloadedError, UnavailableError
from syshaxd.core.placement.calibration import RunResult, seed
from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.claims import Claim, Decided, Effect, Fleet, Granted, MoveStream, Refused
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates, observe_answer, observe_handover, observe_loads
from syshaxd.core.placement.migration import movable
from syshaxd.core.placement.prediction import predict_first_s
from syshaxd.core.placement.records import Cause, HandoverRecord
from syshaxd.core.placement.rules import Move
from syshaxd.core.placement.scheduler import Scheduler
from syshaxd.core.placement.slots import Grant, Slot, Slots
from syshaxd.core.placement.waiting import WaitingQueue
from syshaxd.core.types import InstanceSpec, Role

_MAX_RETRY_AFTER_S = 60.0
# Weight of the newest request in the mean duration, from which Retry-After is estimated.
_MEAN_WEIGHT = 0.05
# Of the requests that wait longest for the GPU, so many are offered a CPU with room at a time.
_OFFERED_CPU = 16


@dataclass(slots=True, eq=False)
class _Return:
    """The position in the queue of a request that a CPU answers meanwhile: its stream returns to the GPU."""

    claim: Claim
    gpu: str

    @property
    def is_batch(self) -> bool:
        """Whether it waits behind interactive requests."""
        return self.claim.is_batch


class Admission:
    """Grants slots in the order of arrival. A grant is held as a context manager until the request ends."""

    def __init__(self, scheduler: Scheduler, *, max_queue_size: int) -> None:
        """Begins with no slot taken.

        Args:
            scheduler: Decides.
            max_queue_size: Requests that may wait; one more is refused.
        """
        self._scheduler = scheduler
        self.max_queue_size = max_queue_size
        """May be changed at any time."""
        self._slots = Slots()
        self._queue: WaitingQueue[Claim | _Return] = WaitingQueue()
        self._returns = 0
        self._running: dict[Claim, None] = {}  # in the order in which they were granted
        self._mean_duration_s = 1.0
        self._estimates = Estimates()

    # Questions.

    @property
    def queued(self) -> int:
        """Requests that wait; those that a CPU answers until their position comes up do not."""
        return len(self._queue) - self._returns

    @property
    def queued_models(self) -> Mapping[str, int]:
        """Requests that wait, by the model that they name."""
        return Counter(entry.request.model for entry in self._queue if isinstance(entry, Claim))

    @property
    def entries(self) -> int:
        """Everything in the queue: requests that wait, and positions of those that a CPU answers."""
        return len(self._queue)

    @property
    def inflight(self) -> Mapping[str, int]:
        """Slots taken, by instance; an instance that never had one is missing."""
        return self._slots.counts

    @property
    def is_quiet(self) -> bool:
        """Whether no request waits and no slot is taken."""
        return not self.queued and not self._slots.any_taken

    def on_release(self, callback: Callable[[str], None]) -> None:
        """Has `callback` called with the instance's name after each release of a slot."""
        self._slots.subscribe(callback)

    def decide(
        self, request: InferenceRequest, fleet: Fleet, *, assumed_inflight: Mapping[str, int] | None = None
    ) -> Decision:
        """Where a request would go now, or with other counts of requests that run. Takes no slot.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        candidates = fleet.candidates(request, ())
        queued = self._queue.ahead_of(batch=request.is_batch)
        if assumed_inflight is None:
            return self._decide(request, candidates, fleet, queued=queued)
        return self._decide(request, candidates, fleet, queued=queued, inflight=assumed_inflight, ended={})

    # Requests come and go.

    def arrive(self, claim: Claim, fleet: Fleet) -> list[Effect]:
        """A request asks for slots: it gets them now, or when its turn in the queue comes, or is refused."""
        effects: list[Effect] = []
        ahead = self._queue.ahead_of(batch=claim.is_batch)
        if claim.first or not ahead or claim.request.pinned is not None:
            decision = self._settle(claim, fleet, effects, arrives=True)
            if not isinstance(decision, Wait):
                if isinstance(decision, RunOn | Offload) and decision.returns_to:
                    self._queue.append(self._return(claim, decision.returns_to))
                return effects
        if claim.first:
            self._queue.appendleft(claim)
        elif self.queued < self.max_queue_size:
            self._queue.append(claim)
        else:
            text = f"all instances are full and {self.queued} requests wait already"
            effects.append(Refused(claim, OverloadedError(text, retry_after_s=self._retry_after_s(fleet))))
            return effects
        effects += self.admit(fleet, offered_cpu=1)
        refusal = None if claim.first else self._too_late(claim, ahead, fleet)
        if refusal is not None and self._queue.remove(claim):
            effects.append(Refused(claim, refusal))
        return effects

    def place(self, claim: Claim, fleet: Fleet) -> tuple[Decision, list[Effect]]:
        """A request that another gateway carries out asks for slots: it gets them now, or not at all.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        candidates = fleet.candidates(claim.request, ())
        decision: Decision
        if self.queued:
            decision = Wait((f"{self.queued} requests wait already",))
        else:
            decision = self._decide(claim.request, candidates, fleet, queued=len(self._queue))
        effects: list[Effect] = [self._decided(claim.request, candidates, decision, fleet, queued=len(self._queue))]
        if isinstance(decision, RunOn | Offload):
            effects.append(self._grant(claim, decision, fleet))
        return decision, effects

    def give_up(self, claim: Claim) -> None:
        """A request does not want to wait any more."""
        self._queue.remove(claim)

    def timed_out(self, claim: Claim, fleet: Fleet, after_s: float) -> UnavailableError:
        """A request has waited for as long as it may."""
        self.give_up(claim)
        return UnavailableError(f"no slot came free within {after_s:g} s", retry_after_s=self._retry_after_s(fleet))

    def redecide(self, claim: Claim, fleet: Fleet) -> Slot | None:
        """An instance has made its part of a claim's stream, and the next can be made elsewhere: takes a slot there.

        Returns:
            None: it is made where it is.
        """
        if claim.stream is None or claim.stream.spec is None or not claim.stream.may_return:
            return None
        name = claim.stream.spec.name
        request = begun(claim.request)
        without = {**self.inflight, name: self.inflight.get(name, 0) - 1}  # its own slot is not in its way
        candidates = fleet.candidates(request, ())
        decision = self._decide(request, candidates, fleet, queued=len(self._queue), inflight=without)
        if not isinstance(decision, RunOn) or (name, decision.instance) not in fleet.pairs:
            return None
        return self._slots.take(fleet.specs[decision.instance], self._estimates.kv_tokens(request))

    def observe_answer(
        self, request: InferenceRequest, duration_s: float, tokens: int, handovers: Sequence[HandoverRecord] = ()
    ) -> None:
        """An answer has ended well, so long after it had got its slots."""
        self._mean_duration_s += _MEAN_WEIGHT * (duration_s - self._mean_duration_s)
        if tokens:
            self._estimates = observe_answer(self._estimates, tokens, request.kind)
        for handover in handovers:
            self._estimates = observe_handover(self._estimates, handover)

    def seed_estimates(self, results: Sequence[RunResult], name: str) -> None:
        """Has the estimates of an instance begin with what a calibration measured."""
        self._estimates = seed(self._estimates, results, name)

    # Instances change.

    def observe_loads(self, fleet: Fleet) -> list[Effect]:
        """New readings have come: what waits is decided again."""
        self._slots.observe_loads(fleet.snapshot)
        sums = self._slots.kv_tokens
        tokens = {name: sums[name] / count for name, count in self.inflight.items() if count}
        self._estimates = observe_loads(self._estimates, fleet.snapshot, tokens)
        return self.admit(fleet)

    def admit(self, fleet: Fleet, *, offered_cpu: int = _OFFERED_CPU) -> list[Effect]:
        """Slots may have come free: they are granted in the order of arrival, until a request has to wait.

        Then so many requests at the end of the queue, who wait longest, are offered what room the CPU has.
        """
        effects: list[Effect] = []
        if self._queue and self._admit_first(fleet, effects):
            self._admit_last(offered_cpu, fleet, effects)
        return effects

    def migrate(self, fleet: Fleet, draining: Sequence[str]) -> list[Effect]:
        """Has streams migrate: off the instances that are to stop, and to where they are better off by the readings."""
        effects: list[Effect] = []
        for source in draining:
            for target in sorted(target for other, target in fleet.pairs if other == source):
                self._move(Move(source, target, Cause.DRAIN, self.inflight.get(source, 0)), fleet, effects)
        first = self._queue[0] if self._queue else None
        if not self.queued or (isinstance(first, Claim) and not first.is_batch):
            moves = self._scheduler.moves(
                fleet.snapshot,
                self.inflight,
                fleet.ready,
                fleet.pairs,
                self._estimates,
                kv_tokens=self._slots.kv_tokens,
                queued=self.queued,
            )
            for move in moves:
                self._move(move, fleet, effects)
        return effects

    # The queue.

    def _admit_first(self, fleet: Fleet, effects: list[Effect]) -> bool:
        """Returns whether the CPU may have room for others than the first that has to wait."""
        position = 0  # of the first entry that is not passed over
        while position < len(self._queue):
            entry = self._queue[position]
            if isinstance(entry, _Return):
                gpu = fleet.find_ready(entry.gpu)
                if gpu is not None and not self._room(gpu, fleet).has_slot:
                    return True
                if gpu is not None and self._returned(entry.claim, gpu, fleet, effects):
                    self._returns -= 1
                    del self._queue[position]
                else:
                    position += 1
                continue
            decision = self._settle(entry, fleet, effects)
            if isinstance(decision, Wait):
                if entry.request.pinned is None:
                    return decision.cpu_has_room
                position += 1
            elif isinstance(decision, RunOn | Offload) and decision.returns_to:
                self._queue[position] = self._return(entry, decision.returns_to)
                position += 1
            else:
                del self._queue[position]
        return False

    def _admit_last(self, count: int, fleet: Fleet, effects: list[Effect]) -> None:
        last = len(self._queue) - 1
        for position in range(last, max(0, last - count), -1):
            entry = self._queue[position]
            if isinstance(entry, _Return) or entry.request.pinned is not None:
                continue
            decision = self._settle(entry, fleet, effects, queued=position, only=Role.CPU)
            if isinstance(decision, Wait):
                if not decision.cpu_has_room:
                    return
            elif isinstance(decision, RunOn | Offload) and decision.returns_to:
                self._queue[position] = self._return(entry, decision.returns_to)
            else:
                del self._queue[position]

    def _settle(
        self,
        claim: Claim,
        fleet: Fleet,
        effects: list[Effect],
        *,
        queued: int = 0,
        only: Role | None = None,
        arrives: bool = False,
    ) -> Decision | None:
        """Decides on a claim, and grants or refuses it unless it has to wait; None: no instance serves it.

        Args:
            claim: The claim.
            fleet: The instances.
            effects: Are added here.
            queued: Requests that get the GPU before.
            only: The kind of instance on which it may take its slot.
            arrives: It is new, so that the history is to tell that it has to wait.
        """
        request = claim.request
        try:
            candidates = fleet.candidates(request, claim.tried)
        except NotFoundError as error:
            # Its traceback refers to `effects`: a cycle, which would keep the request.
            effects.append(Refused(claim, error.with_traceback(None)))
            return None
        decision = self._decide(request, candidates, fleet, queued=queued)
        if isinstance(decision, RunOn | Offload):
            if only is not None and fleet.specs[decision.places[-1]].role is not only:
                return Wait(cpu_has_room=True)
            effects.append(self._decided(request, candidates, decision, fleet, queued=queued))
            effects.append(self._grant(claim, decision, fleet))
        elif isinstance(decision, Wait):
            if arrives:
                effects.append(self._decided(request, candidates, decision, fleet, queued=queued))
        elif only is not None:
            return Wait(cpu_has_room=True)
        else:
            effects.append(self._decided(request, candidates, decision, fleet, queued=queued))
            effects.append(Refused(claim, UnavailableError(decision.reason, retry_after_s=decision.retry_after_s)))
        return decision

    def _decide(
        self,
        request: InferenceRequest,
        candidates: Sequence[InstanceSpec],
        fleet: Fleet,
        *,
        queued: int,
        inflight: Mapping[str, int] | None = None,
        ended: Mapping[str, int] | None = None,
    ) -> Decision:
        return self._scheduler.decide(
            request,
            fleet.snapshot,
            self.inflight if inflight is None else inflight,
            candidates,
            fleet.pairs,
            ended=self._slots.ended if ended is None else ended,
            queued=queued,
            estimates=self._estimates,
            kv_tokens=self._slots.kv_tokens,
        )

    def _decided(
        self,
        request: InferenceRequest,
        candidates: Sequence[InstanceSpec],
        decision: Decision,
        fleet: Fleet,
        *,
        queued: int,
    ) -> Decided:
        names = [spec.name for spec in candidates]
        view = self._scheduler.view(
            fleet.snapshot,
            dict(self.inflight),
            candidates,
            fleet.pairs,
            ended=dict(self._slots.ended),
            queued=queued,
            estimates=self._estimates.for_kind(request.kind),
            kv_tokens=dict(self._slots.kv_tokens),
            request_kv_tokens=self._estimates.kv_tokens(request),
        )
        return Decided(fleet.at_s, request, decision, names, view.inflight, len(self._queue), fleet.snapshot, view)

    # Slots.

    def _grant(self, claim: Claim, placement: Placement, fleet: Fleet) -> Granted:
        kv_tokens = self._estimates.kv_tokens(claim.request)
        parts = (claim.request.prompt_tokens, kv_tokens) if isinstance(placement, Offload) else (kv_tokens,)
        slots = tuple(
            self._slots.take(fleet.specs[name], tokens) for name, tokens in zip(placement.places, parts, strict=True)
        )
        self._running[claim] = None
        return Granted(claim, Grant(placement, slots, released=partial(self._forget, claim)))

    def _forget(self, claim: Claim) -> None:
        """The request, of which a position may be in the queue, has ended."""
        self._running.pop(claim, None)
        if self._returns:
            for entry in [entry for entry in self._queue if isinstance(entry, _Return) and entry.claim is claim]:
                self._queue.remove(entry)
                self._returns -= 1

    def _reserve(self, claim: Claim, spec: InstanceSpec, fleet: Fleet) -> Slot | None:
        """Takes a slot for a stream that moves to an instance; None: it has no room."""
        if not self._room(spec, fleet).has_place:
            return None
        return self._slots.take(spec, self._estimates.kv_tokens(claim.request))

    def _room(self, spec: InstanceSpec, fleet: Fleet) -> Room:
        return self._scheduler.room(
            spec, fleet.snapshot, self.inflight, self._slots.ended, self._estimates, kv_tokens=self._slots.kv_tokens
        )

    def _too_late(self, claim: Claim, ahead: int, fleet: Fleet) -> OverloadedError | None:
        """Why a request that has to wait is refused at once; None: it waits."""
        target = self._scheduler.policy.target(claim.request)
        if not target.refuse or target.ttft_s is None or claim.request.pinned is not None:
            return None
        rooms = [self._room(spec, fleet) for spec in fleet.candidates(claim.request, ()) if spec.role is Role.GPU]
        first_s = [predict_first_s(self._estimates, room, claim.request, ahead) for room in rooms]
        if not first_s or min(first_s) <= target.ttft_s:
            return None
        late_s = min(first_s) - target.ttft_s
        text = f"the first token would take {min(first_s):.1f} s, the target of its class is {target.ttft_s:g} s"
        return OverloadedError(text, retry_after_s=min(_MAX_RETRY_AFTER_S, max(1.0, math.ceil(late_s))))

    def _retry_after_s(self, fleet: Fleet) -> float:
        """When the present queue will have been served, at the present mean duration."""
        slots = sum(self._room(spec, fleet).slots for spec in fleet.ready) or 1
        return min(_MAX_RETRY_AFTER_S, math.ceil(1 + self.queued * self._mean_duration_s / slots))

    # Streams.

    def _return(self, claim: Claim, gpu: str) -> _Return:
        self._returns += 1
        return _Return(claim, gpu)

    def _returned(self, claim: Claim, gpu: InstanceSpec, fleet: Fleet, effects: list[Effect]) -> bool:
        """Has a stream return to the GPU, whose room is for it; false: it cannot move right now."""
        stream = claim.stream
        if stream is not None and stream.spec == gpu:
            return True  # for another reason it is there already
        if stream is None or stream.spec is None or not stream.may_move or _moves(effects, claim):
            return False
        if (stream.spec.name, gpu.name) not in fleet.pairs:
            return False  # it was started again meanwhile
        slot = self._reserve(claim, gpu, fleet)
        if slot is not None:
            effects.append(MoveStream(claim, slot, Cause.ROOM))
        return slot is not None

    def _move(self, move: Move, fleet: Fleet, effects: list[Effect]) -> None:
        target = fleet.find_ready(move.target)
        if target is None:
            return
        for claim in movable(self._running, move):
            if _moves(effects, claim):
                continue
            slot = self._reserve(claim, target, fleet)
            if slot is None:
                return
            effects.append(MoveStream(claim, slot, move.cause))
            if move.cause is Cause.PRESSURE:
                # As the GPU would have thrown it out of its batch, but for a while only.
                self._queue.appendleft(self._return(claim, move.source))
            elif move.cause is Cause.PRIORITY:
                self._queue.append(self._return(claim, move.source))


def _moves(effects: Sequence[Effect], claim: Claim) -> bool:
    """Whether the claim's stream has been told to move already."""
    return any(isinstance(effect, MoveStream) and effect.claim is claim for effect in effects)


def begun(request: InferenceRequest) -> InferenceRequest:
    """The request for the rest of an answer of which an instance has made a part."""
    return replace(request, whole_because="it has begun already", movable=False)
