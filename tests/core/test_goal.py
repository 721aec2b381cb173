# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.errors import ConflictError, LaunchFailedError
from syshaxd.core.lifecycle import (
    DependencyLost,
    DependencyUp,
    Drained,
    Exited,
    LaunchFailed,
    Lifecycle,
    ProbeSucceeded,
    RestartPolicy,
    StartRequested,
    StopRequested,
    transition,
)
from syshaxd.core.lifecycle.command_goal import Command, Goal
from syshaxd.core.types import ExitStatus, InstanceStatus, State
from tests.fakes.specs import make_spec

SPEC = make_spec("cpu", port=8002)
UP = InstanceStatus(spec=SPEC, state=State.READY, wanted=True, generation=1)
DOWN = InstanceStatus(spec=SPEC, state=State.STOPPED, generation=1)


def follow(command: Command, before: InstanceStatus, *statuses: InstanceStatus) -> list[bool]:
    goal = Goal(command, before)
    return [goal.reached(status) for status in (before, *statuses)]


def test_start() -> None:
    starting = replace(DOWN, state=State.STARTING, wanted=True, generation=2)
    assert follow(Command.START, DOWN, starting, replace(starting, state=State.READY)) == [False, False, True]
    assert follow(Command.START, UP) == [True]


def test_start_of_what_has_failed_before() -> None:
    failed = replace(DOWN, state=State.FAILED, wanted=True, reason="no such model")
    again = replace(failed, state=State.STARTING, generation=2)
    assert follow(Command.START, failed, again) == [False, False]
    with pytest.raises(LaunchFailedError, match="cpu failed: no such model"):
        follow(Command.START, failed, again, replace(failed, generation=2))


def test_start_while_it_is_being_stopped() -> None:
    stopping = replace(DOWN, state=State.STOPPING)
    back = [DOWN, replace(UP, state=State.STARTING, generation=2), replace(UP, generation=2)]
    assert follow(Command.START, stopping, *back) == [False, False, False, True]


def test_start_taken_back_by_a_stop() -> None:
    starting = replace(UP, state=State.STARTING)
    with pytest.raises(ConflictError, match="cpu was stopped meanwhile"):
        follow(Command.START, DOWN, starting, replace(starting, state=State.STOPPING, wanted=False))


def test_stop() -> None:
    draining = replace(UP, state=State.DRAINING, wanted=False)
    assert follow(Command.STOP, UP, draining, DOWN) == [False, False, True]
    assert follow(Command.STOP, DOWN) == [True]


def test_stop_of_what_waits_for_another() -> None:
    assert follow(Command.STOP, replace(DOWN, wanted=True), DOWN) == [False, True]


def test_stop_taken_back_by_a_start() -> None:
    with pytest.raises(ConflictError, match="cpu was started again meanwhile"):
        follow(Command.STOP, UP, replace(UP, generation=2))


def test_restart_waits_for_the_new_generation() -> None:
    asked = [replace(UP, state=State.DRAINING, wanted=False), replace(UP, state=State.STOPPING)]
    new = [replace(UP, state=State.STARTING, generation=2), replace(UP, generation=2)]
    assert follow(Command.RESTART, UP, *asked, *new) == [False] * 4 + [True]


def test_restart_that_fails() -> None:
    with pytest.raises(LaunchFailedError):
        follow(Command.RESTART, UP, replace(UP, state=State.FAILED, generation=2))


_EVENTS = st.lists(st.sampled_from(["exit", "probe", "drained", "up", "lost", "permanent"]), max_size=12)


@given(st.sampled_from(Command), _EVENTS, _EVENTS)
def test_reached_means_that_the_rules_brought_it_there(command: Command, past: list[str], future: list[str]) -> None:
    """Whatever happens before and after a command: a goal is reached only where it says."""
    policy = RestartPolicy()
    lifecycle = Lifecycle()

    def status() -> InstanceStatus:
        return InstanceStatus(
            spec=SPEC, state=lifecycle.state, wanted=lifecycle.wanted, generation=lifecycle.generation
        )

    def happen(name: str) -> None:
        nonlocal lifecycle
        generation = lifecycle.generation
        event = {
            "exit": Exited(generation, ExitStatus(code=1)),
            "probe": ProbeSucceeded(generation),
            "drained": Drained(generation),
            "up": DependencyUp(),
            "lost": DependencyLost("gpu", drain=True),
            "permanent": LaunchFailed(generation, "x", permanent=True),
        }[name]
        lifecycle, _ = transition(lifecycle, event, policy)

    lifecycle, _ = transition(lifecycle, StartRequested(), policy)
    for name in past:
        happen(name)
    before = status()
    goal = Goal(command, before)
    done = goal.reached(before)
    requests = {
        Command.START: (StartRequested(),),
        Command.STOP: (StopRequested(drain=True),),
        Command.RESTART: (StopRequested(drain=True), StartRequested()),
    }
    for request in requests[command]:
        lifecycle, _ = transition(lifecycle, request, policy)
        try:
            done = done or goal.reached(status())
        except LaunchFailedError:
            return
    for name in future:
        if done:
            break
        happen(name)
        try:
            done = goal.reached(status())
        except LaunchFailedError:
            assert lifecycle.state is State.FAILED
            return
    if done and command is Command.STOP:
        assert lifecycle.state is State.STOPPED
        assert not lifecycle.wanted
    elif done:
        assert lifecycle.state is State.READY
        assert lifecycle.wanted
        assert lifecycle.generation >= before.generation + (command is Command.RESTART)
