# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Engine: dispatches requests. It reports to admission what happens, and carries out what admission decides."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from msgspec.structs import replace

from syshaxd.core.errors import (
    InstanceFailedError,
    InstanceTimeoutError,
    RequestCancelledError,
    SyshaxError,
    UnavailableError,
)
from syshaxd.core.events import EventKind
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.admission import Admission
from syshaxd.core.placement.calibration import Calibration, drift
from syshaxd.core.placement.claims import Claim, Fleet, Granted
from syshaxd.core.placement.decision import Decision, InferenceRequest
from syshaxd.core.placement.holdout import report_trial
from syshaxd.core.placement.records import Cause, Outcome
from syshaxd.core.placement.retry_budget import RetryBudget
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Grant
from syshaxd.core.report.engine_status import OffloadTrial
from syshaxd.core.types import InstanceSpec, InstanceStatus, State
from syshaxd.instances.breakers import Ask, Breakers
from syshaxd.instances.on_demand import OnDemandModels
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.supervisor import Supervisor
from syshaxd.serving.failures import Failures
from syshaxd.serving.grants import Grants
from syshaxd.serving.handover import Answer, Handover, report_handovers
from syshaxd.serving.in_flight import RequestBook
from syshaxd.serving.request import Request
from syshaxd.serving.runner.movable import MovableAnswer
from syshaxd.system.events import EventLog

_log = logging.getLogger(__name__)


async def _ask_nothing(spec: InstanceSpec) -> None:
    """Counts an instance that cannot be probed with a token as well."""


class Engine:
    """Dispatches requests. Lives in one event loop: call every method from there."""

    def __init__(
        self,
        registry: InstanceRegistry,
        *,
        supervisor: Supervisor,
        policy: Policy,
        handover: Handover,
        snapshot: Callable[[], Snapshot],
        look_up: Callable[[], Awaitable[bool]],
        max_queue_size: int,
        max_queue_wait_s: float,
        breaker_failures: int = 0,
        retry_ratio: float = 0.2,
        ask_token: Ask = _ask_nothing,
        events: EventLog | None = None,
        on_demand: OnDemandModels | None = None,
    ) -> None:
        self.requests = RequestBook()
        self.events = events or EventLog()
        self.registry = registry
        self._admission = Admission(policy, max_queue_size=max_queue_size)
        self._admission.on_release(self._on_release)
        self._grants = Grants(
            self._admission,
            self._fleet,
            requests=self.requests,
            events=self.events,
            look_up=look_up,
            max_queue_wait_s=max_queue_wait_s,
            on_demand=on_demand,
        )
        self._supervisor = supervisor
        self._handover = handover
        self._snapshot = snapshot
        self.breakers = Breakers(registry, ask_token, failures=breaker_failures, tell=self._tell_state)
        self._failures = Failures(registry, supervisor, self.breakers, RetryBudget(retry_ratio))
        self._ready = (registry.ready, registry.startable)
        self._drained: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call each time
        supervisor.subscribe(self._on_status)
        registry.subscribe(self._on_instances)
        if on_demand is not None:
            on_demand.serve(self)

    # Requests.

    async def dispatch(self, request: Request) -> Outcome:
        """Places a request, sends its answer to the client, and returns its outcome.

        If an instance fails, another one makes the answer or the rest of it, as far as that is possible.

        Raises:
            NotFoundError: No instance has such a model or route.
            OverloadedError: The admission queue is full.
            UnavailableError: No instance is ready, or no slot came free in time.
            InstanceFailedError: Nothing was sent to the client, and no other instance could answer.
            InstanceTimeoutError: As above, and the instance was silent for too long.
            RequestCancelledError: An operator ended it before anything was sent.
        """
        self.requests.begin(request, self._loop)
        try:
            self._failures.begin(request)
            request.inference = self._handover.examine(request)
            return await self._answer(request)
        except asyncio.CancelledError:
            if not request.cancelled or request.status or request.task is None:
                raise  # the client has a part of the answer: its connection is closed
            request.task.uncancel()
            raise RequestCancelledError("an operator has cancelled this request") from None
        finally:
            self._failures.leave(request)
            self.requests.end(request)
            report_handovers(request, self.events)

    async def _answer(self, request: Request) -> Outcome:
        """Answers a request where it is placed, or elsewhere if that instance fails before the client has anything."""
        claim = Claim(request.inference)
        why = "such a request was running when an instance ended lately"
        while True:
            await self._failures.clear(request, why, within_s=self._grants.max_queue_wait_s)
            with await self._grants.get(claim) as grant, self._begin(request, claim, grant) as answer:
                placed_at_s = self._loop.time()
                try:
                    await self._run(request, claim, grant, answer)
                except (InstanceFailedError, InstanceTimeoutError) as error:
                    instance, last_try, failure = answer.instance, answer.last_try, error
                else:
                    outcome = answer.outcome
                    if outcome is Outcome.OK:
                        self._admission.observe_help(claim, self._loop.time())
                        took_s = self._loop.time() - placed_at_s
                        self._admission.observe_answer(claim.request, took_s, answer.usage[1], request.handovers)
                    if outcome is not Outcome.FAILED:
                        self._failures.answered(request)
                        self.breakers.succeeded(answer.instance)
                    return outcome
            why = f"instance {instance}: {failure}"
            self._failures.check_start_over(request, instance, failure, why, last_try=last_try)
            claim = Claim(claim.request, () if request.tries.suspect else (instance,))
            del failure  # it refers to this frame

    def _begin(self, request: Request, claim: Claim, grant: Grant) -> Answer:
        alone = len(self.registry.ready) < 2 or request.inference.pinned is not None
        last_try = bool(claim.tried) or alone or request.tries.suspect
        request.note_grant(grant, self._loop.time(), held_out=claim.held_out)
        if self.registry.carried and request.inference.pinned is None:
            request.carried_for = self.registry.carried_for(grant.slots[-1].spec)
        if request.wants_explanation:
            request.explanation = self.requests.short_explanation(request.id)
        request.answer = answer = self._handover.answer(request, grant, last_try=last_try)
        claim.stream = answer if isinstance(answer, MovableAnswer) else None
        return answer

    async def _run(self, request: Request, claim: Claim, grant: Grant, answer: Answer) -> None:
        """Makes an answer, segment by segment.

        Raises:
            InstanceFailedError: The instance has failed, no other can continue, and the client has got nothing.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        while not answer.over:
            try:
                await self._failures.run(request, answer.instance, answer.run)
            except (InstanceFailedError, InstanceTimeoutError) as error:
                begun = answer.begun or answer.progressed
                await self._failures.note(request, answer.instance, error, begun=begun)
                try:
                    await self._fail_over(request, claim, grant, answer, error)
                except SyshaxError as refusal:
                    if not answer.begun:
                        raise error from None
                    answer.break_off(refusal if isinstance(refusal, InstanceFailedError) else error)
                continue
            if answer.outcome is Outcome.FAILED:
                self._failures.answered_badly(answer.instance, request.status)
            if isinstance(answer, MovableAnswer) and answer.part_over:
                target = self._admission.redecide(claim, self._fleet())
                if target is not None:
                    grant.add(target)
                    answer.go_on_at(target, Cause.ROOM)

    async def _fail_over(
        self, request: Request, claim: Claim, grant: Grant, answer: Answer, error: SyshaxError
    ) -> None:
        """Prepares another instance to make the rest of an answer. Raises SyshaxError if none can or may."""
        if not isinstance(answer, MovableAnswer) or not answer.may_go_on or request.expired:
            raise error
        if request.tries.suspect and not answer.begun:
            raise error  # the request starts over
        self._failures.check(request, f"instance {answer.instance}: {error}")
        if answer.target is None:
            _log.warning(
                "request %s: instance %s: %s; another instance continues its answer", request.id, answer.instance, error
            )
            grant.take_over(await self._failover_slot(claim, answer.instance))
        answer.go_on_at(answer.target or grant.slots[-1], Cause.FAILURE)

    async def _failover_slot(self, claim: Claim, failed: str) -> Grant:
        """Gets a slot for the rest of an answer whose instance failed, before all requests that have not started.

        Raises:
            SyshaxError: No instance can continue, and none became READY within the time that a request may wait.
        """
        rest = replace(claim.request.rest(), offload=False)
        tried: tuple[str, ...] = (failed,)
        deadline_s = self._loop.time() + self._grants.max_queue_wait_s
        while True:
            try:
                return await self._grants.get(Claim(rest, tried, first=True))
            except UnavailableError as refusal:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline_s):
                        await self.registry.changed()
                    tried = ()
                    continue
                raise refusal from None

    def _tell_state(self, name: str, text: str) -> None:
        self.events.add(EventKind.STATE, text, instance=name)

    # Admission.

    def _fleet(self) -> Fleet:
        registry = self.registry
        return Fleet(
            registry.specs,
            registry.ready,
            registry.candidates,
            self._handover.pairs,
            self._snapshot(),
            at_s=time.time(),
            now_s=self._loop.time(),
            waited_for=registry.waited_for,
        )

    def queued_for(self, model: str) -> int:
        """Requests that wait for a model."""
        return self._admission.waiting(model).waiting

    def refuse_waiting(self, model: str, text: str, retry_after_s: float) -> None:
        """Refuses the requests that wait for a model."""
        self._grants.refuse_waiting(model, text, retry_after_s)

    def tell_model(self, model: str, text: str) -> None:
        """Records an event of a model."""
        _log.info("model %s: %s", model, text)
        self.events.add(EventKind.MODEL, f"{model}: {text}")

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return self._admission.queued

    @property
    def queued_models(self) -> Mapping[str, int]:
        """Requests that wait for a slot, by the model that they name."""
        return self._admission.queued_models

    @property
    def inflight(self) -> Mapping[str, int]:
        """Slots taken, by instance; an instance that left the configuration is listed only while it has slots taken."""
        taken = self._admission.inflight
        idle = dict.fromkeys(self.registry.specs, 0)
        return idle | {name: count for name, count in taken.items() if count or name in idle}

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
        """Decides on a request that another gateway carries out, and takes its slots if it runs now.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        decision, effects = self._admission.place(Claim(request), self._fleet())
        grant = next((effect.grant for effect in effects if isinstance(effect, Granted)), None)
        self._grants.carry_out([effect for effect in effects if not isinstance(effect, Granted)])
        return decision, grant

    def _on_release(self, name: str) -> None:
        self._grants.readmit()
        self._grants.poke_on_demand()
        if self._drained is not None and not self._drained.done() and self._admission.is_quiet:
            self._drained.set_result(None)
        self._end_drain(name)

    def _end_drain(self, name: str) -> None:
        """Tells the supervisor when a draining instance has answered all its requests."""
        if self._admission.inflight.get(name) or name not in self.registry.specs:
            return
        if self._supervisor.status(name).state is State.DRAINING:
            self._supervisor.drained(name)

    @property
    def offload(self) -> OffloadTrial:
        """What is measured of help by the CPU."""
        admission, to_unix_s = self._admission, time.time() - self._loop.time()
        return report_trial(admission.holdout, self.policy.holdout, admission.interference, to_unix_s=to_unix_s)

    # Settings.

    @property
    def policy(self) -> Policy:
        """The policy that decides."""
        return self._admission.policy

    def set_policy(self, policy: Policy) -> None:
        """Decides by another policy, or by other thresholds, from now on."""
        self._admission.set_policy(policy)
        self._grants.readmit()

    def set_failure_limits(self, *, breaker_failures: int, retry_ratio: float) -> None:
        """Sets the failures that open a circuit breaker, and the share of requests that may be retried."""
        self.breakers.set_failures(breaker_failures)
        self._failures.budget.ratio = retry_ratio

    def set_limits(self, *, max_queue_size: int, max_queue_wait_s: float) -> None:
        """Sets the admission queue's limits; requests that wait already keep their time limit."""
        self._admission.max_queue_size = max_queue_size
        self._grants.max_queue_wait_s = max_queue_wait_s

    def seed_estimates(self, calibration: Calibration, name: str) -> None:
        """Starts the estimates of an instance from what a calibration measured."""
        self._admission.seed_estimates(calibration.results, name)

    def drift(self, calibration: Calibration, name: str) -> float | None:
        """How many times as long as calibrated a step of an instance takes, if readings contradict the calibration."""
        return drift(self._admission.estimates, calibration.results, name)

    # Instances.

    def on_snapshot(self) -> None:
        """Takes new readings: decides again on what waits, and migrates streams that are better off elsewhere."""
        self._grants.carry_out(self._admission.observe_loads(self._fleet()))
        self._migrate()

    def _migrate(self) -> None:
        if self._handover.pairs:
            statuses = self._supervisor.statuses()
            draining = [status.spec.name for status in statuses if status.state is State.DRAINING]
            self._grants.carry_out(self._admission.migrate(self._fleet(), draining))

    async def drain(self, timeout_s: float) -> None:
        """Returns when no request is in flight, or after `timeout_s`."""
        if self._admission.is_quiet:
            return
        self._drained = self._loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._drained

    def unreleased(self) -> tuple[str, ...]:
        """What requests hold now, a line each: slots, entries of the queue, requests in flight. Empty when idle."""
        taken = [f"{count} slots of {name}" for name, count in self._admission.inflight.items() if count]
        queued = [f"{count} entries in the queue"] if (count := self._admission.entries) else []
        running = [f"request {request.id}" for request in self.requests.running]
        return (*taken, *queued, *running)

    def _on_status(self, status: InstanceStatus) -> None:
        if status.state is State.DRAINING:
            self._end_drain(status.spec.name)
            self._migrate()

    def _on_instances(self) -> None:
        ready = (self.registry.ready, self.registry.startable)
        if self._ready != ready:
            self._ready = ready
            self._grants.readmit()
