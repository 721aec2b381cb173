# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A fleet of instances under every order of events: what always holds, and that it always gets where it should."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from syshaxd.core.lifecycle import (
    ALIVE,
    HOLDING,
    PROBED,
    Adopted,
    Drained,
    Event,
    Exited,
    Launch,
    Launched,
    LaunchFailed,
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

MAX_ATTEMPTS = 3
POLICY = RestartPolicy(max_attempts=MAX_ATTEMPTS, probe_failures=2)


@dataclass
class World:
    """What a runtime, a clock and the lifecycle know of one instance."""

    name: str
    policy: RestartPolicy
    depends_on: str | None
    lifecycle: Lifecycle
    launching: set[int] = field(default_factory=set)
    live: dict[int, Handle] = field(default_factory=dict)
    terminating: list[Handle] = field(default_factory=list)
    timer: SetTimer | None = None
    past: list[Event] = field(default_factory=list)
    """Events that may come again, late."""

    @property
    def is_probed(self) -> bool:
        return self.lifecycle.state in PROBED and self.lifecycle.handle is not None


NAMES = st.sampled_from(["gpu", "cpu", "external"])
FOUND = st.dictionaries(NAMES, st.tuples(st.booleans(), st.sampled_from([0.0, 1e6])))
"""What an earlier daemon left running: whether it is healthy, and its age in seconds."""


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.worlds = {
            "gpu": World("gpu", POLICY, None, Lifecycle()),
            "cpu": World("cpu", POLICY, "gpu", Lifecycle(blocked_by="gpu")),
            "external": World("external", POLICY.for_external(), None, Lifecycle()),
        }

    # The supervisor and the runtime, in small.

    def handle(self, world: World, event: Event) -> None:
        before = world.lifecycle
        world.lifecycle, effects = transition(before, event, world.policy)
        state = world.lifecycle.state
        if state is not before.state:
            world.timer = None
        for effect in effects:
            match effect:
                case Launch():
                    world.launching.add(effect.generation)
                case Terminate():
                    world.terminating.append(effect.handle)
                case SetTimer():
                    world.timer = effect
                    world.past.append(TimerFired(effect.generation, effect.timer))
        if not isinstance(event, StartRequested | StopRequested | Adopted):
            world.past.append(event)
        if (news := dependency_event(world.name, before.state, state)) is not None:
            for other in self.worlds.values():
                if other.depends_on == world.name:
                    self.handle(other, news)

    # What may happen.

    @initialize(found=FOUND, start=st.booleans())
    def boot(self, found: dict[str, tuple[bool, float]], start: bool) -> None:
        for name, world in self.worlds.items():
            if name in found:
                healthy, age_s = found[name]
                world.live[7] = Handle(name, 7, "1", 0.0)
                self.handle(world, Adopted(world.live[7], healthy, age_s))
            if start:
                self.handle(world, StartRequested())

    @rule(name=NAMES)
    def start(self, name: str) -> None:
        self.handle(self.worlds[name], StartRequested())

    @rule(name=NAMES, drain=st.booleans())
    def stop(self, name: str, drain: bool) -> None:
        self.handle(self.worlds[name], StopRequested(drain))

    @rule(name=NAMES, drain=st.booleans())
    def restart(self, name: str, drain: bool) -> None:
        self.handle(self.worlds[name], StopRequested(drain))
        self.handle(self.worlds[name], StartRequested())

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        possible = [(world.name, event) for world in self.worlds.values() for event in self.possible_events(world)]
        if possible:
            name, event = data.draw(st.sampled_from(possible))
            getattr(self, event)(self.worlds[name])

    @rule(name=NAMES)
    def bad_luck_holds(self, name: str) -> None:
        world = self.worlds[name]
        for _ in range(2 * MAX_ATTEMPTS):
            if world.launching:
                self.launch_fails(world)
            elif world.lifecycle.state is State.BACKOFF:
                self.timer_fires(world)

    @rule()
    def all_goes_well(self) -> None:
        for world in self.worlds.values():
            self.handle(world, StartRequested())
        self.settle(State.READY)

    def possible_events(self, world: World) -> list[str]:
        """The methods below that fit now."""
        events = []
        if world.launching:
            events += ["launch_succeeds", "launch_fails", "launch_fails_for_good"]
        if world.live:
            events.append("server_ends")
        if world.live and world.name != "external":
            events.append("watching_fails")
        if world.terminating:
            events.append("terminate_fails")
        if world.timer is not None:
            events.append("timer_fires")
        if world.is_probed:
            events += ["probe_succeeds", "probe_fails", "probe_finds_it_busy"]
        if world.lifecycle.state is State.DRAINING:
            events.append("drained")
        return events

    def launch_succeeds(self, world: World) -> None:
        generation = world.launching.pop()
        world.live[generation] = Handle(world.name, generation, "1", 0.0)
        self.handle(world, Launched(world.live[generation]))

    def launch_fails(self, world: World) -> None:
        self.handle(world, LaunchFailed(world.launching.pop(), "no luck", permanent=False))

    def launch_fails_for_good(self, world: World) -> None:
        self.handle(world, LaunchFailed(world.launching.pop(), "no such program", permanent=world.name != "external"))

    def server_ends(self, world: World) -> None:
        generation, _ = world.live.popitem()
        world.terminating = [handle for handle in world.terminating if handle.generation != generation]
        self.handle(world, Exited(generation, ExitStatus(code=0)))

    def watching_fails(self, world: World) -> None:
        generation, _ = world.live.popitem()
        world.terminating = [handle for handle in world.terminating if handle.generation != generation]
        self.handle(world, WatchFailed(generation, "odd"))
        assert world.lifecycle.state in {State.FAILED, State.STOPPED}

    def terminate_fails(self, world: World) -> None:
        self.handle(world, TerminateFailed(world.terminating.pop().generation, "stuck"))

    def timer_fires(self, world: World) -> None:
        assert world.timer is not None
        timer, world.timer = world.timer, None
        self.handle(world, TimerFired(timer.generation, timer.timer))

    def probe_succeeds(self, world: World) -> None:
        self.handle(world, ProbeSucceeded(world.lifecycle.generation))

    def probe_fails(self, world: World) -> None:
        self.handle(world, ProbeFailed(world.lifecycle.generation, "silence"))

    def probe_finds_it_busy(self, world: World) -> None:
        before = world.lifecycle
        self.handle(world, ProbeFailed(before.generation, "silence", busy=True))
        assert world.lifecycle.state is (State.UNHEALTHY if before.state in HOLDING else before.state)

    def drained(self, world: World) -> None:
        self.handle(world, Drained(world.lifecycle.generation))

    @rule(name=NAMES, data=st.data())
    def an_old_event_comes_late(self, name: str, data: st.DataObject) -> None:
        world = self.worlds[name]
        old = [event for event in world.past if getattr(event, "generation", 99) < world.lifecycle.generation]
        if old:
            before = world.lifecycle
            assert transition(before, data.draw(st.sampled_from(old)), world.policy) == (before, ())

    # What always holds.

    @invariant()
    def at_most_one_generation_lives(self) -> None:
        for world in self.worlds.values():
            there = {*world.live, *world.launching}
            assert len(there) <= 1
            is_up = world.lifecycle.state in ALIVE or world.lifecycle.state is State.STOPPING
            assert there == ({world.lifecycle.generation} if is_up else set())
            assert world.lifecycle.handle == world.live.get(world.lifecycle.generation)

    @invariant()
    def a_dependant_lives_only_with_its_dependency(self) -> None:
        for world in self.worlds.values():
            if world.depends_on is not None:
                state, other = world.lifecycle.state, self.worlds[world.depends_on].lifecycle.state
                assert (world.lifecycle.blocked_by is None) == (other in HOLDING)
                if state is State.DRAINING:
                    assert other in {*HOLDING, State.DRAINING}
                elif state in ALIVE:
                    assert other in HOLDING

    @invariant()
    def attempts_are_bounded(self) -> None:
        for world in self.worlds.values():
            if world.policy.max_attempts is not None:
                assert world.lifecycle.attempts <= world.policy.max_attempts
            elif world.lifecycle.state is State.FAILED:
                raise AssertionError("an external instance was given up")

    @invariant()
    def something_always_comes(self) -> None:
        for world in self.worlds.values():
            timer = None if world.timer is None else world.timer.timer
            match world.lifecycle.state:
                case State.STARTING:
                    assert world.launching or world.is_probed
                    assert timer is (Timer.START if world.policy.start_timeout_s is not None else None)
                case State.READY | State.UNHEALTHY:
                    assert world.is_probed
                    assert (timer is Timer.BUSY) == world.lifecycle.busy
                case State.DRAINING:
                    assert timer is Timer.DRAIN
                case State.STOPPING:
                    assert world.launching or world.terminating or timer is Timer.TERMINATE
                case State.BACKOFF:
                    assert timer is Timer.BACKOFF
                case State.STOPPED | State.FAILED:
                    assert timer is None

    @invariant()
    def what_is_not_wanted_is_down_or_goes_down(self) -> None:
        for world in self.worlds.values():
            if not world.lifecycle.wanted:
                assert world.lifecycle.state in {State.STOPPED, State.DRAINING, State.STOPPING}
            elif world.lifecycle.state is State.STOPPED:
                assert world.lifecycle.blocked_by is not None

    @invariant()
    def a_person_is_told_why(self) -> None:
        for world in self.worlds.values():
            lifecycle = world.lifecycle
            told = lifecycle.state in {State.UNHEALTHY, State.DRAINING, State.STOPPING, State.BACKOFF, State.FAILED}
            assert bool(lifecycle.reason) or not (told or (lifecycle.blocked_by is not None and lifecycle.wanted))

    # What it comes to, if from now on nothing fails.

    def teardown(self) -> None:
        for world in self.worlds.values():
            self.handle(world, StartRequested())
        self.settle(State.READY)
        for world in self.worlds.values():
            self.handle(world, StopRequested(drain=True))
        self.settle(State.STOPPED)

    def settle(self, state: State) -> None:
        for _ in range(20):
            for world in self.worlds.values():
                if world.launching:
                    self.launch_succeeds(world)
                elif world.terminating:
                    self.server_ends(world)
                elif world.is_probed and world.lifecycle.state is not State.READY:
                    self.probe_succeeds(world)
                elif world.timer is not None:
                    self.timer_fires(world)
        assert {world.lifecycle.state for world in self.worlds.values()} == {state}


Fleet.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestFleet = Fleet.TestCase
