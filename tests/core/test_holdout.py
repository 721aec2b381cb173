# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Holdout: the test of the CPU's help keeps its promise, and its verdict is obeyed."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.claims import Claim, Effect, Fleet, HelpSwitched
from syshaxd.core.placement.decision import InferenceRequest, Prediction
from syshaxd.core.placement.holdout import ALPHA, FIRST_PAUSE_S, LEAST, ROUND, Holdout, Round, report_trial
from syshaxd.core.placement.replay.profiles import PROFILES
from syshaxd.core.placement.replay.run import replay
from syshaxd.core.placement.replay.trace import TracedRequest
from syshaxd.core.placement.rules import Policy
from tests.fakes.admission import Client, Clients
from tests.fakes.specs import make_spec

EXPECTED = Prediction(offload_s=8.0, wait_s=10.0, others_s=0.5)
HELPED_FOR_EACH = 3
"""Requests helped for each that is held out, to be quick."""
GPU, CPU = replace(make_spec("gpu"), max_num_seqs=2), replace(make_spec("cpu"), max_num_seqs=4)


def experiment(times: Callable[[random.Random], float], gain_s: float, seed: int) -> Round:
    """A round, ended early if its interval excludes zero: looked at after every answer."""
    chance, done = random.Random(seed), Round()
    while not done.complete:
        done = done.add(EXPECTED, times(chance) + gain_s, held_out=True)
        for _ in range(HELPED_FOR_EACH):
            done = done.add(EXPECTED, times(chance) - EXPECTED.others_s, held_out=False)
        interval = done.interval
        if interval is not None and not interval.low <= 0 <= interval.high:
            return done
    return done


@pytest.mark.parametrize(
    "times",
    [
        lambda chance: chance.gauss(10.0, 3.0),
        lambda chance: chance.expovariate(0.1),
        lambda chance: chance.lognormvariate(2.0, 1.0),
        lambda chance: 1.0 if chance.random() < 0.9 else 60.0,
    ],
    ids=["normal", "exponential", "lognormal", "two values"],
)
def test_false_alarms_are_as_rare_as_promised_however_often_one_looks(times: Callable[[random.Random], float]) -> None:
    rounds = 200
    alarms = 0
    for seed in range(rounds):
        interval = experiment(times, 0.0, seed).interval
        assert interval is not None
        alarms += not interval.low <= 0 <= interval.high
    assert alarms / rounds <= ALPHA


def test_harm_is_found_and_gain_is_shown() -> None:
    harm = experiment(lambda chance: chance.gauss(10.0, 3.0), -2.0, 1)
    assert harm.fails
    assert harm.held_out.count < ROUND, "it is not waited for"
    gain = experiment(lambda chance: chance.gauss(10.0, 3.0), 2.0, 1)
    assert not gain.fails
    assert gain.interval is not None
    assert gain.interval.low > 0
    assert gain.gain_s == pytest.approx(2.0, abs=1.0)
    assert gain.predicted.mean == pytest.approx(1.5), "less what it takes from others"


def fill(holdout: Holdout, gain_s: float, now_s: float, count: int = 100_000) -> str | None:
    """Requests with that gain, until something happens."""
    chance, last = random.Random(5), holdout.last
    for _ in range(count):
        member = holdout.enroll(EXPECTED, now_s, 0.2)
        member.whole_s = chance.gauss(10.0, 1.0) + (gain_s if member.held_out else -EXPECTED.others_s)
        member.over = True
        if told := holdout.settle(now_s):
            return told
        if holdout.last is not last:
            return None
    return None


def test_help_that_does_harm_is_switched_off_and_tried_again_ever_more_seldom() -> None:
    holdout, now_s = Holdout(), 0.0
    for failures in range(4):
        told = fill(holdout, -3.0, now_s)
        assert told is not None
        assert "help gains -" in told
        assert holdout.is_off
        assert holdout.off_until_s == now_s + FIRST_PAUSE_S * 2**failures
        assert holdout.settle(holdout.off_until_s - 1.0) is None
        now_s = holdout.off_until_s
        assert holdout.settle(now_s) == "the CPU may help again: what that gains is measured again"
        assert not holdout.is_off
        assert holdout.round == Round()
    assert fill(holdout, 3.0, now_s) is None
    assert fill(holdout, -3.0, now_s)
    assert holdout.off_until_s == now_s + FIRST_PAUSE_S, "a round that was passed ends the doubling"
    assert report_trial(holdout, 0.05, to_unix_s=1e9).off_until_s == 1e9 + holdout.off_until_s
    assert report_trial(holdout, 0.05, to_unix_s=1e9).times_off == 5
    holdout.restart()
    assert not holdout.is_off


def test_help_must_prove_itself_but_few_answers_prove_nothing() -> None:
    holdout = Holdout()
    assert fill(holdout, 0.0, 0.0, count=LEAST * 4) is None
    assert not holdout.is_off, "too few answers switch nothing off"
    assert report_trial(holdout, 0.2, to_unix_s=0.0).text.startswith("too few answers yet: ")
    assert fill(holdout, 0.0, 0.0) is not None
    assert holdout.last is not None
    assert holdout.last.held_out.count == ROUND


def test_requests_count_in_the_order_in_which_they_were_chosen() -> None:
    holdout = Holdout()
    first, second, third = (holdout.enroll(EXPECTED, 0.0, 0.5) for _ in range(3))
    for member in (third, second):
        member.whole_s, member.over = 10.0, True
    holdout.settle(1.0)
    assert holdout.round == Round(), "the first has not ended"
    first.over = True  # its client is gone
    holdout.settle(2.0)
    assert holdout.round.held_out.count + holdout.round.helped.count == 2


# In admission.


class Bench(Clients):
    """Requests that come to a GPU that is full, and end as told."""

    def __init__(self, share: float) -> None:
        super().__init__((GPU, CPU), policy=Policy(name="turn", holdout=share))
        self.now_s = 0.0
        self.is_off = False

    @property
    def fleet(self) -> Fleet:
        loads = {
            "gpu": InstanceLoad(read_at_s=self.now_s + 1, running=2, waiting=1, token_s=1.0),
            "cpu": InstanceLoad(read_at_s=self.now_s + 1, running=1, token_s=0.01, prefill_s=0.01, prefill_tokens=9),
        }
        snapshot = Snapshot(taken_at_s=self.now_s, instances=loads)
        return Fleet(self.specs, self.ready, self.candidates, frozenset(), snapshot, self.now_s, self.now_s)

    def carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, HelpSwitched):
                self.is_off = not effect.on
            super().carry_out([effect])

    def on_grant(self, client: Client) -> None:
        if client.claim.request.pinned is None and client.held == ("cpu",):
            assert not self.is_off, "help is switched off"
            assert not client.claim.held_out

    def arrive(self, pinned: str | None = None) -> Client:
        return self.ask(
            Claim(InferenceRequest(request_id="r", model="m", stream=True, prompt_tokens=10, pinned=pinned))
        )

    def look(self) -> None:
        """New readings come, a second later."""
        self.now_s += 1.0
        self.read(self.fleet.snapshot)

    @property
    def running(self) -> list[Client]:
        return [client for client in self.clients if client.held]

    def answer(self, client: Client, whole_s: float) -> None:
        """Ends an answer; its time is as told, whatever the clock says."""
        if client.claim.member is not None:
            self.admission.observe_help(client.claim, client.claim.member.since_s + whole_s)
        self.end(client)


def test_one_that_is_held_out_waits_and_is_told_why_while_others_are_helped() -> None:
    bench = Bench(share=1.0)
    bench.look()
    held = bench.arrive()
    while not held.claim.held_out:
        held = bench.arrive()
    assert not any("cpu" in client.held for client in bench.clients)
    assert "held out" in bench.decided[-1].decision.reasons[-1]  # type: ignore[union-attr]
    assert bench.arrive(pinned="cpu").held == ("cpu",), "its client insists on it"
    bench.admission.set_policy(Policy(name="turn"))
    assert bench.arrive().held == ("cpu",)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.floats(0, 60)), max_size=200), st.booleans())
def test_no_cpu_helps_while_help_is_switched_off(steps: list[tuple[int, int, float]], harmful: bool) -> None:
    bench = Bench(share=0.3)
    bench.look()
    chance = random.Random(1)
    for _ in range(2000 if harmful else 0):  # enough to come to a verdict
        bench.arrive()
        while len(bench.running) > 4:
            client = chance.choice(bench.running)
            bench.answer(client, chance.gauss(5.0 if client.claim.held_out else 50.0, 1.0))
        if bench.is_off:
            break
        bench.look()
    assert bench.is_off is harmful
    for kind, number, value in steps:
        if kind == 0:
            bench.arrive("cpu" if number == 0 else None)
        elif kind == 1 and bench.running:
            bench.answer(bench.running[number % len(bench.running)], value)
        elif kind == 2:
            bench.look()
        else:
            bench.now_s += value
    if bench.is_off:
        bench.now_s += 2 * FIRST_PAUSE_S
        bench.look()
        assert not bench.is_off, "it is tried again"


def test_replay_holds_requests_out_too() -> None:
    chance = random.Random(3)
    requests = [
        TracedRequest(number * 0.3, chance.randrange(50, 800), chance.randrange(20, 300)) for number in range(400)
    ]
    done = replay(PROFILES["cpu-3x"], Policy(holdout=0.3), requests)
    assert done.holdout.all_held_out > 5
    assert done.holdout.round.held_out.count > 5
    assert all(outcome.end_s >= outcome.traced.at_s for outcome in done.outcomes)
    assert replay(PROFILES["cpu-3x"], Policy(), requests).holdout.all_held_out == 0
