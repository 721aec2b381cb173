# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The life of one instance, as a pure rule: `transition(lifecycle, event, policy) -> (lifecycle, effects)`.

The supervisor carries out the effects, whose results become new events. Two rules keep that simple:

- Events of a launched server or a timer carry its generation; events of older generations change nothing.
- An instance has one timer at a time; leaving a state ends the timer set in it.
"""

from dataclasses import dataclass, replace
from typing import Self

from syshaxd.core.backoff import backoff_s
from syshaxd.core.config import LifecycleConfig
from syshaxd.core.lifecycle.messages import (
    Abandon,
    Adopted,
    DependencyLost,
    DependencyUp,
    Drained,
    Effect,
    Event,
    Exited,
    GenerationEvent,
    Launch,
    Launched,
    LaunchFailed,
    LaunchProgress,
    ProbeFailed,
    ProbeSucceeded,
    SetTimer,
    StartRequested,
    StopRequested,
    Terminate,
    TerminateFailed,
    Timer,
    TimerFired,
    WatchFailed,
)
from syshaxd.core.types import Handle, State

ALIVE = frozenset((State.STARTING, State.READY, State.UNHEALTHY, State.DRAINING))
"""A server runs or is being launched, and is not being stopped."""
HOLDING = frozenset((State.READY, State.UNHEALTHY))
"""Dependent instances can run."""
ENDED = frozenset((State.STOPPED, State.BACKOFF, State.FAILED))
"""No server runs."""
PROBED = frozenset((State.STARTING, State.READY, State.UNHEALTHY))
"""It is probed, once it has a handle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When an instance is given up, restarted, or left alone. None: never."""

    start_timeout_s: float | None = 900.0
    probe_failures: int | None = 3
    """Failed probes in a row after which it is stopped."""
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    max_attempts: int | None = 8
    """Failed launches in a row after which it stays FAILED."""
    stable_s: float = 60.0
    drain_timeout_s: float = 30.0
    busy_timeout_s: float = 300.0
    """How long it may compute without answering a probe."""

    @classmethod
    def from_config(cls, config: LifecycleConfig) -> Self:
        """The policy for instances that the daemon launches."""
        return cls(
            start_timeout_s=config.start_timeout_s,
            probe_failures=config.probe_failures,
            backoff_base_s=config.backoff_base_s,
            backoff_cap_s=config.backoff_cap_s,
            max_attempts=config.max_attempts,
            stable_s=config.stable_s,
            drain_timeout_s=config.drain_timeout_s,
            busy_timeout_s=config.busy_timeout_s,
        )

    def for_external(self) -> Self:
        """The policy for external instances: relaunching them has no effect, so syshaxd only watches."""
        return replace(self, start_timeout_s=None, probe_failures=None, max_attempts=None)

    def backoff_s(self, attempts: int) -> float:
        """The pause after this many failed attempts in a row."""
        return backoff_s(attempts, first_s=self.backoff_base_s, cap_s=self.backoff_cap_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """The state of one instance. Waiting for a dependency is STOPPED, wanted and blocked."""

    state: State = State.STOPPED
    wanted: bool = False
    blocked_by: str | None = None
    """The dependency that is down; None: none, or it is up."""
    generation: int = 0
    """Count of launches."""
    handle: Handle | None = None
    """The server that runs."""
    attempts: int = 0
    """Launches that failed in a row."""
    probe_failures: int = 0
    """Probes that failed in a row, while it was not at work."""
    busy: bool = False
    """It does not answer but computes; the timer BUSY runs."""
    failed: bool = False
    """It is being stopped because it failed, which counts as a failed attempt."""
    reason: str = ""
    """Why it is in this state, for a person."""


Effects = tuple[Effect, ...]
Step = tuple[Lifecycle, Effects]


def transition(lifecycle: Lifecycle, event: Event, policy: RestartPolicy) -> Step:
    """Returns the instance's next state after `event`, and the effects to carry out."""
    match event:
        case StartRequested():
            return _start_requested(lifecycle, policy)
        case StopRequested():
            return _stop_requested(lifecycle, event, policy)
        case DependencyUp():
            return _dependency_up(lifecycle, policy)
        case DependencyLost():
            return _dependency_lost(lifecycle, event, policy)
        case Adopted():
            return _adopted(lifecycle, event, policy)
    return _of_generation(lifecycle, event, policy) if event.generation == lifecycle.generation else (lifecycle, ())


def _of_generation(lifecycle: Lifecycle, event: GenerationEvent, policy: RestartPolicy) -> Step:
    match event:
        case Launched():
            return _launched(lifecycle, event)
        case LaunchProgress():
            return _launch_noted(lifecycle, event, policy)
        case LaunchFailed():
            return _launch_failed(lifecycle, event, policy)
        case Exited():
            return _exited(lifecycle, event, policy)
        case WatchFailed():
            return _watch_failed(lifecycle, event)
        case TerminateFailed():
            return _terminate_failed(lifecycle, event, policy)
        case ProbeSucceeded():
            return _probe_succeeded(lifecycle, policy)
        case ProbeFailed():
            return _probe_failed(lifecycle, event, policy)
        case Drained():
            return _drained(lifecycle)
        case TimerFired():
            return _timer_fired(lifecycle, event, policy)


def dependency_event(name: str, before: State, after: State) -> DependencyUp | DependencyLost | None:
    """The event for dependents when the instance `name` changes; None: none."""
    if after in HOLDING:
        return DependencyUp() if before not in HOLDING else None
    if after is State.DRAINING:
        return DependencyLost(name, drain=True) if before is not State.DRAINING else None
    if before in HOLDING or before is State.DRAINING:
        return DependencyLost(name, drain=False)
    return None


# What each event does.


def _start_requested(now: Lifecycle, policy: RestartPolicy) -> Step:
    if now.wanted and now.state in ALIVE:
        return now, ()
    now = replace(now, wanted=True, attempts=0, failed=False)
    if now.state in ALIVE or now.state is State.STOPPING:
        return now, ()  # it is being stopped and relaunched afterwards
    return _launch(now, policy)


def _stop_requested(now: Lifecycle, event: StopRequested, policy: RestartPolicy) -> Step:
    now = replace(now, wanted=False)
    reason = event.reason or "stop requested"
    if now.state in ALIVE:
        return _end(now, policy, reason, drain=event.drain)
    if now.state is State.STOPPING:
        return now, ()
    return _enter(now, State.STOPPED, reason if now.generation or event.reason else "")


def _dependency_up(now: Lifecycle, policy: RestartPolicy) -> Step:
    now = replace(now, blocked_by=None)
    return _launch(now, policy) if now.state is State.STOPPED and now.wanted else (now, ())


def _dependency_lost(now: Lifecycle, event: DependencyLost, policy: RestartPolicy) -> Step:
    now = replace(now, blocked_by=event.name)
    if now.state in ALIVE:
        return _end(now, policy, f"its dependency {event.name} is stopping", drain=event.drain)
    return _wait(now) if now.state is State.BACKOFF else (now, ())


def _adopted(now: Lifecycle, event: Adopted, policy: RestartPolicy) -> Step:
    if now.state is not State.STOPPED or event.handle.generation <= now.generation:
        return now, ()
    now = replace(now, wanted=True, generation=event.handle.generation, handle=event.handle)
    if now.blocked_by is not None:
        return _end(now, policy, f"its dependency {now.blocked_by} is not running", drain=False)
    if event.healthy:
        return _ready(now, policy)
    if policy.start_timeout_s is None or event.age_s < policy.start_timeout_s:
        return _enter(
            now, State.STARTING, "found running; does not answer yet", *_start_timer(now, policy, event.age_s)
        )
    return _enter(replace(now, probe_failures=1), State.UNHEALTHY, "found running, but does not answer")


def _launched(now: Lifecycle, event: Launched) -> Step:
    now = replace(now, handle=event.handle)
    return now, (Terminate(event.handle, served=False),) if now.state is State.STOPPING else ()


def _launch_noted(now: Lifecycle, event: LaunchProgress, policy: RestartPolicy) -> Step:
    if now.state is not State.STARTING or now.handle is not None:
        return now, ()
    return _enter(now, State.STARTING, event.text, *_start_timer(now, policy, 0.0))


def _launch_failed(now: Lifecycle, event: LaunchFailed, policy: RestartPolicy) -> Step:
    if now.state in ALIVE and event.permanent:
        return _enter(replace(now, attempts=now.attempts + 1), State.FAILED, event.reason)
    return _gone(now, event.reason, policy)


def _exited(now: Lifecycle, event: Exited, policy: RestartPolicy) -> Step:
    when = "while starting" if now.state is State.STARTING else "unasked"
    return _gone(now, f"{event.status} {when}", policy)


def _watch_failed(now: Lifecycle, event: WatchFailed) -> Step:
    if now.state not in {*ALIVE, State.STOPPING}:
        return now, ()
    now = replace(now, handle=None, failed=False)
    if not now.wanted:
        return _enter(now, State.STOPPED, event.reason)
    return _enter(replace(now, attempts=now.attempts + 1), State.FAILED, event.reason)


def _terminate_failed(now: Lifecycle, event: TerminateFailed, policy: RestartPolicy) -> Step:
    if now.state is not State.STOPPING:
        return now, ()
    retry = SetTimer(now.generation, Timer.TERMINATE, policy.backoff_base_s)
    return _enter(now, State.STOPPING, f"cannot be stopped: {event.reason}", retry)


def _probe_succeeded(now: Lifecycle, policy: RestartPolicy) -> Step:
    return _ready(now, policy) if now.state in {State.STARTING, State.UNHEALTHY} else (now, ())


def _probe_failed(now: Lifecycle, event: ProbeFailed, policy: RestartPolicy) -> Step:
    if now.state is State.STARTING:
        return replace(now, reason=f"does not answer yet: {event.reason}"), ()
    if now.state not in HOLDING:
        return now, ()
    failures, limit = now.probe_failures + event.counts, policy.probe_failures
    if limit is None or not event.counts:
        return _enter(now, State.UNHEALTHY, event.reason)
    if event.busy:
        timer = () if now.busy else (SetTimer(now.generation, Timer.BUSY, policy.busy_timeout_s),)
        return _enter(replace(now, probe_failures=0, busy=True), State.UNHEALTHY, f"busy: {event.reason}", *timer)
    now = replace(now, probe_failures=failures)
    if failures >= limit:
        return _end(
            replace(now, failed=True), policy, f"{failures} failed probes in a row: {event.reason}", drain=False
        )
    return _enter(now, State.UNHEALTHY, f"failed probe ({failures} of {limit}): {event.reason}")


def _drained(now: Lifecycle) -> Step:
    return _stop(now, now.reason) if now.state is State.DRAINING else (now, ())


def _timer_fired(now: Lifecycle, event: TimerFired, policy: RestartPolicy) -> Step:
    match event.timer, now.state:
        case Timer.START, State.STARTING:
            reason = f"not ready within {policy.start_timeout_s:g} s"
            return _stop(replace(now, failed=True), f"{reason}; {now.reason}" if now.reason else reason)
        case Timer.STABLE, State.READY:
            return replace(now, attempts=0), ()
        case Timer.DRAIN, State.DRAINING:
            return _stop(now, f"{now.reason}; requests still run after {policy.drain_timeout_s:g} s")
        case Timer.BACKOFF, State.BACKOFF:
            return _launch(now, policy)
        case Timer.BUSY, State.UNHEALTHY if now.busy:
            reason = f"busy and not answering probes for {policy.busy_timeout_s:g} s"
            return _end(replace(now, failed=True), policy, reason, drain=False)
        case Timer.TERMINATE, State.STOPPING if now.handle is not None:
            return now, (Terminate(now.handle),)
    return now, ()


# Entering states.


def _enter(now: Lifecycle, state: State, reason: str, *effects: Effect) -> Step:
    return replace(now, state=state, reason=reason), effects


def _launch(now: Lifecycle, policy: RestartPolicy) -> Step:
    if now.blocked_by is not None:
        return _wait(now)
    now = replace(now, generation=now.generation + 1, probe_failures=0, busy=False, failed=False)
    return _enter(now, State.STARTING, "", Launch(now.generation), *_start_timer(now, policy, 0.0))


def _start_timer(now: Lifecycle, policy: RestartPolicy, age_s: float) -> Effects:
    if policy.start_timeout_s is None:
        return ()
    return (SetTimer(now.generation, Timer.START, policy.start_timeout_s - age_s),)


def _ready(now: Lifecycle, policy: RestartPolicy) -> Step:
    stable = SetTimer(now.generation, Timer.STABLE, policy.stable_s)
    return _enter(replace(now, probe_failures=0, busy=False), State.READY, "", stable)


def _wait(now: Lifecycle) -> Step:
    return _enter(now, State.STOPPED, f"waiting for {now.blocked_by}")


def _end(now: Lifecycle, policy: RestartPolicy, reason: str, *, drain: bool) -> Step:
    """Stops a running server."""
    if not drain or now.state not in {*HOLDING, State.DRAINING}:
        return _stop(now, reason)
    if now.state is State.DRAINING:
        return now, ()
    return _enter(now, State.DRAINING, reason, SetTimer(now.generation, Timer.DRAIN, policy.drain_timeout_s))


def _stop(now: Lifecycle, reason: str) -> Step:
    # Without a handle the launch is still under way: if it completes, Launched will trigger the Terminate.
    if now.handle is None:
        return _enter(now, State.STOPPING, reason, Abandon())
    return _enter(now, State.STOPPING, reason, Terminate(now.handle, served=now.state is not State.STARTING))


def _gone(now: Lifecycle, reason: str, policy: RestartPolicy) -> Step:
    """No part of the generation is left."""
    asked = now.state in {State.DRAINING, State.STOPPING}
    if not asked and now.state not in ALIVE:
        return now, ()
    failed = now.failed or not asked
    if now.failed:
        reason = now.reason  # why it was stopped says more than its exit status
    now = replace(now, handle=None, failed=False)
    if not now.wanted:
        return _enter(now, State.STOPPED, now.reason)
    return _failed(now, reason, policy) if failed else _launch(now, policy)


def _failed(now: Lifecycle, reason: str, policy: RestartPolicy) -> Step:
    now = replace(now, attempts=now.attempts + 1)
    if policy.max_attempts is not None and now.attempts >= policy.max_attempts:
        return _enter(now, State.FAILED, f"given up after {now.attempts} failed attempts: {reason}")
    if now.blocked_by is not None:
        return _wait(now)
    pause_s = policy.backoff_s(now.attempts)
    limit = "" if policy.max_attempts is None else f" of {policy.max_attempts}"
    text = f"{reason}; next attempt ({now.attempts + 1}{limit}) in {pause_s:g} s"
    return _enter(now, State.BACKOFF, text, SetTimer(now.generation, Timer.BACKOFF, pause_s))
