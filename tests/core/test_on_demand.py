# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which on-demand models are started and stopped: examples, and a state machine against a world of instances."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syshaxd.core.lifecycle.on_demand import OnDemand
from syshaxd.core.lifecycle.on_demand_models import (
    Cause,
    OnDemandModel,
    OnDemandPlan,
    Phase,
    RefuseWaiting,
    Seen,
    StartModel,
    StopModel,
    phase_of,
)
from syshaxd.core.types import State


def model(name: str, gpu: float = 1.0, **changes: float | None) -> OnDemandModel:
    return OnDemandModel(name=name, instances=(name,), needs={"GPU 0": gpu}, **changes)  # type: ignore[arg-type]


class World:
    """Models that do what the rule says, when the test lets them."""

    def __init__(self, *models: OnDemandModel) -> None:
        self.models = {each.name: each for each in models}
        self.rule = OnDemand(OnDemandPlan(models=models, capacity={"GPU 0": 1.0}))
        self.now_s = 1000.0
        self.phases = dict.fromkeys(self.models, Phase.DOWN)
        self.launches = Counter[str]()
        self.queued = Counter[str]()
        self.inflight = Counter[str]()
        self.starts = Counter[str]()
        self.stops = Counter[tuple[str, Cause]]()
        self.refusals: list[RefuseWaiting] = []
        self.stopped: set[str] = set()
        self.posted: list[StartModel | StopModel] = []
        """What the supervisor has been told and does not show yet."""

    def step(self) -> None:
        for _ in range(2):
            effects = self.rule.step({name: self.see(name) for name in self.models}, self.now_s)
            for effect in effects:
                if isinstance(effect, RefuseWaiting):
                    self.refusals.append(effect)
                    self.queued[effect.model] = 0
                    continue
                if isinstance(effect, StartModel):
                    assert self.phases[effect.model] in {Phase.DOWN, Phase.FAILED}, "started twice"
                    self.starts[effect.model] += 1
                else:
                    assert not self.inflight[effect.model], "a busy one was stopped"
                    if effect.cause is Cause.IDLE:
                        assert not self.queued[effect.model]
                    self.stops[effect.model, effect.cause] += 1
                assert all(each.model != effect.model for each in self.posted), "told twice"
                self.posted.append(effect)
            self.admit()

    def see(self, name: str) -> Seen:
        return Seen(
            phase=self.phases[name],
            launches=self.launches[name],
            queued=self.queued[name],
            inflight=self.inflight[name],
            available=name not in self.stopped,
            reason="it broke",
        )

    def admit(self) -> None:
        """Requests that wait for a model that is up run, unless it gets none."""
        for name, phase in self.phases.items():
            if phase is Phase.UP and name not in self.rule.held:
                self.inflight[name] += self.queued[name]
                self.queued[name] = 0

    def settle(self) -> None:
        """The supervisor does what it was told."""
        for effect in self.posted:
            if isinstance(effect, StartModel):
                self.phases[effect.model] = Phase.STARTING
                self.launches[effect.model] += 1
            else:
                self.phases[effect.model] = Phase.ENDING
        self.posted.clear()
        self.step()

    def become(self, name: str, phase: Phase) -> None:
        self.settle()
        self.phases[name] = phase
        self.admit()
        self.step()

    def bring_up(self, name: str) -> None:
        self.request(name)
        self.become(name, Phase.UP)

    def request(self, name: str, count: int = 1) -> None:
        self.queued[name] += count
        self.admit()
        self.step()

    def answer(self, name: str) -> None:
        self.inflight[name] = 0
        self.step()

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.step()

    def taken(self) -> float:
        holding = {Phase.STARTING, Phase.UP, Phase.ENDING, Phase.RETRYING}
        told = {effect.model for effect in self.posted if isinstance(effect, StartModel)}
        return sum(
            each.needs["GPU 0"] for name, each in self.models.items() if self.phases[name] in holding or name in told
        )


def test_the_first_request_starts_a_model_and_further_ones_wait() -> None:
    world = World(model("a"))
    world.request("a")
    world.request("a", 2)
    assert world.starts == {"a": 1}
    world.settle()
    assert world.rule.explain("a") == "starting for 3 requests"
    world.become("a", Phase.UP)
    assert world.inflight["a"] == 3
    assert world.starts == {"a": 1}


def test_what_waits_is_told_whose_room_it_waits_for() -> None:
    world = World(model("a"), model("b"), OnDemandModel(name="idle", instances=("idle",)))
    world.bring_up("idle")
    world.request("a")
    world.request("b")
    for phase in (Phase.STARTING, Phase.UP):
        world.become("a", phase)
        assert world.rule.explain("b") == "waits for room for 1 request: that of a must come free"


def test_a_model_is_stopped_after_its_time_without_a_request() -> None:
    world = World(model("a", idle_ttl_s=10.0))
    world.bring_up("a")
    world.wait(100.0)
    assert not world.stops, "it answers"
    world.answer("a")
    assert world.rule.wake_at_s == world.now_s + 10.0
    world.wait(9.9)
    assert not world.stops
    world.wait(0.1)
    assert world.stops == {("a", Cause.IDLE): 1}
    assert world.rule.held == {"a"}, "no request goes to what is about to stop"
    world.become("a", Phase.DOWN)
    world.request("a")
    assert world.starts == {"a": 2}


def test_without_a_time_it_stays_up() -> None:
    world = World(model("a", idle_ttl_s=None))
    world.bring_up("a")
    world.answer("a")
    world.wait(1e9)
    assert not world.stops


def test_models_that_fit_run_side_by_side() -> None:
    world = World(model("a", 0.5), model("b", 0.5))
    world.request("a")
    world.request("b")
    assert world.starts == {"a": 1, "b": 1}


def test_the_longest_idle_model_makes_room_once_it_was_up_for_its_time() -> None:
    world = World(model("a", 0.5), model("b", 0.5), model("c", 0.5))
    world.bring_up("a")
    world.bring_up("b")
    world.answer("b")
    world.wait(1.0)
    world.answer("a")
    world.request("c")
    assert not world.stops
    assert world.rule.explain("c") == "waits for room for 1 request: that of a, b must come free"
    world.wait(59.0)
    assert world.stops == {("b", Cause.ROOM): 1}
    world.become("b", Phase.ENDING)
    assert not world.starts["c"], "its room is not free yet"
    world.become("b", Phase.DOWN)
    assert world.starts["c"] == 1


def test_a_model_under_constant_load_yields() -> None:
    world = World(model("a"), model("b"))
    world.bring_up("a")
    world.request("b")
    for _ in range(59):
        world.request("a")
        world.wait(1.0)
    assert world.inflight["a"] == 60
    world.wait(1.0)
    assert world.rule.held == {"a"}
    world.request("a")
    assert world.queued["a"] == 1, "it gets no new requests"
    assert not world.stops, "those that run end well"
    world.answer("a")
    assert world.stops == {("a", Cause.ROOM): 1}
    world.become("a", Phase.DOWN)
    assert world.starts == {"a": 1, "b": 1}, "b has waited longer"
    world.become("b", Phase.UP)
    assert world.rule.held == set(), "b has its time, too"
    world.wait(60.0)
    world.answer("b")
    world.become("b", Phase.DOWN)
    assert world.starts["a"] == 2


def test_a_model_is_no_longer_held_when_nobody_waits_for_its_room() -> None:
    world = World(model("a"), model("b"))
    world.bring_up("a")
    world.wait(60.0)
    world.request("b")
    assert world.rule.held == {"a"}
    world.queued["b"] = 0
    world.step()
    assert world.rule.held == set()
    assert not world.stops


def test_room_that_the_first_waits_for_is_not_given_to_others() -> None:
    world = World(model("a", 0.6), model("large", 1.0), model("small", 0.4))
    world.bring_up("a")
    world.request("large")
    world.request("small")
    assert world.starts == {"a": 1}


def test_what_waits_for_a_failed_start_is_refused_with_a_growing_pause() -> None:
    world = World(model("a"))
    world.request("a")
    world.become("a", Phase.FAILED)
    assert world.refusals == [RefuseWaiting("a", "the model a could not be started: it broke", 1.0)]
    world.request("a")
    assert len(world.refusals) == 2, "at once"
    world.wait(1.0)
    world.request("a")
    assert world.starts == {"a": 2}
    world.become("a", Phase.FAILED)
    assert world.refusals[-1].retry_after_s == 2.0


def test_an_operators_stop_wins() -> None:
    world = World(model("a"))
    world.stopped.add("a")
    world.request("a")
    assert not world.starts
    assert world.refusals[0].text == "the model a was stopped by an operator"


def test_a_model_that_never_fits_is_refused() -> None:
    world = World(model("a", 1.5))
    world.request("a")
    assert world.refusals[0].text == "the model a can't be started: it needs 1.5 GPU 0, of 1"


def test_a_start_that_nobody_waits_for_any_more_makes_room() -> None:
    world = World(model("a"), model("b"))
    world.request("a")
    world.settle()
    world.queued["a"] = 0
    world.request("b")
    assert world.stops == {("a", Cause.ROOM): 1}


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ((), Phase.DOWN),
        (((State.READY, True), (State.FAILED, True)), Phase.UP),
        (((State.STOPPED, True),), Phase.STARTING),
        (((State.STOPPED, False), (State.DRAINING, False)), Phase.ENDING),
        (((State.BACKOFF, True), (State.STOPPED, False)), Phase.RETRYING),
    ],
)
def test_the_phase_of_several_instances(states: tuple[tuple[State, bool], ...], phase: Phase) -> None:
    assert phase_of(states) is phase


_NAMES = ("a", "b", "c", "d")
_LONGEST_ANSWER_S = 20.0
_LONGEST_START_S = 30.0


class Contention(RuleBasedStateMachine):
    """Any requests for four models that do not all fit. Each step takes time; answers and starts end in theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            model("a", 1.0, min_up_s=20.0, idle_ttl_s=100.0),
            model("b", 0.6, min_up_s=10.0),
            model("c", 0.5, min_up_s=0.5, idle_ttl_s=None),
            model("d", 0.4, min_up_s=20.0, idle_ttl_s=5.0),
        )
        self.since_s: dict[str, float] = {}
        self.entered_s = dict.fromkeys(_NAMES, 0.0)
        self.busy_since_s = dict.fromkeys(_NAMES, 0.0)

    def _advance(self, seconds: float) -> None:
        """Time passes in small steps, in which what takes its longest ends."""
        until_s = self.world.now_s + seconds
        while self.world.now_s < until_s:
            self.world.wait(min(1.0, until_s - self.world.now_s))
            for name in _NAMES:
                age_s = self.world.now_s - self.entered_s[name]
                if self.world.phases[name] is Phase.STARTING and age_s >= _LONGEST_START_S:
                    self._become(name, Phase.UP)
                if self.world.phases[name] is Phase.ENDING and age_s >= 1.0:
                    self._become(name, Phase.DOWN)
                if self.world.inflight[name] and self.world.now_s - self.busy_since_s[name] >= _LONGEST_ANSWER_S:
                    self.answer(name)
            self._settle()
            self._watch()

    def _settle(self) -> None:
        before = dict(self.world.phases)
        self.world.settle()
        for name in _NAMES:
            if self.world.phases[name] is not before[name]:
                self.entered_s[name] = self.world.now_s

    def _become(self, name: str, phase: Phase) -> None:
        self._settle()
        self.entered_s[name] = self.world.now_s
        if phase is Phase.UP:
            self.busy_since_s[name] = self.world.now_s
        self.world.become(name, phase)

    def _watch(self) -> None:
        for name in _NAMES:
            if self.world.queued[name]:
                self.since_s.setdefault(name, self.world.now_s)
            else:
                self.since_s.pop(name, None)

    @rule(name=st.sampled_from(_NAMES), count=st.integers(1, 3))
    def request(self, name: str, count: int) -> None:
        if not self.world.inflight[name]:
            self.busy_since_s[name] = self.world.now_s
        self.world.request(name, count)
        self._watch()

    @rule(name=st.sampled_from(_NAMES))
    def answer(self, name: str) -> None:
        self.world.answer(name)
        self.busy_since_s[name] = self.world.now_s

    @rule(name=st.sampled_from(_NAMES))
    def give_up(self, name: str) -> None:
        self.world.queued[name] = 0
        self.world.step()
        self._watch()

    @rule(seconds=st.floats(0.1, 40.0))
    def pass_time(self, seconds: float) -> None:
        self._advance(seconds)

    @rule(name=st.sampled_from(_NAMES), phase=st.sampled_from((Phase.UP, Phase.FAILED, Phase.RETRYING)))
    def start_ends(self, name: str, phase: Phase) -> None:
        self._settle()
        if self.world.phases[name] is Phase.STARTING:
            self._become(name, phase)

    @rule(name=st.sampled_from(_NAMES))
    @precondition(lambda self: Phase.RETRYING in self.world.phases.values())
    def try_again(self, name: str) -> None:
        self._settle()
        if self.world.phases[name] is Phase.RETRYING:
            self.world.launches[name] += 1
            self._become(name, Phase.STARTING)

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        assert self.world.taken() <= 1.0 + 1e-6

    @invariant()
    def nobody_starves(self) -> None:
        """Each of the others has its time, its longest answer, its end and its start before."""
        longest_s = len(_NAMES) * (20.0 + _LONGEST_ANSWER_S + _LONGEST_START_S + 10.0)
        for name, since_s in self.since_s.items():
            assert self.world.now_s - since_s <= longest_s, name


TestContention = Contention.TestCase
TestContention.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
