# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Engine: places requests, has them carried out, and passes commands on to the instances."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from syshaxd import __version__
from syshaxd.core.errors import (
    InstanceFailedError,
    InstanceTimeoutError,
    NotFoundError,
    RequestCancelledError,
    SyshaxError,
    UnavailableError,
)
from syshaxd.core.events import EventKind
from syshaxd.core.launch.cpu_binding import Bound
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingStatus, Fault, Settings, Unverified, Verification
from syshaxd.core.parity import ParityReport
from syshaxd.core.placement.admission import Admission, begun
from syshaxd.core.placement.claims import Claim, Decided, Effect, Fleet, Granted, MoveStream, Refused
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload
from syshaxd.core.placement.records import Outcome, RequestRecord
from syshaxd.core.placement.retries import Retries, Suspects
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.scheduler import Scheduler
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.types import EngineStatus, HostTopology, InstanceStatus, State
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.observe.parity import ParityService
from syshaxd.serving.handover import Handover
from syshaxd.serving.in_flight import RequestBook, RunningRequest
from syshaxd.serving.runner import Downstream, Outgoing, Runner
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
        self._admission = Admission(scheduler, max_queue_size=max_queue_size)
        self._admission.on_release(self._on_release)
        self._max_queue_wait_s = max_queue_wait_s
        self._waiting: dict[Claim, asyncio.Future[Grant]] = {}
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
                claim = Claim(request, tried)
                grant = await self._admit(claim)
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
                        claim,
                        grant,
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

    async def failover_slot(
        self, claim: Claim, retries: Retries, failed: str, error: SyshaxError, *, answered: bool
    ) -> Grant:
        """Gets a slot for the rest of an answer whose instance has failed, before all that has not begun yet.

        Args:
            claim: That of the request.
            retries: What has gone wrong with it before.
            failed: The instance.
            error: What has gone wrong.
            answered: The instance had made some of the answer.

        Raises:
            SyshaxError: It must not be tried elsewhere, no instance can go on, or none has become ready in the time
                that a request may wait.
        """
        self._count_failure(retries, failed, error, begun=answered)
        self._check_retries(retries, f"instance {failed}: {error}; ")
        _log.warning(
            "request %s: instance %s: %s; its answer goes on elsewhere", claim.request.request_id, failed, error
        )
        rest = replace(begun(claim.request), offload=False)
        tried: tuple[str, ...] = (failed,)
        deadline_s = self._loop.time() + self._max_queue_wait_s
        while True:
            try:
                return await self._admit(Claim(rest, tried, first=True))
            except UnavailableError as refusal:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline_s):
                        await self._registry.changed()
                    tried = ()
                    continue
                raise refusal from None

    def redecide(self, claim: Claim, present: Slot) -> Slot | None:
        """See Admission.redecide."""
        return self._admission.redecide(claim, present, self._fleet())

    # Admission.

    def _fleet(self) -> Fleet:
        registry = self._registry
        return Fleet(
            registry.specs, registry.ready, registry.candidates, self._handover.pairs, self._snapshot(), time.time()
        )

    async def _admit(self, claim: Claim) -> Grant:
        """Returns when the claim is granted. Raises what it is refused with."""
        granted: asyncio.Future[Grant] = self._loop.create_future()
        self._waiting[claim] = granted
        try:
            self._carry_out(self._admission.arrive(claim, self._fleet()))
            if not granted.done():
                async with asyncio.timeout(self._max_queue_wait_s):
                    await granted
            return granted.result()
        except BaseException as error:
            self._admission.give_up(claim)
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                granted.result().release()  # granted in the very moment in which it was given up
            if isinstance(error, TimeoutError):
                raise self._admission.timed_out(claim, self._fleet(), self._max_queue_wait_s) from None
            raise
        finally:
            del self._waiting[claim]
            del granted  # what it raises refers to this frame: a cycle, which would keep the request's body

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Granted():
                    granted = self._waiting.get(effect.claim)
                    if granted is None or granted.done():
                        effect.grant.release()
                    else:
                        granted.set_result(effect.grant)
                case Refused():
                    granted = self._waiting.get(effect.claim)
                    if granted is not None and not granted.done():
                        granted.set_exception(effect.error)
                case MoveStream():
                    if effect.claim.stream is None:
                        effect.slot.release()
                    else:
                        effect.claim.stream.move(effect.slot, effect.cause)
                case Decided():
                    self.requests.decisions.append(effect)

    def _readmit(self) -> None:
        """Slots may have come free."""
        if self._admission.entries:
            self._carry_out(self._admission.admit(self._fleet()))

    async def _answer(
        self,
        claim: Claim,
        grant: Grant,
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
        specs = [slot.spec for slot in grant.slots]
        record.weights = "+".join(spec.weights_text for spec in specs) if any(spec.weights for spec in specs) else ""
        record.prediction = placement.prediction if isinstance(placement, Offload) else None
        placed_at_s = self._loop.time()
        record.queue_s = placed_at_s - record.started_at_s
        if body is not None and self._handover.takes(grant, claim.request):
            stays_open = await self._handover.carry(
                grant,
                claim,
                body=body,
                outgoing=outgoing,
                client=client,
                record=record,
                source=_NextSlots(self, claim, retries),
                last_try=last_try,
            )
        else:
            spec = grant.slots[0].spec
            stays_open = await self._runner.run(spec, outgoing, client, record, last_try=last_try)
            if record.outcome is Outcome.FAILED:
                self._supervisor.suspect(spec.name)
        if record.outcome is Outcome.OK:
            self._admission.observe_answer(
                claim.request, self._loop.time() - placed_at_s, record.tokens_out, record.handovers
            )
        return stays_open

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
        *,
        snapshot: Snapshot | None = None,
        inflight: Mapping[str, int] | None = None,
    ) -> Decision:
        """Where a request would go now, or under other loads; takes no slot.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        fleet = self._fleet()
        if snapshot is not None:
            fleet = replace(fleet, snapshot=snapshot)
        return self._admission.decide(request, fleet, assumed_inflight=inflight)

    def place(self, request: InferenceRequest) -> tuple[Decision, Grant | None]:
        """Decides on a request that another gateway carries out, and takes its slots, if it is to run now.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        decision, effects = self._admission.place(Claim(request), self._fleet())
        grant = next((effect.grant for effect in effects if isinstance(effect, Granted)), None)
        self._carry_out([effect for effect in effects if not isinstance(effect, Granted)])
        return decision, grant

    def _on_release(self, name: str) -> None:
        self._readmit()
        if self._drained is not None and not self._drained.done() and self._admission.is_quiet:
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
        self._readmit()

    def set_limits(self, *, max_queue_size: int, max_queue_wait_s: float) -> None:
        """Sets the admission queue's limits; a request that waits already keeps its time."""
        self._admission.max_queue_size = max_queue_size
        self._max_queue_wait_s = max_queue_wait_s

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
        """New readings have come: what waits is decided again, and streams that are better off elsewhere migrate."""
        self._carry_out(self._admission.observe_loads(self._fleet()))
        self._migrate()

    def _migrate(self) -> None:
        if self._handover.pairs:
            statuses = self._supervisor.statuses()
            draining = [status.spec.name for status in statuses if status.state is State.DRAINING]
            self._carry_out(self._admission.migrate(self._fleet(), draining))

    async def drain(self, timeout_s: float) -> None:
        """Returns when no request is in flight any more, or after `timeout_s`."""
        if self._admission.is_quiet:
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
            self._migrate()

    def _on_instances(self) -> None:
        if self._ready != self._registry.ready:
            self._ready = self._registry.ready
            self._readmit()


class _NextSlots:
    """Where one request's answer can go on (the journey's `SlotSource`)."""

    def __init__(self, engine: Engine, claim: Claim, retries: Retries) -> None:
        self._engine = engine
        self._claim = claim
        self._retries = retries

    async def another(self, failed: str, error: SyshaxError, *, begun: bool) -> Grant:
        """See Engine.failover_slot."""
        return await self._engine.failover_slot(self._claim, self._retries, failed, error, answered=begun)

    def again(self, present: Slot) -> Slot | None:
        """See Engine.redecide."""
        return self._engine.redecide(self._claim, present)
