# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Every row of the state table, one by one."""

from dataclasses import replace

import pytest

from syshaxd.core.config import Config
from syshaxd.core.lifecycle import (
    Abandon,
    Adopted,
    DependencyLost,
    DependencyUp,
    Drained,
    Effect,
    Event,
    Exited,
    Launch,
    Launched,
    LaunchFailed,
    LaunchProgress,
    Lifecycle,
    ProbeFailed,
    ProbeSucceeded,
    RestartPolicy,
    SetTimer,
    StartRequested,
    StopRequested,
    Terminate,
    TerminateFailed,
    Timer,
    TimerFired,
    WatchFailed,
    dependency_event,
    transition,
)
from syshaxd.core.types import ExitStatus, Handle, State

POLICY = RestartPolicy(
    start_timeout_s=900,
    probe_failures=3,
    backoff_base_s=1,
    backoff_cap_s=60,
    max_attempts=8,
    stable_s=50,
    drain_timeout_s=30,
)
HANDLE = Handle("cpu", 5, "4711", 1000.0)
NEXT = SetTimer(6, Timer.START, 900), Launch(6)
CODE_0 = ExitStatus(code=0)

STOPPED = Lifecycle(generation=5)
WAITING = replace(STOPPED, wanted=True, blocked_by="gpu")
LAUNCHING = replace(STOPPED, state=State.STARTING, wanted=True)
STARTING = replace(LAUNCHING, handle=HANDLE)
READY = replace(STARTING, state=State.READY, attempts=2)
UNHEALTHY = replace(READY, state=State.UNHEALTHY, probe_failures=1)
BUSY = replace(UNHEALTHY, probe_failures=0, busy=True)
DRAINING = replace(READY, state=State.DRAINING, wanted=False, reason="stop requested")
RESTARTING = replace(DRAINING, wanted=True)
STOPPING = replace(DRAINING, state=State.STOPPING)
GIVEN_UP = replace(READY, state=State.STOPPING, failed=True, reason="3 failed probes in a row: silence")
BACKOFF = replace(STOPPED, state=State.BACKOFF, wanted=True, attempts=2)
FAILED = replace(BACKOFF, state=State.FAILED, attempts=8)


def blocked(lifecycle: Lifecycle) -> Lifecycle:
    return replace(lifecycle, blocked_by="gpu")


ROWS: list[tuple[Lifecycle, Event, State, tuple[Effect, ...]]] = [
    # Somebody wants it up.
    (STOPPED, StartRequested(), State.STARTING, NEXT),
    (FAILED, StartRequested(), State.STARTING, NEXT),
    (BACKOFF, StartRequested(), State.STARTING, NEXT),
    (blocked(STOPPED), StartRequested(), State.STOPPED, ()),
    (blocked(FAILED), StartRequested(), State.STOPPED, ()),
    (STARTING, StartRequested(), State.STARTING, ()),
    (READY, StartRequested(), State.READY, ()),
    (DRAINING, StartRequested(), State.DRAINING, ()),
    (STOPPING, StartRequested(), State.STOPPING, ()),
    # Somebody wants it down.
    (WAITING, StopRequested(drain=True), State.STOPPED, ()),
    (BACKOFF, StopRequested(drain=True), State.STOPPED, ()),
    (FAILED, StopRequested(drain=True), State.STOPPED, ()),
    (LAUNCHING, StopRequested(drain=True), State.STOPPING, (Abandon(),)),
    (STARTING, StopRequested(drain=True), State.STOPPING, (Terminate(HANDLE, served=False),)),
    (READY, StopRequested(drain=True), State.DRAINING, (SetTimer(5, Timer.DRAIN, 30),)),
    (UNHEALTHY, StopRequested(drain=True), State.DRAINING, (SetTimer(5, Timer.DRAIN, 30),)),
    (READY, StopRequested(drain=False), State.STOPPING, (Terminate(HANDLE),)),
    (UNHEALTHY, StopRequested(drain=False), State.STOPPING, (Terminate(HANDLE),)),
    (DRAINING, StopRequested(drain=True), State.DRAINING, ()),
    (DRAINING, StopRequested(drain=False), State.STOPPING, (Terminate(HANDLE),)),
    (STOPPING, StopRequested(drain=False), State.STOPPING, ()),
    # Draining ends.
    (DRAINING, Drained(5), State.STOPPING, (Terminate(HANDLE),)),
    (DRAINING, TimerFired(5, Timer.DRAIN), State.STOPPING, (Terminate(HANDLE),)),
    (READY, Drained(5), State.READY, ()),
    # Launching.
    (LAUNCHING, Launched(HANDLE), State.STARTING, ()),
    (replace(STOPPING, handle=None), Launched(HANDLE), State.STOPPING, (Terminate(HANDLE, served=False),)),
    (LAUNCHING, LaunchProgress(5, "fetching"), State.STARTING, (SetTimer(5, Timer.START, 900),)),
    (STARTING, LaunchProgress(5, "fetching"), State.STARTING, ()),
    (replace(STOPPING, handle=None), LaunchProgress(5, "fetching"), State.STOPPING, ()),
    (LAUNCHING, LaunchFailed(5, "no such program", permanent=True), State.FAILED, ()),
    (LAUNCHING, LaunchFailed(5, "port taken", permanent=False), State.BACKOFF, (SetTimer(5, Timer.BACKOFF, 1),)),
    (replace(STOPPING, handle=None), LaunchFailed(5, "no such program", permanent=True), State.STOPPED, ()),
    (STARTING, TimerFired(5, Timer.START), State.STOPPING, (Terminate(HANDLE, served=False),)),
    (LAUNCHING, TimerFired(5, Timer.START), State.STOPPING, (Abandon(),)),
    (READY, TimerFired(5, Timer.START), State.READY, ()),
    # Probes.
    (STARTING, ProbeSucceeded(5), State.READY, (SetTimer(5, Timer.STABLE, 50),)),
    (STARTING, ProbeFailed(5, "refused"), State.STARTING, ()),
    (READY, ProbeSucceeded(5), State.READY, ()),
    (READY, ProbeFailed(5, "silence"), State.UNHEALTHY, ()),
    (UNHEALTHY, ProbeSucceeded(5), State.READY, (SetTimer(5, Timer.STABLE, 50),)),
    (UNHEALTHY, ProbeFailed(5, "silence"), State.UNHEALTHY, ()),
    (replace(UNHEALTHY, probe_failures=2), ProbeFailed(5, "silence"), State.STOPPING, (Terminate(HANDLE),)),
    (replace(UNHEALTHY, probe_failures=2), ProbeFailed(5, "silence", counts=False), State.UNHEALTHY, ()),
    (READY, ProbeFailed(5, "silence", busy=True), State.UNHEALTHY, (SetTimer(5, Timer.BUSY, 300),)),
    (UNHEALTHY, ProbeFailed(5, "silence", busy=True), State.UNHEALTHY, (SetTimer(5, Timer.BUSY, 300),)),
    (BUSY, ProbeFailed(5, "silence", busy=True), State.UNHEALTHY, ()),
    (BUSY, ProbeFailed(5, "silence"), State.UNHEALTHY, ()),
    (BUSY, ProbeSucceeded(5), State.READY, (SetTimer(5, Timer.STABLE, 50),)),
    (BUSY, TimerFired(5, Timer.BUSY), State.STOPPING, (Terminate(HANDLE),)),
    (UNHEALTHY, TimerFired(5, Timer.BUSY), State.UNHEALTHY, ()),
    (DRAINING, ProbeFailed(5, "silence"), State.DRAINING, ()),
    (STOPPING, ProbeSucceeded(5), State.STOPPING, ()),
    (READY, TimerFired(5, Timer.STABLE), State.READY, ()),
    # The end of a server.
    (STARTING, Exited(5, CODE_0), State.BACKOFF, (SetTimer(5, Timer.BACKOFF, 1),)),
    (READY, Exited(5, CODE_0), State.BACKOFF, (SetTimer(5, Timer.BACKOFF, 4),)),
    (UNHEALTHY, Exited(5, CODE_0), State.BACKOFF, (SetTimer(5, Timer.BACKOFF, 4),)),
    (replace(READY, attempts=7), Exited(5, CODE_0), State.FAILED, ()),
    (DRAINING, Exited(5, CODE_0), State.STOPPED, ()),
    (RESTARTING, Exited(5, CODE_0), State.STARTING, NEXT),
    (STOPPING, Exited(5, CODE_0), State.STOPPED, ()),
    (replace(STOPPING, wanted=True), Exited(5, CODE_0), State.STARTING, NEXT),
    (blocked(replace(STOPPING, wanted=True)), Exited(5, CODE_0), State.STOPPED, ()),
    (GIVEN_UP, Exited(5, CODE_0), State.BACKOFF, (SetTimer(5, Timer.BACKOFF, 4),)),
    (blocked(GIVEN_UP), Exited(5, CODE_0), State.STOPPED, ()),
    (replace(GIVEN_UP, attempts=7), Exited(5, CODE_0), State.FAILED, ()),
    (replace(GIVEN_UP, wanted=False), Exited(5, CODE_0), State.STOPPED, ()),
    (STOPPING, TerminateFailed(5, "no daemon"), State.STOPPING, (SetTimer(5, Timer.TERMINATE, 1),)),
    (STOPPING, TimerFired(5, Timer.TERMINATE), State.STOPPING, (Terminate(HANDLE),)),
    (STARTING, WatchFailed(5, "odd"), State.FAILED, ()),
    (READY, WatchFailed(5, "odd"), State.FAILED, ()),
    (UNHEALTHY, WatchFailed(5, "odd"), State.FAILED, ()),
    (RESTARTING, WatchFailed(5, "odd"), State.FAILED, ()),
    (DRAINING, WatchFailed(5, "odd"), State.STOPPED, ()),
    (STOPPING, WatchFailed(5, "odd"), State.STOPPED, ()),
    (GIVEN_UP, WatchFailed(5, "odd"), State.FAILED, ()),
    # The pause.
    (BACKOFF, TimerFired(5, Timer.BACKOFF), State.STARTING, NEXT),
    # The dependency.
    (WAITING, DependencyUp(), State.STARTING, NEXT),
    (blocked(STOPPED), DependencyUp(), State.STOPPED, ()),
    (blocked(FAILED), DependencyUp(), State.FAILED, ()),
    (STARTING, DependencyLost("gpu", drain=True), State.STOPPING, (Terminate(HANDLE, served=False),)),
    (READY, DependencyLost("gpu", drain=True), State.DRAINING, (SetTimer(5, Timer.DRAIN, 30),)),
    (READY, DependencyLost("gpu", drain=False), State.STOPPING, (Terminate(HANDLE),)),
    (DRAINING, DependencyLost("gpu", drain=False), State.STOPPING, (Terminate(HANDLE),)),
    (BACKOFF, DependencyLost("gpu", drain=False), State.STOPPED, ()),
    (FAILED, DependencyLost("gpu", drain=False), State.FAILED, ()),
    (STOPPED, DependencyLost("gpu", drain=False), State.STOPPED, ()),
    # Boot.
    (Lifecycle(), Adopted(HANDLE, healthy=True, age_s=9), State.READY, (SetTimer(5, Timer.STABLE, 50),)),
    (Lifecycle(), Adopted(HANDLE, healthy=False, age_s=9), State.STARTING, (SetTimer(5, Timer.START, 891),)),
    (Lifecycle(), Adopted(HANDLE, healthy=False, age_s=901), State.UNHEALTHY, ()),
    (Lifecycle(blocked_by="gpu"), Adopted(HANDLE, healthy=True, age_s=9), State.STOPPING, (Terminate(HANDLE),)),
    (READY, Adopted(replace(HANDLE, generation=9), healthy=True, age_s=9), State.READY, ()),
]


@pytest.mark.parametrize(("before", "event", "state", "effects"), ROWS)
def test_row(before: Lifecycle, event: Event, state: State, effects: tuple[Effect, ...]) -> None:
    after, got = transition(before, event, POLICY)
    assert after.state is state
    assert set(got) == set(effects)


OLD: list[Event] = [
    Launched(replace(HANDLE, generation=4)),
    LaunchProgress(4, ""),
    LaunchFailed(4, "", permanent=True),
    Exited(4, CODE_0),
    TerminateFailed(4, ""),
    WatchFailed(4, ""),
    ProbeSucceeded(4),
    ProbeFailed(4, ""),
    Drained(4),
    *(TimerFired(4, timer) for timer in Timer),
]


@pytest.mark.parametrize("event", OLD)
@pytest.mark.parametrize("before", [STOPPED, STARTING, READY, UNHEALTHY, DRAINING, STOPPING, BACKOFF, FAILED])
def test_an_older_generation_changes_nothing(before: Lifecycle, event: Event) -> None:
    assert transition(before, event, POLICY) == (before, ())


def test_a_start_forgets_failed_attempts() -> None:
    assert transition(FAILED, StartRequested(), POLICY)[0].attempts == 0
    assert transition(GIVEN_UP, StartRequested(), POLICY)[0].attempts == 0
    assert transition(READY, StartRequested(), POLICY)[0].attempts == 2


def test_attempts_are_forgotten_once_stable_and_not_before() -> None:
    assert transition(STARTING, ProbeSucceeded(5), POLICY)[0].attempts == STARTING.attempts
    assert transition(READY, TimerFired(5, Timer.STABLE), POLICY)[0].attempts == 0


def test_backoff_doubles_up_to_the_cap() -> None:
    assert [POLICY.backoff_s(attempts) for attempts in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]


def run(lifecycle: Lifecycle, *events: Event, policy: RestartPolicy = POLICY) -> Lifecycle:
    for event in events:
        lifecycle, _ = transition(lifecycle, event, policy)
    return lifecycle


REASONS = {
    "exited with code 0 unasked; next attempt (4 of 8) in 4 s": run(READY, Exited(5, CODE_0)),
    "killed by signal 9 while starting; next attempt (2 of 8) in 1 s": run(STARTING, Exited(5, ExitStatus(signal=9))),
    "given up after 8 failed attempts: exited with code 0 unasked": run(replace(READY, attempts=7), Exited(5, CODE_0)),
    "failed probe (1 of 3): silence": run(READY, ProbeFailed(5, "silence")),
    "busy: silence": run(READY, *[ProbeFailed(5, "silence", busy=True)] * 50),
    "busy and not answering probes for 300 s": run(BUSY, TimerFired(5, Timer.BUSY)),
    "3 failed probes in a row: dead": run(BUSY, *[ProbeFailed(5, "dead")] * 3),
    "does not answer yet: refused": run(STARTING, ProbeFailed(5, "refused")),
    "not ready within 900 s; does not answer yet: refused": run(
        STARTING, ProbeFailed(5, "refused"), TimerFired(5, Timer.START)
    ),
    "not ready within 900 s": run(STARTING, TimerFired(5, Timer.START)),
    "stop requested; requests still run after 30 s": run(READY, StopRequested(drain=True), TimerFired(5, Timer.DRAIN)),
    "cannot be stopped: no docker": run(STOPPING, *[TerminateFailed(5, "no docker")] * 2),
    "3 failed probes in a row: silence; next attempt (4 of 8) in 4 s": run(GIVEN_UP, Exited(5, CODE_0)),
    "no such program": run(LAUNCHING, LaunchFailed(5, "no such program", permanent=True)),
    "its dependency gpu is stopping": run(READY, DependencyLost("gpu", drain=False)),
    "waiting for gpu": run(READY, DependencyLost("gpu", drain=False), Exited(5, CODE_0)),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons(reason: str) -> None:
    assert REASONS[reason].reason == reason


def test_an_external_instance_is_never_given_up() -> None:
    policy = POLICY.for_external()
    starting, effects = transition(replace(STOPPED, wanted=True), StartRequested(), policy)
    assert effects == (Launch(6),)
    sick = run(replace(READY, generation=6), *[ProbeFailed(6, "refused")] * 100, policy=policy)
    assert (sick.state, sick.reason) == (State.UNHEALTHY, "refused")
    assert run(sick, ProbeSucceeded(6), policy=policy).state is State.READY
    handle = replace(HANDLE, generation=1)
    assert run(Lifecycle(), Adopted(handle, healthy=False, age_s=1e9), policy=policy).state is State.STARTING
    assert starting.state is State.STARTING


def test_what_a_change_means_to_dependants() -> None:
    up, lost = DependencyUp(), DependencyLost("gpu", drain=False)
    assert dependency_event("gpu", State.STARTING, State.READY) == up
    assert dependency_event("gpu", State.STOPPED, State.UNHEALTHY) == up
    assert dependency_event("gpu", State.READY, State.UNHEALTHY) is None
    assert dependency_event("gpu", State.READY, State.DRAINING) == DependencyLost("gpu", drain=True)
    assert dependency_event("gpu", State.DRAINING, State.STOPPING) == lost
    assert dependency_event("gpu", State.UNHEALTHY, State.BACKOFF) == lost
    assert dependency_event("gpu", State.STARTING, State.BACKOFF) is None


def test_the_policy_is_the_configurations() -> None:
    config = Config().lifecycle
    policy = RestartPolicy.from_config(config)
    assert policy == RestartPolicy()
    assert policy.start_timeout_s == config.start_timeout_s
