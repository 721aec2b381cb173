# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission: which request gets slots now, and which waits for them. Pure: events in, effects out.

Each model has one queue for its GPUs, in which API keys take turns. A CPU takes requests that insist on it, then those
at the end of the queue, where the wait is longest, if it serves them sooner. Otherwise no request is overtaken within
its model, class and key. If the answer can move, the request keeps its position: when that comes up, the stream
migrates to a GPU. Models that share instances get slots in turns.

`Placer` decides on one claim, `Granter` carries that out; `Migration` decides on running streams, `Admission` on the
order. Each of its methods except the questions is an event and returns effects, which the Engine (or a simulator)
carries out in order. Call `admit` after the release of a slot.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from syshaxd.core.errors import OverloadedError, UnavailableError
from syshaxd.core.placement.calibration import RunResult, seed
from syshaxd.core.placement.claims import Claim, Effect, Fleet, HelpSwitched, Refused
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.granter import Granter
from syshaxd.core.placement.holdout import Holdout
from syshaxd.core.placement.interference import report
from syshaxd.core.placement.migration import Migration
from syshaxd.core.placement.placer import Placer
from syshaxd.core.placement.queue import Queue, Queues
from syshaxd.core.placement.records import HandoverRecord
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Slot
from syshaxd.core.placement.turns import Entry
from syshaxd.core.report.engine_status import Interference
from syshaxd.core.types import InstanceSpec, Role

_OFFERED_CPU = 16
"""Requests at the end of a queue that are offered a CPU with room at a time."""


class Admission:
    """Grants slots in the order of the queues. A grant is held as a context manager until the request ends."""

    def __init__(self, policy: Policy, *, max_queue_size: int) -> None:
        """Begins with no slot taken.

        Args:
            policy: Decides.
            max_queue_size: Requests that may wait for each model; one more is refused, unless its key has less than an
                equal share of them.
        """
        self.max_queue_size = max_queue_size
        """May be changed at any time."""
        self._placer = Placer(policy)
        self._queues = Queues()
        self._running: dict[Claim, None] = {}  # in the order in which they were granted
        self._granter = Granter(self._placer, self._queues, self._running)
        self._migration = Migration(self._placer, self._queues, self._running)

    # Questions.

    @property
    def policy(self) -> Policy:
        """The policy that decides."""
        return self._placer.policy

    @property
    def holdout(self) -> Holdout:
        """What is measured of help by CPUs."""
        return self._placer.holdout

    @property
    def estimates(self) -> Estimates:
        """What has been measured."""
        return self._placer.estimates

    @property
    def interference(self) -> tuple[Interference, ...]:
        """How much CPUs slow GPUs down."""
        return report(self._placer.estimates)

    @property
    def queued(self) -> int:
        """Requests that wait; those that a CPU answers until their position comes up do not."""
        return self._queues.waiting

    @property
    def queued_models(self) -> Mapping[str, int]:
        """Requests that wait, by the model that they name."""
        return Counter(claim.request.model for claim in self._queues.claims())

    def waiting(self, model: str) -> Queue:
        """The queue of a model."""
        return self._queues.get(model)

    @property
    def entries(self) -> int:
        """Everything in the queues: requests that wait, and positions of those that a CPU answers."""
        return self._queues.entries

    @property
    def inflight(self) -> Mapping[str, int]:
        """Slots taken, by instance; an instance that never had one is missing."""
        return self._placer.slots.counts

    @property
    def is_quiet(self) -> bool:
        """Whether no request waits and no slot is taken."""
        return not self.queued and not self._placer.slots.any_taken

    def on_release(self, callback: Callable[[str], None]) -> None:
        """Has `callback` called with the instance's name after each release of a slot."""
        self._placer.slots.subscribe(callback)

    def decide(
        self, request: InferenceRequest, fleet: Fleet, *, assumed_inflight: Mapping[str, int] | None = None
    ) -> Decision:
        """Where a request would go now, or with other counts of requests that run. Takes no slot.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        candidates = fleet.candidates(request, ())
        queued = self._queues.of_instances(candidates).ahead_of(request)
        view = self._placer.view(fleet, candidates, request, queued=queued)
        if assumed_inflight is not None:
            view = replace(view, inflight=assumed_inflight, ended={})
        return self._placer.decide(Claim(request), view)

    # Requests come and go.

    def arrive(self, claim: Claim, fleet: Fleet) -> list[Effect]:
        """A request asks for slots: it gets them now, or when its turn in the queue comes, or is refused."""
        effects: list[Effect] = []
        queue = self._queues.of(claim, fleet)
        ahead = queue.ahead_of(claim.request)
        if refusal := self._granter.refuse_late(claim, ahead, fleet):
            return refusal
        if claim.first or not ahead or self._may_pass(claim.request.pinned, queue, fleet):
            decision = self._granter.settle(claim, fleet, effects, arrives=True)
            if not isinstance(decision, Wait):
                if isinstance(decision, RunOn | Offload) and decision.returns_to:
                    queue.append(claim, decision.returns_to)
                return effects
        if claim.first:
            queue.prepend(claim)
        elif queue.has_room(claim.key, self.max_queue_size):
            queue.append(claim)
        else:
            text = f"all instances are full and {queue.waiting} requests are already waiting"
            effects.append(Refused(claim, OverloadedError(text, retry_after_s=self._retry_after_s(claim, fleet))))
            return effects
        return effects + self.admit(fleet, offered_cpu=1)

    def place(self, claim: Claim, fleet: Fleet) -> tuple[Decision, list[Effect]]:
        """A request that another gateway carries out asks for slots: it gets them now, or not at all.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        candidates = fleet.candidates(claim.request, ())
        queue = self._queues.of(claim, fleet)
        view = self._placer.view(fleet, candidates, claim.request, queued=len(queue))
        decision: Decision
        if queue.waiting:
            decision = Wait((f"{queue.waiting} requests are already waiting",))
        else:
            decision = self._placer.decide(claim, view)
        effects: list[Effect] = [self._granter.decided(claim, decision, view, fleet)]
        if isinstance(decision, RunOn | Offload):
            effects.append(self._granter.grant(claim, decision, view, fleet))
        return decision, effects

    def give_up(self, claim: Claim) -> None:
        """A request stops waiting."""
        self._queues.get(claim.queue).remove_waiting(claim)
        if claim.member is not None:
            claim.member.over = True

    def timed_out(self, claim: Claim, fleet: Fleet, after_s: float) -> UnavailableError:
        """A request has waited for as long as it may."""
        self.give_up(claim)
        retry_after_s = self._retry_after_s(claim, fleet)
        return UnavailableError(f"no slot came free within {after_s:g} s", retry_after_s=retry_after_s)

    def redecide(self, claim: Claim, fleet: Fleet) -> Slot | None:
        """An instance has made its part of a claim's stream: takes a slot where the next part is better made.

        Returns:
            None: the same instance makes the next part.
        """
        return self._migration.next_part(claim, fleet)

    # Measurements.

    def observe_answer(
        self, request: InferenceRequest, duration_s: float, tokens: int, handovers: Sequence[HandoverRecord] = ()
    ) -> None:
        """An answer has ended well, so long after its request got its slots."""
        self._placer.observe_answer(request, duration_s, tokens, handovers)

    def observe_help(self, claim: Claim, now_s: float) -> None:
        """The answer to a claim has ended well, at a time of `Fleet.now_s`; its grant is released afterwards."""
        if claim.member is not None:
            claim.member.whole_s = now_s - claim.member.since_s

    def seed_estimates(self, results: Sequence[RunResult], name: str) -> None:
        """Starts the estimates of an instance from what a calibration measured."""
        self._placer.estimates = seed(self._placer.estimates, results, name)

    def set_policy(self, policy: Policy) -> None:
        """Decides by another policy from now on. Whether help pays is measured again, with help."""
        if policy != self._placer.policy:
            self._placer.holdout.restart()
        self._placer.policy = policy

    # Instances change.

    def observe_loads(self, fleet: Fleet) -> list[Effect]:
        """New readings have come: what waits is decided again."""
        switched = self._placer.holdout.settle(fleet.now_s)
        self._placer.observe_loads(fleet)
        effects: list[Effect] = [] if switched is None else [HelpSwitched(not self._placer.holdout.is_off, switched)]
        return effects + self.admit(fleet)

    def admit(self, fleet: Fleet, *, offered_cpu: int = _OFFERED_CPU) -> list[Effect]:
        """Slots may have come free: grants each model's in the order of its queue, until a request has to wait.

        Then it offers the CPU's room to the last requests of that queue, which wait longest.

        Args:
            fleet: The instances.
            offered_cpu: Requests that are offered the CPU's room.
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
        """Moves streams off the instances that are to stop, and to where they are better off by the readings."""
        effects: list[Effect] = []
        self._migration.drain(draining, fleet, effects)
        self._migration.rebalance(fleet, effects)
        return effects

    # The queues.

    def _admit_first(
        self, model: str, fleet: Fleet, effects: list[Effect], cpu_has_room: list[Queue]
    ) -> Iterator[None]:
        """Grants slots in the order of a queue until a request has to wait. Yields after each, for other models' turns.

        Args:
            model: The queue's.
            fleet: The instances.
            effects: Gets the effects.
            cpu_has_room: Gets the queue, if the CPU may have room for others than the request that has to wait.
        """
        queue = self._queues.get(model)
        passed_over: list[Entry] = []
        taken = set[str]()  # the next slots of these instances are for requests that insist on them
        while len(queue):
            entry = queue.pop_first()
            if entry.gpu:
                gpus = self._migration.gpus_for(entry, fleet)
                free = [gpu for gpu in gpus if self._placer.room(gpu, fleet).has_slot]
                if gpus and not free:
                    passed_over.append(entry)
                    cpu_has_room.append(queue)
                    break
                if not any(self._migration.return_to(entry.claim, gpu, fleet, effects) for gpu in free):
                    passed_over.append(entry)
                continue
            pinned = entry.claim.request.pinned
            if pinned in taken:
                passed_over.append(entry)
                continue
            decision = self._granter.settle(entry.claim, fleet, effects, without=taken)
            if isinstance(decision, Wait):
                passed_over.append(entry)
                if pinned is None:
                    if decision.cpu_has_room:
                        cpu_has_room.append(queue)
                    break
                taken.add(pinned)
            elif isinstance(decision, RunOn | Offload):
                if decision.returns_to:
                    entry.gpu = decision.returns_to
                    passed_over.append(entry)
                self._queues.has_had_turn(model)
                yield
        queue.put_back(passed_over)
        for name in queue.pinned:
            spec = fleet.specs.get(name)
            if spec is not None and spec.role is Role.CPU:
                self._admit_pinned(queue, spec, fleet, effects)

    def _admit_pinned(self, queue: Queue, cpu: InstanceSpec, fleet: Fleet, effects: list[Effect]) -> None:
        """Grants a CPU's slots to requests that insist on it: what is still before them waits for GPUs."""
        while self._placer.room(cpu, fleet).has_place and (claim := queue.first_pinned(cpu.name)) is not None:
            if isinstance(self._granter.settle(claim, fleet, effects), Wait):
                break  # the instance is yet to be started
            queue.remove_waiting(claim)

    @staticmethod
    def _may_pass(instance: str | None, queue: Queue, fleet: Fleet) -> bool:
        """Whether a request that insists on an instance waits for another one than all that are before it."""
        spec = fleet.specs.get(instance) if instance is not None else None
        return spec is not None and not queue.waits_for(spec.name, is_gpu=spec.role is Role.GPU)

    def _admit_last(self, queue: Queue, count: int, fleet: Fleet, effects: list[Effect]) -> None:
        for position, claim in queue.last(count):
            if claim.request.pinned is not None:
                continue
            decision = self._granter.settle(claim, fleet, effects, queued=position, only=Role.CPU)
            if isinstance(decision, Wait):
                if not decision.cpu_has_room:
                    return
            elif isinstance(decision, RunOn | Offload) and decision.returns_to:
                queue.replace(claim, decision.returns_to)
            else:
                queue.remove_waiting(claim)

    def _retry_after_s(self, claim: Claim, fleet: Fleet) -> float:
        """Seconds until the present queue of a claim's model will have been served."""
        return self._placer.retry_after_s(claim.queue, self._queues.get(claim.queue).waiting, fleet)
