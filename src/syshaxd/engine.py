# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Engine: places requests, keeps the admission queue, and passes commands on to the instances."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from syshaxd import __version__
from syshaxd.core.bindings import Bound
from syshaxd.core.errors import (
    InstanceFailedError,
    InstanceTimeoutError,
    NotFoundError,
    OverloadedError,
    RequestCancelledError,
    SyshaxError,
    UnavailableError,
)
from syshaxd.core.estimate import Estimates, observe_answer, observe_loads
from syshaxd.core.events import EventKind
from syshaxd.core.parity import ParityReport
from syshaxd.core.scheduler import Move, Policy, Scheduler
from syshaxd.core.topology import BindingStatus, Fault, Settings, Unverified, Verification
from syshaxd.core.types import (
    Cause,
    Decision,
    EngineStatus,
    HostTopology,
    InferenceRequest,
    InstanceSpec,
    InstanceStatus,
    Offload,
    Outcome,
    Placement,
    RequestRecord,
    RunOn,
    Snapshot,
    State,
    Wait,
)
from syshaxd.events import EventLog
from syshaxd.handover import Handover
from syshaxd.monitor.bindings import BindingMonitor
from syshaxd.parity import ParityService
from syshaxd.requests import Decided, RequestBook, RunningRequest
from syshaxd.runner import Downstream, Outgoing, Runner
from syshaxd.runner.catalog import Catalog, assumed
from syshaxd.supervisor import Supervisor

_log = logging.getLogger(__name__)
_MAX_RETRY_AFTER_S = 60.0
# Kept answers to "who serves this model and route?"; paths with ids in them must not fill memory.
_MAX_OFFERS = 1000
# Weight of the newest request in the mean duration, from which Retry-After is estimated.
_MEAN_WEIGHT = 0.05


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request in the admission queue."""

    request: InferenceRequest
    tried: tuple[str, ...]
    place: "asyncio.Future[Placement]"


class Engine:
    """The core of the daemon. Lives in one event loop; every method is called from there."""

    def __init__(
        self,
        specs: Sequence[InstanceSpec],
        *,
        supervisor: Supervisor,
        scheduler: Scheduler,
        runner: Runner,
        handover: Handover,
        snapshot: Callable[[], Snapshot],
        read_catalog: Callable[[InstanceSpec], Awaitable[Catalog]],
        parity: ParityService,
        max_queue_size: int,
        max_queue_wait_s: float,
        bindings: BindingMonitor,
        events: EventLog | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._supervisor = supervisor
        self._scheduler = scheduler
        self._runner = runner
        self._handover = handover
        self._snapshot = snapshot
        self._read_catalog = read_catalog
        self._parity = parity
        self._max_queue_size = max_queue_size
        self._max_queue_wait_s = max_queue_wait_s
        self._bindings = bindings
        self._catalogs: dict[str, Catalog] = {spec.name: assumed(spec) for spec in specs}
        self._ready: tuple[InstanceSpec, ...] = ()
        self._inflight = dict.fromkeys(self._specs, 0)
        self._queue: deque[_Waiting] = deque()
        self._mean_duration_s = 1.0
        self._estimates = Estimates()
        self.requests = RequestBook()
        self.events = events or EventLog()
        self._states: dict[str, State] = {}
        self._drained: asyncio.Future[None] | None = None
        self._ready_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_at_s = time.time()
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call each time
        self._offers: dict[tuple[str, str, str, str | None], tuple[InstanceSpec, ...]] = {}
        self.endpoint = ""
        supervisor.subscribe(self._on_status)
        bindings.subscribe(self._on_drift)

    # Requests.

    async def dispatch(
        self, request: InferenceRequest, outgoing: Outgoing, client: Downstream, record: RequestRecord
    ) -> bool:
        """Places the request, relays its answer to the client, and fills the record.

        A failure before the first byte is tried again on another instance, once.

        Returns:
            Whether the client's connection may stay open.

        Raises:
            NotFoundError: No instance has such a model or route.
            OverloadedError: The admission queue is full.
            UnavailableError: No instance is ready, or no place came free in time.
            InstanceFailedError: Nothing was sent to the client, and no other instance could answer.
            InstanceTimeoutError: As above, and the instance was silent for too long.
            RequestCancelledError: An operator ended it before anything was sent.
        """
        running = self.requests.begins(request, record)
        try:
            return await self._dispatch(request, outgoing, client, record)
        except asyncio.CancelledError:
            if not running.cancelled:
                raise
            record.outcome = Outcome.CANCELLED
            if record.status or running.task is None:
                raise  # its answer has begun: its connection is closed
            running.task.uncancel()
            raise RequestCancelledError("an operator has cancelled this request") from None
        finally:
            self.requests.ends(running)
            for handover in record.handovers:
                if handover.failed:
                    text = f"request {record.request_id}: {handover}"
                    self.events.add(EventKind.HANDOVER, text, instance=handover.target)

    async def _dispatch(
        self, request: InferenceRequest, outgoing: Outgoing, client: Downstream, record: RequestRecord
    ) -> bool:
        body: Mapping[str, Any] | None = None
        if self._handover.pairs:
            request, body = self._handover.examine(request, outgoing)
        tried: tuple[str, ...] = ()
        while True:
            placement = self._place_at_once(request, tried) or await self._wait_for_place(request, tried)
            record.placement = "+".join(placement.places)
            record.prediction = placement.prediction if isinstance(placement, Offload) else None
            placed_at_s = self._loop.time()
            record.queue_s = placed_at_s - record.started_at_s
            last_try = bool(tried) or len(self._ready) < 2 or request.pinned is not None
            first = placement.places[0]
            try:
                if body is not None and self._handover.takes(placement, request):
                    return await self._handover.carry(
                        placement,
                        body=body,
                        outgoing=outgoing,
                        client=client,
                        record=record,
                        places=_JourneyPlaces(self, request),
                        last_try=last_try,
                        may_return=not request.offload,
                    )
                try:
                    return await self._runner.run(self._specs[first], outgoing, client, record, last_try=last_try)
                finally:
                    self.release(first)
            except (InstanceFailedError, InstanceTimeoutError) as error:
                self._supervisor.suspect(first)
                if last_try or isinstance(error, InstanceTimeoutError):
                    raise type(error)(f"instance {first}: {error}") from error
                _log.warning(
                    "request %s: instance %s: %s; trying another",
                    record.request_id,
                    first,
                    error,
                    extra={"instance": first, "request_id": record.request_id},
                )
                tried = (first,)
                record.retries += 1
            finally:
                if record.outcome is Outcome.OK:
                    duration_s = self._loop.time() - placed_at_s
                    self._mean_duration_s += _MEAN_WEIGHT * (duration_s - self._mean_duration_s)
                    if record.tokens_out:
                        self._estimates = observe_answer(self._estimates, record.tokens_out)

    def ready_instances(self) -> tuple[str, ...]:
        """The instances that requests can go to now."""
        return tuple(spec.name for spec in self._ready)

    def models(self) -> list[Mapping[str, Any]]:
        """The models of the instances that are ready, as /v1/models lists them; all instances' if none is ready."""
        names = [spec.name for spec in self._ready] or list(self._specs)
        return list({key: model for name in names for key, model in self._catalogs[name].models.items()}.values())

    def _check_known(self, request: InferenceRequest) -> None:
        if request.pinned is not None and request.pinned not in self._specs:
            raise NotFoundError(
                f"no instance {request.pinned!r}; there are {', '.join(self._specs)}", code="instance_not_found"
            )
        catalogs = self._catalogs.values()
        if not any(catalog.serves_model(request.model) for catalog in catalogs):
            known = sorted({model for catalog in catalogs for model in catalog.models})
            raise NotFoundError(
                f"the model {request.model!r} does not exist; there is {', '.join(known)}",
                param="model",
                code="model_not_found",
            )
        if not any(catalog.serves_route(request.method, request.path) for catalog in catalogs):
            raise NotFoundError(f"no instance serves {request.method} {request.path}", code="route_not_found")

    def _candidates(self, request: InferenceRequest, tried: tuple[str, ...]) -> tuple[InstanceSpec, ...]:
        """The ready instances that serve the call, without those tried. Raises NotFoundError if none ever does."""
        key = (request.model, request.method, request.path, request.pinned)
        offers = self._offers.get(key)
        if offers is None:
            self._check_known(request)
            offers = tuple(
                spec
                for spec in self._ready
                if request.pinned in {None, spec.name}
                and self._catalogs[spec.name].serves_model(request.model)
                and self._catalogs[spec.name].serves_route(request.method, request.path)
            )
            if len(self._offers) >= _MAX_OFFERS:
                self._offers.clear()
            self._offers[key] = offers
        return tuple(spec for spec in offers if spec.name not in tried) if tried else offers

    def _set_ready(self, ready: tuple[InstanceSpec, ...]) -> None:
        self._ready = ready
        self._ready_changed.set()
        self._ready_changed = asyncio.Event()
        self._offers.clear()
        self._admit()

    def decide(
        self,
        request: InferenceRequest,
        tried: tuple[str, ...] = (),
        *,
        snapshot: Snapshot | None = None,
        inflight: Mapping[str, int] | None = None,
    ) -> Decision:
        """Where a request would go now, or under other loads; takes no place.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        return self._decide(request, self._candidates(request, tried), snapshot=snapshot, inflight=inflight)

    def _decide(
        self,
        request: InferenceRequest,
        candidates: Sequence[InstanceSpec],
        *,
        snapshot: Snapshot | None = None,
        inflight: Mapping[str, int] | None = None,
    ) -> Decision:
        return self._scheduler.decide(
            request,
            snapshot or self._snapshot(),
            self._inflight if inflight is None else inflight,
            candidates,
            self._handover.pairs,
            queued=len(self._queue),
            estimates=self._estimates,
        )

    def place(self, request: InferenceRequest) -> Decision:
        """Decides on a request that somebody else carries out; a place that it takes is given back with `release`.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        candidates = self._candidates(request, ())
        waits = len(self._queue)
        decision = Wait((f"{waits} requests wait already",)) if waits else self._decide(request, candidates)
        self._note(request, candidates, decision)
        if isinstance(decision, RunOn | Offload):
            self._take(decision)
        return decision

    def _note(self, request: InferenceRequest, candidates: Sequence[InstanceSpec], decision: Decision) -> None:
        names = [spec.name for spec in candidates]
        inflight = dict(self._inflight)
        entry = Decided(time.time(), request, decision, names, inflight, len(self._queue), self._snapshot())
        self.requests.decisions.append(entry)

    def _take(self, placement: Placement) -> None:
        for name in placement.places:
            self._inflight[name] += 1

    def _place_at_once(
        self, request: InferenceRequest, tried: tuple[str, ...], *, first: bool = False
    ) -> Placement | None:
        """Takes a place, which `release` gives back; None: all are taken, or others wait already (unless `first`)."""
        if self._queue and request.pinned is None and not first:
            return None
        candidates = self._candidates(request, tried)
        decision = self._decide(request, candidates)
        self._note(request, candidates, decision)
        if isinstance(decision, RunOn | Offload):
            self._take(decision)
            return decision
        if isinstance(decision, Wait):
            return None
        raise UnavailableError(decision.reason, retry_after_s=decision.retry_after_s)

    async def _wait_for_place(
        self, request: InferenceRequest, tried: tuple[str, ...], *, first: bool = False
    ) -> Placement:
        """Takes a place as soon as one comes free, in the order of arrival, or before all others."""
        if len(self._queue) >= self._max_queue_size and not first:
            raise OverloadedError(
                f"all instances are full and {len(self._queue)} requests wait already",
                retry_after_s=self._retry_after_s(),
            )
        waiting = _Waiting(request, tried, self._loop.create_future())
        if first:
            self._queue.appendleft(waiting)
        else:
            self._queue.append(waiting)
        try:
            async with asyncio.timeout(self._max_queue_wait_s):
                return await waiting.place
        except BaseException as error:
            with suppress(ValueError):
                self._queue.remove(waiting)
            if waiting.place.done() and not waiting.place.cancelled() and waiting.place.exception() is None:
                for name in waiting.place.result().places:
                    self.release(name)  # granted in the very moment in which it was given up
            if isinstance(error, TimeoutError):
                raise UnavailableError(
                    f"no place came free within {self._max_queue_wait_s:g} s", retry_after_s=self._retry_after_s()
                ) from None
            raise

    async def place_rest(self, request: InferenceRequest, failed: str) -> InstanceSpec:
        """Takes a place for the rest of an answer whose instance has failed, before all that has not begun yet.

        Raises:
            SyshaxError: No instance can go on, nor has one become ready in the time that a request may wait.
        """
        self._supervisor.suspect(failed)
        rest = replace(request, offload=False, whole_because="it has begun already")
        tried: tuple[str, ...] = (failed,)
        deadline_s = self._loop.time() + self._max_queue_wait_s
        while True:
            try:
                placement = self._place_at_once(rest, tried, first=True) or await self._wait_for_place(
                    rest, tried, first=True
                )
            except UnavailableError as error:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline_s):
                        await self._ready_changed.wait()
                    tried = ()
                    continue
                raise error from None
            return self._specs[placement.places[-1]]

    def place_again(self, request: InferenceRequest, present: str) -> InstanceSpec | None:
        """Decides again where an answer goes on of which an instance has made a part; takes a place there.

        Returns:
            None: it goes on where it is.
        """
        if request.offload:
            return None  # the client wants it there
        self._inflight[present] -= 1  # its own place is not in its way
        decision = self.decide(replace(request, whole_because="it has begun already"))
        self._inflight[present] += 1
        if not isinstance(decision, RunOn) or (present, decision.instance) not in self._handover.pairs:
            return None
        self._take(decision)
        return self._specs[decision.instance]

    def release(self, name: str) -> None:
        """Gives a place on an instance back."""
        self._inflight[name] -= 1
        if self._queue:
            self._admit()
        if self._drained is not None and not self._drained.done() and self._quiet():
            self._drained.set_result(None)
        if not self._inflight[name] and name in self._specs and self._supervisor.status(name).state is State.DRAINING:
            self._supervisor.drained(name)

    def _admit(self) -> None:
        """Gives out places in the order of arrival, until one must wait for a place that all others wait for too."""
        passed_over: list[_Waiting] = []
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.place.done():
                continue
            candidates = self._candidates(waiting.request, waiting.tried)
            decision = self._decide(waiting.request, candidates)
            if not isinstance(decision, Wait):
                self._note(waiting.request, candidates, decision)
            if isinstance(decision, RunOn | Offload):
                self._take(decision)
                waiting.place.set_result(decision)
            elif isinstance(decision, Wait):
                passed_over.append(waiting)
                if waiting.request.pinned is None:
                    break
            else:
                waiting.place.set_exception(UnavailableError(decision.reason, retry_after_s=decision.retry_after_s))
        self._queue.extendleft(reversed(passed_over))

    def _retry_after_s(self) -> float:
        """When the present queue will have been served, at the present mean duration."""
        places = sum(self._scheduler.places(spec) for spec in self._ready) or 1
        return min(_MAX_RETRY_AFTER_S, math.ceil(1 + len(self._queue) * self._mean_duration_s / places))

    def now_s(self) -> float:
        """The monotonic time of the records."""
        return self._loop.time()

    def tokens_so_far(self, running: RunningRequest) -> int:
        """Tokens of a streamed answer that have come."""
        return self._handover.tokens_of(running.record) or self._runner.tokens_of(running.record)

    # Settings.

    @property
    def policy(self) -> Policy:
        """The thresholds of the decision."""
        return self._scheduler.policy

    def set_policy(self, policy: Policy) -> None:
        """Decides by other thresholds from now on."""
        self._scheduler.policy = policy
        self._admit()

    def set_limits(self, *, max_queue_size: int, max_queue_wait_s: float) -> None:
        """Sets the admission queue's limits; a request that waits already keeps its time."""
        self._max_queue_size = max_queue_size
        self._max_queue_wait_s = max_queue_wait_s

    def set_instances(self, bound: Bound) -> None:
        """Places requests on these instances from now on. Those that change or go must not be READY."""
        specs = bound.specs
        self._specs = {spec.name: spec for spec in specs}
        self._bindings.set_bound(bound)
        self._catalogs = {
            spec.name: self._catalogs[spec.name] if spec in self._ready else assumed(spec) for spec in specs
        }
        self._inflight = {spec.name: self._inflight.get(spec.name, 0) for spec in specs} | {
            name: count for name, count in self._inflight.items() if count
        }
        self._handover.set_instances(specs)
        self._set_ready(tuple(spec for spec in specs if spec in self._ready))

    # Instances.

    def status(self) -> EngineStatus:
        """Everything at this moment."""
        return EngineStatus(
            version=__version__,
            started_at_s=self._started_at_s,
            endpoint=self.endpoint,
            queued=len(self._queue),
            inflight=dict(self._inflight),
            instances=self._supervisor.statuses(),
            snapshot=self._snapshot(),
            binding_faults=self._bindings.faults,
            bindings=self._bindings.latest(),
            handover_refusals=self._handover.report(),
            parity=self._parity.reports(),
        )

    def start_instance(self, name: str) -> None:
        """Wants the instance up. Raises NotFoundError for an unknown name."""
        self._supervisor.start(name)

    def stop_instance(self, name: str, *, drain: bool) -> None:
        """Wants the instance down, after its running requests if `drain`."""
        self._supervisor.stop(name, drain=drain)

    def restart_instance(self, name: str, *, drain: bool) -> None:
        """Stops the instance and starts a new generation."""
        self._supervisor.restart(name, drain=drain)

    async def compare_instances(self, first: str, second: str) -> ParityReport:
        """Asks both instances the same prompts and compares their answers. Raises as ParityService.compare."""
        return await self._parity.compare(first, second)

    async def watch_instance(self, name: str) -> AsyncGenerator[InstanceStatus, None]:
        """The instance's present status, then every change of it, until the caller closes the iterator."""
        changes: asyncio.Queue[InstanceStatus] = asyncio.Queue()
        changes.put_nowait(self._supervisor.status(name))
        unsubscribe = self._supervisor.subscribe(
            lambda status: changes.put_nowait(status) if status.spec.name == name else None
        )
        try:
            while True:
                yield await changes.get()
        finally:
            unsubscribe()

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The instance's output. Raises NotFoundError for an unknown name."""
        return self._supervisor.logs(name, tail=tail, follow=follow)

    async def topology(self) -> HostTopology:
        """The host as it is now, and whose its CPUs are. Raises TopologyError if it can't be read."""
        return await self._bindings.topology()

    async def check_binding(self, name: str, settings: Settings | None) -> tuple[Fault, ...]:
        """What is wrong with settings for an instance (None: with its own). Raises as BindingMonitor.check does."""
        return await self._bindings.check(name, settings)

    async def verify_bindings(self, name: str) -> Mapping[str, Verification | Unverified]:
        """Where instances (empty: all) run now, against their bindings. Raises as BindingMonitor.verify does."""
        return await self._bindings.verify(name)

    def on_snapshot(self) -> None:
        """New readings have come: what waits is decided again."""
        self._estimates = observe_loads(self._estimates, self._snapshot())
        if self._queue:
            self._admit()
        self._move_streams()

    def _move_streams(self) -> None:
        """Has running streams go on where they are better off."""
        if not self._handover.pairs:
            return
        for status in self._supervisor.statuses():
            if status.state is State.DRAINING:
                for target in self._handover.targets_of(status.spec.name):
                    self._move(Move(status.spec.name, target, Cause.DRAIN, self._inflight[status.spec.name]))
        if not self._queue:
            for move in self._scheduler.moves(self._snapshot(), self._inflight, self._ready, self._handover.pairs):
                self._move(move)

    def _move(self, move: Move) -> None:
        target = next((spec for spec in self._ready if spec.name == move.target), None)
        if target is None:
            return
        for journey in self._handover.journeys_on(move.source, move.cause)[: move.count]:
            if self._inflight[target.name] >= self._scheduler.places(target):
                return
            self._inflight[target.name] += 1
            if not journey.move(target, move.cause):
                self.release(target.name)

    async def drain(self, timeout_s: float) -> None:
        """Returns when no request is in flight any more, or after `timeout_s`."""
        if self._quiet():
            return
        self._drained = self._loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._drained

    def _quiet(self) -> bool:
        return not self._queue and not any(self._inflight.values())

    def _on_drift(self, name: str, status: BindingStatus) -> None:
        told = "; ".join(drift.detail for drift in status.drifts)
        self.events.add(EventKind.DRIFT, told or "keeps to its binding again", instance=name)

    def _on_status(self, status: InstanceStatus) -> None:
        self._parity.on_status(status)
        spec = status.spec
        if self._states.get(spec.name) is not status.state:
            self._states[spec.name] = status.state
            text = f"{status.state}: {status.reason}" if status.reason else str(status.state)
            self.events.add(
                EventKind.STATE, text, instance=spec.name, state=status.state, generation=str(status.generation)
            )
        was_ready = spec in self._ready
        ready = status.state is State.READY
        if ready != was_ready:
            if ready:
                self._spawn(self._learn(spec))
            else:
                self._set_ready(tuple(other for other in self._ready if other.name != spec.name))
        if status.state is State.DRAINING:
            if not self._inflight[spec.name]:
                self._supervisor.drained(spec.name)
            else:
                self._move_streams()

    async def _learn(self, spec: InstanceSpec) -> None:
        """Asks a ready instance what it serves, then offers it to requests."""
        try:
            self._catalogs[spec.name] = await self._read_catalog(spec)
        except SyshaxError as error:
            _log.warning("%s; taking it for what the configuration says", error, extra={"instance": spec.name})
        await self._handover.learn(spec)
        if self._specs.get(spec.name) != spec:
            return  # it has other settings meanwhile
        if self._supervisor.status(spec.name).state is State.READY and spec not in self._ready:
            self._set_ready(
                tuple(other for other in self._specs.values() if other in self._ready or other.name == spec.name)
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _JourneyPlaces:
    """Where one request's answer can go on (the journey's `Places`)."""

    def __init__(self, engine: Engine, request: InferenceRequest) -> None:
        self._engine = engine
        self._request = request

    async def another(self, failed: str, error: SyshaxError) -> InstanceSpec:
        _log.warning(
            "request %s: instance %s: %s; its answer goes on elsewhere", self._request.request_id, failed, error
        )
        return await self._engine.place_rest(self._request, failed)

    def again(self, present: str) -> InstanceSpec | None:
        return self._engine.place_again(self._request, present)

    def release(self, name: str) -> None:
        self._engine.release(name)
