# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission: which request gets a slot on an instance now, and which waits for one.

The queue is that for the GPU. Whom the CPU can serve sooner leaves it, from its end, where the wait is longest; nobody
is overtaken. If the answer can move, its turn stays in the queue: when it comes, the answer goes on at the GPU.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from syshaxd.core.errors import NotFoundError, OverloadedError, UnavailableError
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates, observe_answer, observe_loads
from syshaxd.core.placement.scheduler import Scheduler
from syshaxd.core.types import InstanceSpec, Role
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.in_flight import Decided
from syshaxd.serving.slots import Grant, Slot, Slots

_MAX_RETRY_AFTER_S = 60.0
# Weight of the newest request in the mean duration, from which Retry-After is estimated.
_MEAN_WEIGHT = 0.05
# Of those who wait longest for the GPU, so many are offered a CPU with room at a time.
_LOOKED_AT = 16


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request in the queue."""

    request: InferenceRequest
    tried: tuple[str, ...]
    grant: "asyncio.Future[Grant]"


@dataclass(slots=True, eq=False)
class _Turn:
    """The place in the queue of a request that a CPU answers meanwhile."""

    request: InferenceRequest
    gpu: str


class Admission:
    """Grants slots in the order of arrival. Lives in one event loop.

    A request that gets a `Grant` holds it as a context manager: its slots are released at its end, whatever happens.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        registry: InstanceRegistry,
        *,
        snapshot: Callable[[], Snapshot],
        pairs: Callable[[], Set[tuple[str, str]]],
        decided: Callable[[Decided], None],
        take_turn: Callable[[InferenceRequest, InstanceSpec], bool],
        max_queue_size: int,
        max_queue_wait_s: float,
    ) -> None:
        """Begins with no slot taken.

        Args:
            scheduler: Decides.
            registry: Who could take a request.
            snapshot: Returns the latest readings.
            pairs: Returns which instances can hand over to which, by name.
            decided: Called with every decision.
            take_turn: Has an answer go on at a GPU with room, where it reserves its slot; false: it can't right now.
            max_queue_size: Requests that may wait; one more is refused.
            max_queue_wait_s: How long one may wait.
        """
        self._scheduler = scheduler
        self._registry = registry
        self._snapshot = snapshot
        self._pairs = pairs
        self._decided = decided
        self._take_turn = take_turn
        self._max_queue_size = max_queue_size
        self.max_queue_wait_s = max_queue_wait_s
        self._slots = Slots()
        self._slots.subscribe(self._on_release)
        self._queue: deque[_Waiting | _Turn] = deque()
        self._turns = 0
        self._mean_duration_s = 1.0
        self._estimates = Estimates()
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call each time

    @property
    def queued(self) -> int:
        """Requests that wait; those that a CPU answers until it is their turn do not."""
        return len(self._queue) - self._turns

    @property
    def entries(self) -> int:
        """Everything in the queue: requests that wait, and turns of those that a CPU answers."""
        return len(self._queue)

    def set_limits(self, *, max_queue_size: int, max_queue_wait_s: float) -> None:
        """Sets the queue's limits; a request that waits already keeps its time."""
        self._max_queue_size = max_queue_size
        self.max_queue_wait_s = max_queue_wait_s

    @property
    def inflight(self) -> Mapping[str, int]:
        """Slots taken, by instance; an instance that never had one is missing."""
        return self._slots.counts

    def on_release(self, callback: Callable[[str], None]) -> None:
        """Has `callback` called with the instance's name after each release of a slot."""
        self._slots.subscribe(callback)

    def decide(
        self,
        request: InferenceRequest,
        candidates: Sequence[InstanceSpec],
        *,
        snapshot: Snapshot | None = None,
        inflight: Mapping[str, int] | None = None,
    ) -> Decision:
        """Where a request would go now, or under other loads; takes no place."""
        if snapshot is None and inflight is None:
            return self._decide(request, candidates, queued=len(self._queue))
        return self._scheduler.decide(
            request,
            snapshot or self._snapshot(),
            self.inflight if inflight is None else inflight,
            candidates,
            self._pairs(),
            queued=len(self._queue),
            estimates=self._estimates,
        )

    def place(self, request: InferenceRequest) -> tuple[Decision, Grant | None]:
        """Decides on a request that another gateway carries out, and takes its slots, if it is to run now.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        candidates = self._registry.candidates(request)
        waits = self.queued
        decision = Wait((f"{waits} requests wait already",)) if waits else self.decide(request, candidates)
        self._note(request, candidates, decision)
        return decision, self._grant(request, decision) if isinstance(decision, RunOn | Offload) else None

    def at_once(self, request: InferenceRequest, tried: tuple[str, ...] = (), *, first: bool = False) -> Grant | None:
        """Grants slots; None: all are taken, or others wait already (unless `first`).

        Raises:
            NotFoundError: No instance has such a model or route.
            UnavailableError: No instance could ever take it now.
        """
        if self._queue and request.pinned is None and not first:
            return None
        candidates = self._registry.candidates(request, tried)
        decision = self._decide(request, candidates, queued=0)
        self._note(request, candidates, decision)
        if isinstance(decision, RunOn | Offload):
            if decision.turn_at:
                self._queue.append(_Turn(request, decision.turn_at))
                self._turns += 1
            return self._grant(request, decision)
        if isinstance(decision, Wait):
            return None
        raise UnavailableError(decision.reason, retry_after_s=decision.retry_after_s)

    async def wait(self, request: InferenceRequest, tried: tuple[str, ...] = (), *, first: bool = False) -> Grant:
        """Grants slots as soon as they come free, in the order of arrival, or before all others.

        Raises:
            OverloadedError: Too many wait already.
            NotFoundError: The configuration has changed: no instance has such a model or route any more.
            UnavailableError: None came free in time, or no instance could ever take it now.
        """
        if self.queued >= self._max_queue_size and not first:
            raise OverloadedError(
                f"all instances are full and {self.queued} requests wait already",
                retry_after_s=self._retry_after_s(),
            )
        waiting = _Waiting(request, tried, self._loop.create_future())
        if first:
            self._queue.appendleft(waiting)
        else:
            self._queue.append(waiting)
        self.admit(at_end=1)
        try:
            async with asyncio.timeout(self.max_queue_wait_s):
                return await waiting.grant
        except BaseException as error:
            with suppress(ValueError):
                self._queue.remove(waiting)
            if waiting.grant.done() and not waiting.grant.cancelled() and waiting.grant.exception() is None:
                waiting.grant.result().release()  # granted in the very moment in which it was given up
            if isinstance(error, TimeoutError):
                raise UnavailableError(
                    f"no slot came free within {self.max_queue_wait_s:g} s", retry_after_s=self._retry_after_s()
                ) from None
            raise

    def elsewhere(self, request: InferenceRequest, present: Slot) -> Slot | None:
        """Decides again where an answer goes on of which an instance has made a part; takes a slot there.

        Returns:
            None: it goes on where it is.
        """
        name = present.spec.name
        without = {**self.inflight, name: self.inflight.get(name, 0) - 1}  # its own slot is not in its way
        candidates = self._registry.candidates(request)
        decision = self._decide(request, candidates, queued=len(self._queue), inflight=without)
        if not isinstance(decision, RunOn) or (name, decision.instance) not in self._pairs():
            return None
        return self._slots.take(self._registry.specs[decision.instance])

    def keep_turn(self, request: InferenceRequest, gpu: str) -> None:
        """The answer, which has left this GPU for the time being, goes on there before all that waits."""
        self._queue.appendleft(_Turn(request, gpu))
        self._turns += 1

    def _forget(self, request: InferenceRequest) -> None:
        """The request, which may have a turn, has ended."""
        if not self._turns:
            return
        for turn in [entry for entry in self._queue if isinstance(entry, _Turn) and entry.request is request]:
            self._queue.remove(turn)
            self._turns -= 1

    def reserve(self, spec: InstanceSpec) -> Slot | None:
        """Takes a slot on an instance; None: it has no room."""
        return self._slots.take(spec) if self._room(spec).has_place else None

    def _on_release(self, name: str) -> None:
        if self._queue:
            self.admit()

    def admit(self, *, at_end: int = _LOOKED_AT) -> None:
        """Grants slots in the order of arrival, until a request must wait for a slot that all others wait for too.

        Then so many at the end of the queue, who wait longest for that slot, are offered what room the CPU has.
        """
        if self._admit_first():
            self._admit_last(at_end)

    def _admit_first(self) -> bool:
        """Returns whether the CPU may have room for others than the first that has to wait."""
        passed_over: list[_Waiting | _Turn] = []
        cpu_has_room = False
        while self._queue:
            entry = self._queue.popleft()
            if isinstance(entry, _Turn):
                spec = next((spec for spec in self._registry.ready if spec.name == entry.gpu), None)
                if spec is not None and not self._room(spec).has_slot:
                    passed_over.append(entry)
                    cpu_has_room = True
                    break
                if spec is not None and self._take_turn(entry.request, spec):
                    self._turns -= 1
                else:
                    passed_over.append(entry)
            elif not entry.grant.done():
                decision = self._admit(entry, queued=0)
                if isinstance(decision, Wait):
                    passed_over.append(entry)
                    if entry.request.pinned is None:
                        cpu_has_room = decision.cpu_has_room
                        break
                elif isinstance(decision, RunOn | Offload) and decision.turn_at:
                    self._turns += 1
                    passed_over.append(_Turn(entry.request, decision.turn_at))
        self._queue.extendleft(reversed(passed_over))
        return cpu_has_room

    def _admit_last(self, count: int) -> None:
        last = len(self._queue) - 1
        for position in range(last, max(0, last - count), -1):
            entry = self._queue[position]
            if isinstance(entry, _Turn) or entry.request.pinned is not None or entry.grant.done():
                continue
            decision = self._admit(entry, queued=position, only=Role.CPU)
            if isinstance(decision, Wait):
                if not decision.cpu_has_room:
                    return
            elif isinstance(decision, RunOn | Offload) and decision.turn_at:
                self._turns += 1
                self._queue[position] = _Turn(entry.request, decision.turn_at)
            else:
                del self._queue[position]

    def _admit(self, waiting: _Waiting, *, queued: int, only: Role | None = None) -> Decision | None:
        """Decides on one who waits, and lets it go on unless it is to wait; None: nobody serves it any more.

        Args:
            waiting: Who waits.
            queued: Who gets the GPU before.
            only: The kind of instance on which it may take its slot.
        """
        request = waiting.request
        try:
            candidates = self._registry.candidates(request, waiting.tried)
        except NotFoundError as error:  # the configuration has changed meanwhile
            waiting.grant.set_exception(error)
            return None
        decision = self._decide(request, candidates, queued=queued)
        if isinstance(decision, Wait):
            return decision
        if only is not None and not (
            isinstance(decision, RunOn | Offload) and self._registry.specs[decision.places[-1]].role is only
        ):
            return Wait(cpu_has_room=True)
        self._note(request, candidates, decision)
        if isinstance(decision, RunOn | Offload):
            waiting.grant.set_result(self._grant(request, decision))
        else:
            waiting.grant.set_exception(UnavailableError(decision.reason, retry_after_s=decision.retry_after_s))
        return decision

    def is_quiet(self) -> bool:
        """Whether no request waits and no slot is taken."""
        return not self.queued and not self._slots.any_taken

    def observe_loads(self) -> None:
        """New readings have come: what waits is decided again."""
        self._slots.observe_loads(self._snapshot())
        self._estimates = observe_loads(self._estimates, self._snapshot())
        if self._queue:
            self.admit()

    def observe_answer(self, duration_s: float, tokens: int) -> None:
        """An answer has ended well, so long after it had got its place."""
        self._mean_duration_s += _MEAN_WEIGHT * (duration_s - self._mean_duration_s)
        if tokens:
            self._estimates = observe_answer(self._estimates, tokens)

    def _decide(
        self,
        request: InferenceRequest,
        candidates: Sequence[InstanceSpec],
        *,
        queued: int,
        inflight: Mapping[str, int] | None = None,
    ) -> Decision:
        return self._scheduler.decide(
            request,
            self._snapshot(),
            self.inflight if inflight is None else inflight,
            candidates,
            self._pairs(),
            ended=self._slots.ended,
            queued=queued,
            estimates=self._estimates,
        )

    def _room(self, spec: InstanceSpec) -> Room:
        return self._scheduler.room(spec, self._snapshot(), self.inflight, self._slots.ended)

    def _note(self, request: InferenceRequest, candidates: Sequence[InstanceSpec], decision: Decision) -> None:
        names = [spec.name for spec in candidates]
        inflight = dict(self.inflight)
        self._decided(Decided(time.time(), request, decision, names, inflight, len(self._queue), self._snapshot()))

    def _grant(self, request: InferenceRequest, placement: Placement) -> Grant:
        slots = tuple(self._slots.take(self._registry.specs[name]) for name in placement.places)
        return Grant(placement, slots, released=partial(self._forget, request))

    def _retry_after_s(self) -> float:
        """When the present queue will have been served, at the present mean duration."""
        slots = sum(self._room(spec).slots for spec in self._registry.ready) or 1
        return min(_MAX_RETRY_AFTER_S, math.ceil(1 + self.queued * self._mean_duration_s / slots))
