# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Supervisor: one queue, one writer. Event -> core/lifecycle's transition -> effects as tasks -> events."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial

from syshaxd.core.errors import ConflictError, NotFoundError
from syshaxd.core.lifecycle import (
    HOLDING,
    PROBED,
    Abandon,
    Drained,
    Effect,
    Event,
    Launch,
    LaunchProgress,
    Lifecycle,
    ProbeFailed,
    ProbeSucceeded,
    SetTimer,
    StartRequested,
    StopRequested,
    Terminate,
    TimerFired,
    dependency_event,
    transition,
)
from syshaxd.core.types import InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.instances import actions
from syshaxd.instances.activity import is_at_work
from syshaxd.instances.clock import Clock, WallClock
from syshaxd.instances.instance import Instance
from syshaxd.instances.prober import Probe, ProbeFault, Prober
from syshaxd.instances.settings import SupervisorSettings
from syshaxd.instances.shutdown import end_all, settle
from syshaxd.instances.start_order import levels
from syshaxd.instances.subscribers import OnInstances, OnStatus, Subscribers
from syshaxd.runtime import InstanceRuntime

_log = logging.getLogger(__name__)
# While it starts, an instance is probed this often, to notice a quick start quickly.
_STARTING_PROBE_INTERVAL_S = 0.5
_STAYS_STOPPED = "stays stopped, as it was before syshaxd was started; `syshaxctl start` starts it"
_ON_DEMAND = "the first request for its model starts it"


class _ShutDown(Exception):  # noqa: N818 - not an error: the way out of the task group
    """Ends `run` and all its tasks."""


class Supervisor:
    """Keeps the wanted instances running. Lives in one event loop; every method is called from there.

    Commands only post events, which take effect, and appear in `status`, once `run` processes them.
    """

    def __init__(
        self,
        specs: Sequence[InstanceSpec],
        runtimes: Mapping[RuntimeKind, InstanceRuntime],
        settings: SupervisorSettings,
        *,
        probe: Probe,
        clock: Clock | None = None,
        computes: Callable[[int], Awaitable[bool]] = is_at_work,
        was_late_since: Callable[[float], bool] = lambda _: False,
        stays_stopped: Container[str] = (),
        on_demand: Container[str] = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            specs: The instances.
            runtimes: What launches and ends them.
            settings: Times and limits.
            probe: Asks one for its health.
            clock: Time; default: the real one.
            computes: Whether a process, by its PID, is computing.
            was_late_since: Whether the event loop was blocked since a moment of its own clock.
            stays_stopped: Instances that an operator stopped, and that are not started.
            on_demand: Instances that `run` does not start.
        """
        self._runtimes = runtimes
        self._settings = settings
        self._probe = probe
        self._clock = clock or WallClock()
        self._computes = computes
        self._was_late_since = was_late_since
        self._stays_stopped = stays_stopped
        self._on_demand = on_demand
        self._instances = {spec.name: self._make(spec, Lifecycle(blocked_by=spec.depends_on)) for spec in specs}
        self._retired: dict[str, int] = {}
        self._levels = levels(specs)
        self._events: asyncio.Queue[tuple[Instance, Event] | None] = asyncio.Queue()
        self._subscribers = Subscribers()
        self._tasks = asyncio.TaskGroup()
        self._has_begun = False
        self._ended = asyncio.Event()

    def _make(self, spec: InstanceSpec, lifecycle: Lifecycle) -> Instance:
        return Instance(
            status=InstanceStatus(spec=spec, generation=lifecycle.generation, since_s=self._clock.time()),
            runtime=self._runtimes[spec.runtime],
            policy=self._settings.policy_of(spec),
            lifecycle=lifecycle,
            prober=self._prober(spec),
        )

    def _prober(self, spec: InstanceSpec) -> Prober:
        return Prober(
            spec,
            self._probe,
            timeout_s=self._settings.probe_timeout_s,
            clock=self._clock,
            spawn=self._spawn,
            report=partial(self._on_probe, spec.name),
            is_at_work=partial(self._is_at_work, spec.name),
            was_late_since=self._was_late_since,
        )

    async def _is_at_work(self, name: str) -> bool:
        instance = self._instances.get(name)
        return instance is not None and await instance.is_at_work(self._computes)

    # Commands.

    def start(self, name: str) -> None:
        """Wants the instance up; failed attempts are forgotten. Raises NotFoundError for an unknown name."""
        self._post(self._get(name), StartRequested())

    def stop(self, name: str, *, drain: bool = True, reason: str = "") -> None:
        """Wants the instance down, after its running requests if `drain`. Raises NotFoundError for an unknown name."""
        self._post(self._get(name), StopRequested(drain, reason))

    def restart(self, name: str, *, drain: bool = True) -> None:
        """Ends the instance and launches a new generation. Raises NotFoundError for an unknown name."""
        self.stop(name, drain=drain)
        self.start(name)

    async def check_launch(self, spec: InstanceSpec) -> None:
        """Looks whether an instance that is READY may be ended for a launch of `spec`.

        Raises:
            ConflictError: The launch would surely fail. It is not ended.
        """
        instance = self._instances.get(spec.name)
        if instance is None or instance.lifecycle.state is not State.READY:
            return
        has_port = {each.spec.port for each in self._instances.values() if each.lifecycle.handle is not None}
        await actions.check_launch(spec, self._runtimes[spec.runtime], needs_port=spec.port not in has_port)

    def drained(self, name: str) -> None:
        """No request runs on the instance any more. Raises NotFoundError for an unknown name."""
        instance = self._get(name)
        self._post(instance, Drained(instance.lifecycle.generation))

    def report_failure(self, name: str) -> None:
        """Reports a failed request: the instance is probed at once. Raises NotFoundError for an unknown name.

        Only while it is READY: reports do not shorten the life of an instance already known to be unhealthy.
        """
        instance = self._get(name)
        if instance.lifecycle.state is State.READY:
            instance.prober.ask_now()

    async def is_well(self, name: str) -> bool:
        """Asks an instance at once whether it is healthy. If not, it is UNHEALTHY; that counts as no failed probe.

        Raises NotFoundError for an unknown name.
        """
        instance = self._get(name)
        generation = instance.lifecycle.generation
        fault = await instance.prober.ask()
        if fault is None or fault.inconclusive:
            return True
        self._on_probe(name, generation, replace(fault, counts=False))
        return False

    def note_launch(self, name: str, generation: int, text: str) -> None:
        """Reports progress of a slow launch: shown as the reason, and restarts the start time-out."""
        self._post(self._get(name), LaunchProgress(generation, text))

    def set_settings(self, settings: SupervisorSettings) -> None:
        """Sets new times and limits; running timers keep theirs."""
        self._settings = settings
        for instance in self._instances.values():
            instance.policy = settings.policy_of(instance.spec)
            instance.prober.timeout_s = settings.probe_timeout_s

    async def reconfigure(self, specs: Sequence[InstanceSpec]) -> None:
        """Replaces the supervised instances, once all earlier commands have been processed.

        Instances with an unchanged spec are not touched. New and changed ones are STOPPED and not wanted.

        Raises:
            ConflictError: An instance that is to change or to go is not STOPPED, or wanted. Nothing has changed.
        """
        while self._events.qsize():
            await self._events.join()
        kept = {spec.name: spec for spec in specs}
        for name, instance in self._instances.items():
            if kept.get(name) != instance.spec and (
                instance.status.wanted or instance.status.state is not State.STOPPED
            ):
                raise ConflictError(f"{name} is {instance.status.state}; it must be stopped before its settings change")
        self._retired |= {name: instance.lifecycle.generation for name, instance in self._instances.items()}
        before, self._instances = self._instances, {}
        for spec in specs:
            old = before.get(spec.name)
            if old is not None and old.spec == spec:
                self._instances[spec.name] = old
                continue
            # Generations keep counting, so that remains of an earlier one are never taken for this one.
            lifecycle = Lifecycle(blocked_by=self._missing(spec), generation=self._retired.get(spec.name, 0))
            self._instances[spec.name] = new = self._make(spec, lifecycle)
            new.terminating = None if old is None else old.terminating
        self._levels = levels(specs)
        self._subscribers.publish_instances(self.statuses())

    def _missing(self, spec: InstanceSpec) -> str | None:
        """The dependency, if it is not up."""
        other = self._instances.get(spec.depends_on or "")
        return None if other is not None and other.lifecycle.state in HOLDING else spec.depends_on

    # What is known.

    def status(self, name: str) -> InstanceStatus:
        """The instance's present status. Raises NotFoundError for an unknown name."""
        return self._get(name).status

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """All instances, in the order of the specs."""
        return tuple(instance.status for instance in self._instances.values())

    def subscribe(self, on_status: OnStatus) -> Callable[[], None]:
        """Calls back at every status change of any instance, until the returned function is called."""
        return self._subscribers.subscribe(on_status)

    def subscribe_instances(self, on_instances: OnInstances) -> None:
        """Has `on_instances` called with all statuses when instances were exchanged."""
        self._subscribers.subscribe_instances(on_instances)

    async def wait_until(
        self, name: str, predicate: Callable[[InstanceStatus], bool], timeout_s: float
    ) -> InstanceStatus:
        """Returns the first status that fits, from when all commands so far have been taken up.

        Raises:
            NotFoundError: Unknown name.
            TimeoutError: None came within `timeout_s`.
        """
        self._get(name)
        async with asyncio.timeout(timeout_s):
            await self._events.join()
            return await self._subscribers.first(self.status(name), predicate)

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The instance's output, as InstanceRuntime.logs gives it. Raises NotFoundError for an unknown name."""
        return self._get(name).runtime.logs(name, tail=tail, follow=follow)

    # Running.

    async def run(self) -> None:
        """Adopts what an earlier daemon left running, starts everything else, and serves until `shutdown` is done."""
        if self._ended.is_set():
            return
        self._has_begun = True
        try:
            async with self._tasks:
                await self._boot()
                while (item := await self._events.get()) is not None:
                    self._try_to_handle(*item)
                    self._events.task_done()
                raise _ShutDown
        except* _ShutDown:
            pass
        finally:
            self._ended.set()
            for instance in self._instances.values():
                instance.cancel_timer()
                instance.prober.stop()

    async def shutdown(self, *, leave_running: bool, drain: bool) -> None:
        """Ends all instances, those that depend on others first, then `run`. May be called again, to hurry.

        Args:
            leave_running: Let the instances run on; a later daemon will adopt them. What is being ended already, is.
            drain: Give running requests the time to end, `drain_timeout_s` in all.
        """
        if not self._has_begun:
            self._ended.set()
            return
        grace_s = self._settings.stop_grace_s
        drain_timeout_s = self._settings.policy.drain_timeout_s if drain else 0.0
        ending = asyncio.create_task(
            settle(self, self._instances, stop_grace_s=grace_s)
            if leave_running
            else end_all(self, self._levels, drain_timeout_s=drain_timeout_s, stop_grace_s=grace_s)
        )
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((ending, ended), return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await ending
                self._events.put_nowait(None)
                await ended
        finally:
            ending.cancel()
            ended.cancel()

    async def _boot(self) -> None:
        """Finds what runs already, then starts everything, those that others depend on first."""
        instances = [self._instances[name] for level in self._levels for name in level]
        found = await asyncio.gather(*(instance.find(self._clock) for instance in instances))
        for instance, adopted in zip(instances, found, strict=True):
            if adopted is not None:
                self._try_to_handle(instance, adopted)
                self._spawn(actions.await_exit(instance, adopted.handle, partial(self._post, instance)))
            if instance.spec.name in self._stays_stopped:
                self._try_to_handle(instance, StopRequested(drain=True, reason=_STAYS_STOPPED))
            elif instance.spec.name in self._on_demand:
                if adopted is None:
                    self._try_to_handle(instance, StopRequested(drain=True, reason=_ON_DEMAND))
            else:
                self._try_to_handle(instance, StartRequested())

    # Events in.

    def _get(self, name: str) -> Instance:
        try:
            return self._instances[name]
        except KeyError:
            raise NotFoundError(f"no instance {name!r}; available: {', '.join(self._instances)}") from None

    def _post(self, instance: Instance, event: Event) -> None:
        self._events.put_nowait((instance, event))

    def _try_to_handle(self, instance: Instance, event: Event) -> None:
        """An internal error with one event must not end the supervision of all instances."""
        try:
            self._handle(instance, event)
        except Exception:  # noqa: BLE001 - see above
            _log.exception("%s: %s could not be handled", instance.spec.name, event)

    def _handle(self, instance: Instance, event: Event) -> None:
        before = instance.lifecycle
        instance.lifecycle, effects = transition(before, event, instance.policy)
        state = instance.lifecycle.state
        if state is not before.state:
            instance.cancel_timer()
        if instance.update_status(self._clock.time()):
            self._subscribers.publish(instance.status)
        for effect in effects:
            self._carry_out(instance, effect)
        self._plan_probe(instance)
        if (news := dependency_event(instance.spec.name, before.state, state)) is not None:
            for other in self._instances.values():
                if other.spec.depends_on == instance.spec.name:
                    self._handle(other, news)

    def _on_probe(self, name: str, generation: int, fault: ProbeFault | None) -> None:
        if (instance := self._instances.get(name)) is None:
            return
        if fault is None:
            self._post(instance, ProbeSucceeded(generation))
            return
        counts = fault.counts and not instance.runtime.is_away()
        self._post(instance, ProbeFailed(generation, fault.reason, counts, fault.busy))

    def _plan_probe(self, instance: Instance) -> None:
        lifecycle = instance.lifecycle
        if lifecycle.state not in PROBED or lifecycle.handle is None:
            instance.prober.stop()
        else:
            longest_s = _STARTING_PROBE_INTERVAL_S if lifecycle.state is State.STARTING else math.inf
            instance.prober.plan(lifecycle.generation, min(self._settings.probe_interval_s, longest_s))

    # Effects out.

    def _carry_out(self, instance: Instance, effect: Effect) -> None:
        match effect:
            case Launch():
                self._spawn(actions.launch(instance, effect.generation, partial(self._post, instance)))
            case Abandon():
                instance.runtime.abandon(instance.spec.name)
            case Terminate():
                ending = actions.terminate(instance, effect, self._settings.stop_grace_s, partial(self._post, instance))
                instance.terminating = self._spawn(ending)
            case SetTimer():
                instance.cancel_timer()
                fired = TimerFired(effect.generation, effect.timer)
                instance.timer = self._clock.call_later(effect.after_s, partial(self._post, instance, fired))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)
