# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Engine: places requests, has them carried out, and passes commands on to the instances."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from syshaxd import __version__
from syshaxd.core.errors import (
    InstanceFailedError,
    InstanceTimeoutError,
    NotFoundError,
    RequestCancelledError,
    SyshaxError,
)
from syshaxd.core.events import EventKind
from syshaxd.core.launch.cpu_binding import Bound
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingStatus, Fault, Settings, Unverified, Verification
from syshaxd.core.parity import ParityReport
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload
from syshaxd.core.placement.records import Outcome, RequestRecord
from syshaxd.core.placement.retries import Retries, Suspects
from syshaxd.core.placement.scheduler import Policy, Scheduler
from syshaxd.core.types import EngineStatus, HostTopology, InstanceSpec, InstanceStatus, State
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.observe.parity import ParityService
from syshaxd.serving.admission import Admission
from syshaxd.serving.handover import Handover
from syshaxd.serving.in_flight import RequestBook, RunningRequest
from syshaxd.serving.migration import JourneySlots, Moving
from syshaxd.serving.runner import Downstream, Outgoing, Runner
from syshaxd.serving.slots import Grant
from syshaxd.system.events import EventLog

_log = logging.getLogger(__name__)


class Engine:
    """The core of the daemon. Lives in one event loop; every method is called from there."""

    def __init__(
        self,
        registry: InstanceRegistry,
        *,
        supervisor: Supervisor,
        scheduler: Scheduler,
        runner: Runner,
        handover: Handover,
        snapshot: Callable[[], Snapshot],
        parity: ParityService,
        look_up: Callable[[], Awaitable[bool]],
        max_queue_size: int,
        max_queue_wait_s: float,
        bindings: BindingMonitor,
        events: EventLog | None = None,
        faults: Callable[[], tuple[str, ...]] = tuple,
        stopped: StoppedInstances | None = None,
    ) -> None:
        self.requests = RequestBook()
        self.events = events or EventLog()
        self.endpoint = ""
        self._registry = registry
        self._scheduler = scheduler
        self._admission = Admission(
            scheduler,
            self._registry,
            snapshot=snapshot,
            pairs=lambda: handover.pairs,
            decided=self.requests.decisions.append,
            take_turn=self._take_turn,
            max_queue_size=max_queue_size,
            max_queue_wait_s=max_queue_wait_s,
        )
        self._moving = Moving(scheduler, self._admission, self._registry, handover)
        self._admission.on_release(self._on_release)
        self._supervisor = supervisor
        self._stopped = stopped or StoppedInstances()
        self._runner = runner
        self._handover = handover
        self._snapshot = snapshot
        self._parity = parity
        self._look_up = look_up
        self._bindings = bindings
        self._faults = faults
        self._suspects = Suspects()
        self._given_up: set[str] = set()
        """Instances that are being ended as they no longer answer probes; a process that died is none of them."""
        self._states: dict[str, State] = {}
        self._ready = registry.ready
        self._drained: asyncio.Future[None] | None = None
        self._started_at_s = time.time()
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call each time
        supervisor.subscribe(self._on_status)
        registry.subscribe(self._on_instances)
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
        request, body = self._handover.examine(request, outgoing)
        retries = Retries(remembered=self._suspects.knows(outgoing.path, outgoing.body, self._loop.time()))
        if retries.suspect:
            self._check_retries(retries)
        try:
            keeps = await self._try(request, body, outgoing=outgoing, client=client, record=record, retries=retries)
        except (InstanceFailedError, InstanceTimeoutError):
            record.outcome = Outcome.FAILED
            raise
        finally:
            if retries.suspect and record.outcome is Outcome.FAILED:
                self._suspects.add(outgoing.path, outgoing.body, self._loop.time())
        if retries.suspect and record.outcome is not Outcome.FAILED:
            self._suspects.forget(outgoing.path, outgoing.body)
        return keeps

    async def _try(
        self,
        request: InferenceRequest,
        body: Mapping[str, Any] | None,
        *,
        outgoing: Outgoing,
        client: Downstream,
        record: RequestRecord,
        retries: Retries,
    ) -> bool:
        """Tries one instance, and another if that fails before it has said anything."""
        tried: tuple[str, ...] = ()
        while True:
            try:
                grant = self._admission.at_once(request, tried) or await self._admission.wait(request, tried)
            except NotFoundError as error:
                if error.code != "model_not_found" or not await self._look_up():
                    raise
                continue  # an adapter may have been loaded since the instances were asked
            first = grant.placement.places[0]
            alone = len(self._registry.ready) < 2 or request.pinned is not None
            last_try = bool(tried) or alone or retries.suspect
            try:
                with grant:
                    return await self._answer(
                        grant,
                        request,
                        body,
                        outgoing=outgoing,
                        client=client,
                        record=record,
                        retries=retries,
                        last_try=last_try,
                    )
            except (InstanceFailedError, InstanceTimeoutError) as error:
                self._count_failure(retries, first, error, begun=False)
                if isinstance(error, InstanceTimeoutError):
                    raise InstanceTimeoutError(f"instance {first}: {error}") from error
                self._check_retries(retries, f"instance {first}: {error}; ")
                if last_try:
                    raise InstanceFailedError(f"instance {first}: {error}") from error
                _log.warning(
                    "request %s: instance %s: %s; trying another",
                    record.request_id,
                    first,
                    error,
                    extra={"instance": first, "request_id": record.request_id},
                )
                tried = (first,)
                record.retries += 1

    def _count_failure(self, retries: Retries, name: str, error: SyshaxError, *, begun: bool) -> None:
        self._supervisor.suspect(name)
        broke = isinstance(error, InstanceFailedError) and error.broke
        retries.failed(error, broke=broke, unresponsive=name in self._given_up, begun=begun)

    def _check_retries(self, retries: Retries, why: str = "") -> None:
        refusal = retries.refusal(len(self._registry.ready), len(self._registry.specs))
        if refusal:
            raise InstanceFailedError(f"{why}{refusal}: it is not tried on another")

    def _may_go_on(self, retries: Retries, failed: str, error: SyshaxError, begun: bool) -> None:
        """An instance has failed an answer. Raises InstanceFailedError if no other may be asked for the rest."""
        self._count_failure(retries, failed, error, begun=begun)
        self._check_retries(retries, f"instance {failed}: {error}; ")

    async def _answer(
        self,
        grant: Grant,
        request: InferenceRequest,
        body: Mapping[str, Any] | None,
        *,
        outgoing: Outgoing,
        client: Downstream,
        record: RequestRecord,
        retries: Retries,
        last_try: bool,
    ) -> bool:
        """Has a request answered where it was placed; returns whether the client's connection may stay open."""
        placement = grant.placement
        record.placement = "+".join(placement.places)
        record.prediction = placement.prediction if isinstance(placement, Offload) else None
        placed_at_s = self._loop.time()
        record.queue_s = placed_at_s - record.started_at_s
        if body is not None and self._handover.takes(grant, request):
            stays_open = await self._handover.carry(
                grant,
                request,
                body=body,
                outgoing=outgoing,
                client=client,
                record=record,
                source=JourneySlots(self._moving, request, partial(self._may_go_on, retries)),
                last_try=last_try,
            )
        else:
            spec = grant.slots[0].spec
            stays_open = await self._runner.run(spec, outgoing, client, record, last_try=last_try)
            if record.outcome is Outcome.FAILED:
                self._supervisor.suspect(spec.name)
        if record.outcome is Outcome.OK:
            self._admission.observe_answer(self._loop.time() - placed_at_s, record.tokens_out)
        return stays_open

    def _take_turn(self, request: InferenceRequest, gpu: InstanceSpec) -> bool:
        return self._moving.take_turn(request, gpu)

    def ready_instances(self) -> tuple[str, ...]:
        """The instances that requests can go to now."""
        return tuple(spec.name for spec in self._registry.ready)

    async def instances_changed(self) -> None:
        """Returns at the next change of an instance, or of what is known of one."""
        await self._registry.changed()

    def models(self) -> list[Mapping[str, Any]]:
        """The models of the instances that are ready, as /v1/models lists them; all instances' if none is ready."""
        return self._registry.models()

    @property
    def is_several(self) -> bool:
        """Whether there is more than one instance."""
        return len(self._registry.specs) > 1

    def methods(self, path: str) -> frozenset[str] | None:
        """The methods that some instance has for a path; None: any, as one of them has not told its routes."""
        return self._registry.methods(path)

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
        candidates = self._registry.candidates(request, tried)
        return self._admission.decide(request, candidates, snapshot=snapshot, inflight=inflight)

    def place(self, request: InferenceRequest) -> tuple[Decision, Grant | None]:
        """Decides on a request that another gateway carries out, and takes its slots, if it is to run now.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        return self._admission.place(request)

    def _on_release(self, name: str) -> None:
        if self._drained is not None and not self._drained.done() and self._admission.is_quiet():
            self._drained.set_result(None)
        self._end_drain(name)

    def _end_drain(self, name: str) -> None:
        """Tells the supervisor when an instance that is to stop has answered everything."""
        if self._admission.inflight.get(name) or name not in self._registry.specs:
            return
        if self._supervisor.status(name).state is State.DRAINING:
            self._supervisor.drained(name)

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
        self._admission.admit()

    def set_limits(self, *, max_queue_size: int, max_queue_wait_s: float) -> None:
        """Sets the admission queue's limits; a request that waits already keeps its time."""
        self._admission.set_limits(max_queue_size=max_queue_size, max_queue_wait_s=max_queue_wait_s)

    def set_bindings(self, bound: Bound) -> None:
        """Holds instances to these bindings from now on."""
        self._bindings.set_bound(bound)

    # Instances.

    def status(self) -> EngineStatus:
        """Everything at this moment."""
        return EngineStatus(
            version=__version__,
            started_at_s=self._started_at_s,
            endpoint=self.endpoint,
            queued=self._admission.queued,
            inflight={name: self._admission.inflight.get(name, 0) for name in self._registry.specs}
            | {name: count for name, count in self._admission.inflight.items() if count},
            instances=self._supervisor.statuses(),
            snapshot=self._snapshot(),
            binding_faults=self._bindings.faults,
            bindings=self._bindings.latest(),
            handover_refusals=self._handover.report(),
            parity=self._parity.reports(),
            faults=self._faults(),
        )

    def start_instance(self, name: str) -> None:
        """Wants the instance up. Raises NotFoundError for an unknown name."""
        self._supervisor.start(name)
        self._stopped.discard(name)

    def stop_instance(self, name: str, *, drain: bool) -> None:
        """Wants the instance down, after its running requests if `drain`; also after a restart of the daemon."""
        self._supervisor.stop(name, drain=drain)
        self._stopped.add(name)

    async def check_restart(self, name: str) -> None:
        """Raises ConflictError: the instance is healthy, and could surely not be started again."""
        await self._supervisor.check_launch(self._supervisor.status(name).spec)

    def restart_instance(self, name: str, *, drain: bool) -> None:
        """Stops the instance and starts a new generation."""
        self._supervisor.restart(name, drain=drain)
        self._stopped.discard(name)

    def is_stopped(self, name: str) -> bool:
        """Whether an operator has stopped the instance, also before the daemon was started."""
        return name in self._stopped

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
        self._admission.observe_loads()
        self._move_streams()

    def _move_streams(self) -> None:
        if not self._handover.pairs:
            return
        for status in self._supervisor.statuses():
            if status.state is State.DRAINING:
                self._moving.leave(status.spec.name)
        self._moving.follow(self._snapshot())

    async def drain(self, timeout_s: float) -> None:
        """Returns when no request is in flight any more, or after `timeout_s`."""
        if self._admission.is_quiet():
            return
        self._drained = self._loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._drained

    def unreleased(self) -> tuple[str, ...]:
        """What is held by requests now, a line each: slots, the queue, and requests themselves. Empty when idle."""
        taken = [f"{count} slots of {name}" for name, count in self._admission.inflight.items() if count]
        queued = [f"{count} entries in the queue"] if (count := self._admission.entries) else []
        running = [f"request {running.record.request_id}" for running in self.requests.running]
        return (*taken, *queued, *running)

    def _on_drift(self, name: str, status: BindingStatus) -> None:
        told = "; ".join(drift.detail for drift in status.drifts)
        self.events.add(EventKind.DRIFT, told or "keeps to its binding again", instance=name)

    def _on_status(self, status: InstanceStatus) -> None:
        spec = status.spec
        before = self._states.get(spec.name)
        if before is not status.state:
            self._states[spec.name] = status.state
            text = f"{status.state}: {status.reason}" if status.reason else str(status.state)
            self.events.add(
                EventKind.STATE, text, instance=spec.name, state=status.state, generation=str(status.generation)
            )
        if status.state is State.STOPPING and before is State.UNHEALTHY and status.wanted:
            self._given_up.add(spec.name)
        elif status.state in {State.STARTING, State.READY}:
            self._given_up.discard(spec.name)
        if status.state is State.DRAINING:
            self._end_drain(spec.name)
            self._move_streams()

    def _on_instances(self) -> None:
        if self._ready != self._registry.ready:
            self._ready = self._registry.ready
            self._admission.admit()
