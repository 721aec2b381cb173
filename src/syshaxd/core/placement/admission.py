# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission: which request gets slots now, and which waits for them. Pure: events in, effects out.

Each model has a queue, which is that for its GPUs. API keys take turns in it. A request that a CPU can serve sooner
leaves it, from its end, where the wait is longest; no request is overtaken within its model, class and key. If the
answer can move, the request's position stays in the queue: when it comes up, the stream migrates to a GPU. Models whose
instances are the same get slots in turns.

Each method but the questions is an event. It returns the effects, which the Engine (or a simulator) carries out in
order. When a slot is released, `admit` is to be called.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from syshaxd.core.errors import NotFoundError, OverloadedError, UnavailableError
from syshaxd.core.placement import scheduler
from syshaxd.core.placement.calibration import RunResult, seed
from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.claims import Claim, Decided, Effect, Fleet, Granted, HelpSwitched, MoveStream, Refused
from syshaxd.core.placement.conversations import Conversations
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, Reject, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates, observe_answer, observe_handover, observe_loads
from syshaxd.core.placement.holdout import Holdout
from syshaxd.core.placement.migration import movable
from syshaxd.core.placement.prediction import predict_first_s
from syshaxd.core.placement.queue import Queue, Queues
from syshaxd.core.placement.records import Cause, HandoverRecord
from syshaxd.core.placement.rules import Move, Policy, View
from syshaxd.core.placement.slots import Grant, Slot, Slots
from syshaxd.core.placement.turns import Entry
from syshaxd.core.types import InstanceSpec, Role

_MAX_RETRY_AFTER_S = 60.0
# Weight of the newest request in the mean duration, from which Retry-After is estimated.
_MEAN_WEIGHT = 0.05
# Of the requests that wait longest for the GPU, so many are offered a CPU with room at a time.
_OFFERED_CPU = 16
_HELD_OUT = "held out: it waits for the GPU, to measure what help by the CPU gains"


class Admission:
    """Grants slots in the order of the queues. A grant is held as a context manager until the request ends."""

    def __init__(self, policy: Policy, *, max_queue_size: int) -> None:
        """Begins with no slot taken.

        Args:
            policy: Decides.
            max_queue_size: Requests that may wait for each model; one more is refused, unless its key has less than an
                equal share of them.
        """
        self.policy = policy
        """May be exchanged at any time."""
        self.max_queue_size = max_queue_size
        """May be changed at any time."""
        self._slots = Slots()
        self._queues = Queues()
        self._conversations = Conversations()
        self._running: dict[Claim, None] = {}  # in the order in which they were granted
        self._mean_duration_s = 1.0
        self._estimates = Estimates()
        self._holdout = Holdout()

    # Questions.

    @property
    def holdout(self) -> Holdout:
        """What is measured of help by CPUs."""
        return self._holdout

    @property
    def queued(self) -> int:
        """Requests that wait; those that a CPU answers until their position comes up do not."""
        return self._queues.waiting

    @property
    def queued_models(self) -> Mapping[str, int]:
        """Requests that wait, by the model that they name."""
        return Counter(claim.request.model for claim in self._queues.claims())

    @property
    def entries(self) -> int:
        """Everything in the queues: requests that wait, and positions of those that a CPU answers."""
        return self._queues.entries

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
        queued = self._queues.of_instances(candidates).ahead_of(request)
        view = self._allowed(Claim(request), self._view(fleet, candidates, request, queued=queued))
        if assumed_inflight is not None:
            view = replace(view, inflight=assumed_inflight, ended={})
        return scheduler.decide(view, request)

    # Requests come and go.

    def arrive(self, claim: Claim, fleet: Fleet) -> list[Effect]:
        """A request asks for slots: it gets them now, or when its turn in the queue comes, or is refused."""
        effects: list[Effect] = []
        queue = self._queues.of(claim, fleet)
        ahead = queue.ahead_of(claim.request)
        if claim.first or not ahead or claim.request.pinned is not None:
            decision = self._settle(claim, fleet, effects, arrives=True)
            if not isinstance(decision, Wait):
                if isinstance(decision, RunOn | Offload) and decision.returns_to:
                    queue.append(claim, decision.returns_to)
                return effects
        if claim.first:
            queue.prepend(claim)
        elif queue.has_room(claim.key, self.max_queue_size):
            queue.append(claim)
        else:
            text = f"all instances are full and {queue.waiting} requests wait already"
            effects.append(Refused(claim, OverloadedError(text, retry_after_s=self._retry_after_s(claim, fleet))))
            return effects
        effects += self.admit(fleet, offered_cpu=1)
        refusal = None if claim.first else self._too_late(claim, ahead, fleet)
        if refusal is not None and queue.remove_waiting(claim):
            effects.append(Refused(claim, refusal))
        return effects

    def place(self, claim: Claim, fleet: Fleet) -> tuple[Decision, list[Effect]]:
        """A request that another gateway carries out asks for slots: it gets them now, or not at all.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        request = claim.request
        candidates = fleet.candidates(request, ())
        queue = self._queues.of(claim, fleet)
        view = self._view(fleet, candidates, request, queued=len(queue))
        decision: Decision
        if queue.waiting:
            decision = Wait((f"{queue.waiting} requests wait already",))
        else:
            decision = scheduler.decide(self._allowed(claim, view), request)
        effects: list[Effect] = [self._decided(request, decision, view, fleet)]
        if isinstance(decision, RunOn | Offload):
            effects.append(self._grant(claim, decision, view, fleet))
        return decision, effects

    def give_up(self, claim: Claim) -> None:
        """A request does not want to wait any more."""
        self._queues.get(claim.queue).remove_waiting(claim)
        if claim.member is not None:
            claim.member.over = True

    def timed_out(self, claim: Claim, fleet: Fleet, after_s: float) -> UnavailableError:
        """A request has waited for as long as it may."""
        self.give_up(claim)
        return UnavailableError(
            f"no slot came free within {after_s:g} s", retry_after_s=self._retry_after_s(claim, fleet)
        )

    def redecide(self, claim: Claim, fleet: Fleet) -> Slot | None:
        """An instance has made its part of a claim's stream, and the next can be made elsewhere: takes a slot there.

        Returns:
            None: it is made where it is.
        """
        if claim.stream is None or claim.stream.spec is None or not claim.stream.may_return:
            return None
        name = claim.stream.spec.name
        request = begun(claim.request)
        candidates = fleet.candidates(request, ())
        view = self._allowed(claim, self._view(fleet, candidates, request))
        own_slot_free = {**view.inflight, name: view.inflight.get(name, 0) - 1}
        view = replace(view, inflight=own_slot_free, queued=len(self._queues.of_instances(view.candidates)))
        decision = scheduler.decide(view, request)
        if not isinstance(decision, RunOn) or (name, decision.instance) not in fleet.pairs:
            return None
        return self._slots.take(fleet.specs[decision.instance], view.request_kv_tokens)

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

    def observe_help(self, claim: Claim, now_s: float) -> None:
        """The answer to a claim has ended well, at a time of `Fleet.now_s`; before its grant is released."""
        if claim.member is not None:
            claim.member.whole_s = now_s - claim.member.since_s

    def restart_measuring(self) -> None:
        """Other rules decide from now on: whether help pays is measured again, with help."""
        self._holdout.restart()

    # Instances change.

    def observe_loads(self, fleet: Fleet) -> list[Effect]:
        """New readings have come: what waits is decided again."""
        switched = self._holdout.settle(fleet.now_s)
        self._slots.observe_loads(fleet.snapshot)
        sums = self._slots.latest().kv_tokens
        tokens = {name: sums[name] / count for name, count in self.inflight.items() if count}
        self._estimates = observe_loads(self._estimates, fleet.snapshot, tokens)
        effects: list[Effect] = [] if switched is None else [HelpSwitched(not self._holdout.is_off, switched)]
        return effects + self.admit(fleet)

    def admit(self, fleet: Fleet, *, offered_cpu: int = _OFFERED_CPU) -> list[Effect]:
        """Slots may have come free: each model's are granted in the order of arrival, until a request has to wait.

        Then so many requests at the end of its queue, who wait longest, are offered what room the CPU has.
        """
        effects: list[Effect] = []
        cpu_has_room: list[Queue] = []
        models = self._queues.in_turn()
        turns = deque(self._admit_first(model, fleet, effects, cpu_has_room) for model in models)
        while turns:
            turn = turns.popleft()
            for _ in turn:
                turns.append(turn)
                break
        for queue in cpu_has_room:
            self._admit_last(queue, offered_cpu, fleet, effects)
        return effects

    def migrate(self, fleet: Fleet, draining: Sequence[str]) -> list[Effect]:
        """Has streams migrate: off the instances that are to stop, and to where they are better off by the readings."""
        effects: list[Effect] = []
        for source in draining:
            targets = [spec for spec in fleet.ready if (source, spec.name) in fleet.pairs]
            for target in sorted(targets, key=self._load):
                self._move(Move(source, target.name, Cause.DRAIN, self.inflight.get(source, 0)), fleet, effects)
        models: dict[str, list[InstanceSpec]] = {}
        for spec in fleet.ready:
            models.setdefault(spec.served_model, []).append(spec)
        for model, ready in models.items():
            queue = self._queues.get(model)
            first = next(iter(queue), None)
            if queue.waiting and (first is None or first.gpu or first.claim.is_batch):
                continue
            view = replace(self._view(fleet, ready, queued=queue.waiting), ended={})  # by what was read alone
            for move in scheduler.moves(view):
                self._move(move, fleet, effects)
        return effects

    def _load(self, spec: InstanceSpec) -> tuple[bool, float]:
        """By which streams of an instance that stops find another: a GPU first, and the one with most slots free."""
        return spec.role is Role.CPU, self.inflight.get(spec.name, 0) / spec.max_num_seqs

    # The queues.

    def _admit_first(
        self, model: str, fleet: Fleet, effects: list[Effect], cpu_has_room: list[Queue]
    ) -> Iterator[None]:
        """Grants slots in the order of arrival until a request has to wait. Yields after each, for other models' turns.

        Args:
            model: Whose queue it is.
            fleet: The instances.
            effects: Are added here.
            cpu_has_room: The queue is added here if the CPU may have room for others than the one that has to wait.
        """
        queue = self._queues.get(model)
        passed_over: list[Entry] = []
        while len(queue):
            entry = queue.pop_first()
            if entry.gpu:
                gpus = self._gpus_for(entry, fleet)
                free = [gpu for gpu in gpus if self._room(gpu, fleet).has_slot]
                if gpus and not free:
                    passed_over.append(entry)
                    cpu_has_room.append(queue)
                    break
                if not any(self._returned(entry.claim, gpu, fleet, effects) for gpu in free):
                    passed_over.append(entry)
                continue
            decision = self._settle(entry.claim, fleet, effects)
            if isinstance(decision, Wait):
                passed_over.append(entry)
                if entry.claim.request.pinned is None:
                    if decision.cpu_has_room:
                        cpu_has_room.append(queue)
                    break
            elif isinstance(decision, RunOn | Offload):
                if decision.returns_to:
                    entry.gpu = decision.returns_to
                    passed_over.append(entry)
                self._queues.has_had_turn(model)
                yield
        queue.put_back(passed_over)

    def _gpus_for(self, entry: Entry, fleet: Fleet) -> list[InstanceSpec]:
        """The GPUs to which a stream may return: the one named, and others that can take it over, if they are ready."""
        claim, name = entry.claim, entry.gpu
        source = claim.stream.spec.name if claim.stream is not None and claim.stream.spec is not None else ""
        found = [
            spec
            for spec in fleet.ready
            if spec.name == name or (spec.role is Role.GPU and (source, spec.name) in fleet.pairs)
        ]
        return sorted(found, key=lambda spec: spec.name != name)

    def _admit_last(self, queue: Queue, count: int, fleet: Fleet, effects: list[Effect]) -> None:
        for position, claim in queue.last(count):
            if claim.request.pinned is not None:
                continue
            decision = self._settle(claim, fleet, effects, queued=position, only=Role.CPU)
            if isinstance(decision, Wait):
                if not decision.cpu_has_room:
                    return
            elif isinstance(decision, RunOn | Offload) and decision.returns_to:
                queue.replace(claim, decision.returns_to)
            else:
                queue.remove_waiting(claim)

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
        before = claim.held_out
        view = self._view(fleet, candidates, request, queued=queued)
        decision = self._decide(claim, view, fleet.now_s)
        if isinstance(decision, RunOn | Offload):
            if only is not None and fleet.specs[decision.places[-1]].role is not only:
                return Wait(cpu_has_room=True)
            effects.append(self._decided(request, decision, view, fleet))
            effects.append(self._grant(claim, decision, view, fleet))
        elif isinstance(decision, Wait):
            if arrives or claim.held_out is not before:
                effects.append(self._decided(request, decision, view, fleet))
        elif only is not None:
            return Wait(cpu_has_room=True)
        else:
            effects.append(self._decided(request, decision, view, fleet))
            effects.append(Refused(claim, UnavailableError(decision.reason, retry_after_s=decision.retry_after_s)))
        return decision

    def _decide(self, claim: Claim, view: View, now_s: float) -> Decision:
        """Decides on a claim; holds out some of the interactive claims that a CPU is about to help with."""
        request = claim.request
        decision = scheduler.decide(self._allowed(claim, view), request)
        share = self.policy.holdout
        if share and claim.member is None and not (claim.first or claim.is_batch):
            prediction = decision.prediction if isinstance(decision, RunOn | Offload) else None
            if prediction is not None:
                claim.member = self._holdout.enroll(prediction, now_s, share)
                if claim.held_out:
                    decision = scheduler.decide(self._allowed(claim, view), request)
        if not claim.held_out or isinstance(decision, Reject):
            return decision
        decision = replace(decision, reasons=(*decision.reasons, _HELD_OUT))
        # What the CPU has room for is for others.
        return replace(decision, cpu_has_room=True) if isinstance(decision, Wait) else decision

    def _allowed(self, claim: Claim, view: View) -> View:
        """The view of a claim. If it is held out or help is switched off, a CPU is no candidate next to a GPU."""
        asked = claim.request.pinned is not None or claim.request.offload
        if asked or not (self._holdout.is_off or claim.held_out):
            return view
        gpus = view.specs(Role.GPU)
        return replace(view, candidates=gpus) if gpus else view

    def _view(
        self,
        fleet: Fleet,
        candidates: Sequence[InstanceSpec] = (),
        request: InferenceRequest | None = None,
        *,
        queued: int = 0,
    ) -> View:
        """What a decision on a request rests on; without a request, one on streams or on room."""
        taken = self._slots.latest()
        return View(
            policy=self.policy,
            snapshot=fleet.snapshot,
            inflight=taken.counts,
            ended=taken.ended,
            candidates=candidates,
            pairs=fleet.pairs,
            queued=queued,
            estimates=self._estimates if request is None else self._estimates.for_kind(request.kind),
            kv_tokens=taken.kv_tokens,
            request_kv_tokens=0.0 if request is None else self._estimates.kv_tokens(request),
            cached_at="" if request is None else self._conversations.instance(request.conversation),
        )

    def _decided(self, request: InferenceRequest, decision: Decision, view: View, fleet: Fleet) -> Decided:
        return Decided(fleet.at_s, request, decision, view, len(self._queues.of_instances(view.candidates)))

    # Slots.

    def _grant(self, claim: Claim, placement: Placement, view: View, fleet: Fleet) -> Granted:
        kv_tokens = view.request_kv_tokens
        parts = (claim.request.prompt_tokens, kv_tokens) if isinstance(placement, Offload) else (kv_tokens,)
        slots = tuple(
            self._slots.take(fleet.specs[name], tokens) for name, tokens in zip(placement.places, parts, strict=True)
        )
        self._running[claim] = None
        self._conversations.note(claim.request.conversation, placement.places[-1])
        return Granted(claim, Grant(placement, slots, released=partial(self._forget, claim)))

    def _forget(self, claim: Claim) -> None:
        """The request, of which a position may be in the queue, has ended."""
        self._running.pop(claim, None)
        self._queues.get(claim.queue).remove_return(claim)
        if claim.member is not None:
            claim.member.over = True

    def _reserve(self, claim: Claim, spec: InstanceSpec, fleet: Fleet) -> Slot | None:
        """Takes a slot for a stream that moves to an instance; None: it has no room."""
        if not self._room(spec, fleet).has_place:
            return None
        return self._slots.take(spec, self._estimates.kv_tokens(claim.request))

    def _room(self, spec: InstanceSpec, fleet: Fleet) -> Room:
        return scheduler.room(self._view(fleet), spec)

    def _too_late(self, claim: Claim, ahead: int, fleet: Fleet) -> OverloadedError | None:
        """Why a request that has to wait is refused at once; None: it waits."""
        target = self.policy.target(claim.request)
        if not target.refuse or target.ttft_s is None or claim.request.pinned is not None:
            return None
        rooms = [self._room(spec, fleet) for spec in fleet.candidates(claim.request, ()) if spec.role is Role.GPU]
        slots = sum(room.slots for room in rooms)
        first_s = [
            predict_first_s(self._estimates, room, claim.request, math.ceil(ahead * room.slots / slots))
            for room in rooms
        ]
        if not first_s or min(first_s) <= target.ttft_s:
            return None
        late_s = min(first_s) - target.ttft_s
        text = f"the first token would take {min(first_s):.1f} s, the target of its class is {target.ttft_s:g} s"
        return OverloadedError(text, retry_after_s=min(_MAX_RETRY_AFTER_S, max(1.0, math.ceil(late_s))))

    def _retry_after_s(self, claim: Claim, fleet: Fleet) -> float:
        """When the present queue of a claim's model will have been served, at the present mean duration."""
        slots = sum(self._room(spec, fleet).slots for spec in fleet.ready if spec.served_model == claim.queue) or 1
        queued = self._queues.get(claim.queue).waiting
        return min(_MAX_RETRY_AFTER_S, math.ceil(1 + queued * self._mean_duration_s / slots))

    # Streams.

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
        running = self._running if move.cause is not Cause.PRESSURE else self._helped()
        for claim in movable(running, move):
            if _moves(effects, claim):
                continue
            slot = self._reserve(claim, target, fleet)
            if slot is None:
                return
            effects.append(MoveStream(claim, slot, move.cause))
            if move.cause is Cause.PRESSURE and target.role is Role.CPU:
                # As the GPU would have thrown it out of its batch, but for a while only.
                self._queues.of(claim, fleet).prepend(claim, move.source)
            elif move.cause is Cause.PRIORITY:
                self._queues.of(claim, fleet).append(claim, move.source)

    def _helped(self) -> Iterator[Claim]:
        """Claims that a CPU may help with."""
        return (claim for claim in self._running if not (claim.held_out or self._holdout.is_off))


def _moves(effects: Sequence[Effect], claim: Claim) -> bool:
    """Whether the claim's stream has been told to move already."""
    return any(isinstance(effect, MoveStream) and effect.claim is claim for effect in effects)


def begun(request: InferenceRequest) -> InferenceRequest:
    """The request for the rest of an answer of which an instance has made a part."""
    return replace(request, whole_because="it has begun already", movable=False)
