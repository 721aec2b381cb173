# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How much a CPU slows a GPU down is learnt from readings: never from noise alone, always where it is 10 %."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.interference import ALPHA, LEAST, InterferenceMeter, report
from syshaxd.core.placement.measured import Line, Slowdown
from syshaxd.core.placement.prediction import interference
from syshaxd.core.placement.steps import StepTime
from tests.fakes.specs import make_spec

PAIR = ("gpu", "cpu")
SPECS = {name: make_spec(name) for name in PAIR}
STEP = StepTime(Line(32, 0.01, 4.0, 0.0004, 0.0002, 50), Line(32, 0.5), spread=0.0002)
PROMPT = Line(500, 0.05, 10_000.0, 1.0, 0.001, 50)
KNOWN = Estimates(token_s={"gpu": STEP}, prefill_s={"gpu": PROMPT})
ASSUMED = 0.02


@dataclass(frozen=True)
class Noise:
    """Logarithms of ratios, as standard deviations."""

    slow: float = 0.05
    """Lasts for half a minute: equal runs of 10 s differ by so much."""
    fast: float = 0.03
    """Of single readings."""
    trend: float = 0.0
    """A second."""


def readings(seconds: int, slowdown: float, noise: Noise, seed: int) -> Iterator[Snapshot]:
    """What is read of a GPU whose batch varies, beside a CPU that computes now and then."""
    chance = random.Random(seed)
    drift, computes, left, batch = 0.0, False, 5, 32
    for second in range(1, seconds + 1):
        drift = 0.97 * drift + math.sqrt(1 - 0.97**2) * noise.slow * chance.gauss(0, 1)
        left -= 1
        changes = left <= 0
        if changes:
            computes, left = not computes, max(1, int(chance.expovariate(1 / 12)))
        batch = max(8, min(64, batch + chance.choice((-2, -1, 0, 0, 1, 2))))
        log = drift + noise.fast * chance.gauss(0, 1) + noise.trend * second
        token_s = STEP.at(batch, 0.5) * math.exp(log) * (1 + slowdown * computes)
        gpu = InstanceLoad(read_at_s=float(second), running=batch, token_s=token_s, kv_usage_ratio=0.5)
        rate = 10.0 if computes and not changes else 0.0
        cpu = InstanceLoad(read_at_s=float(second), running=int(computes or changes), generation_tokens_per_s=rate)
        yield Snapshot(instances={"gpu": gpu, "cpu": cpu})


def learnt(seconds: int, slowdown: float, noise: Noise = Noise(), seed: int = 0) -> Iterator[Slowdown]:
    """What is known after each comparison."""
    meter, count = InterferenceMeter(), 0
    for snapshot in readings(seconds, slowdown, noise, seed):
        meter.observe(snapshot, SPECS, KNOWN)
        found = meter.slowdowns.get(PAIR)
        if found is not None and found.comparisons > count:
            count = found.comparisons
            yield found


def counts_with(slowdown: Slowdown) -> float:
    """The share that placement counts with."""
    return interference(structs.replace(KNOWN, slowdowns={PAIR: slowdown}), *PAIR)


def test_noise_alone_throttles_in_no_more_runs_than_the_error_that_is_allowed() -> None:
    runs = 40
    wrong = sum(any(each.low > 0 for each in learnt(3600, 0.0, seed=seed)) for seed in range(runs))
    acting = sum(any(counts_with(each) > ASSUMED for each in learnt(3600, 0.0, seed=seed)) for seed in range(runs))
    assert wrong <= ALPHA * runs
    assert acting == 0, "it would have to exceed what is assumed, too"


@given(st.integers(0, 2**32), st.floats(0.0, 0.08), st.floats(0.0, 0.08))
@settings(max_examples=15, deadline=None)
def test_a_slow_down_by_a_tenth_is_found_whatever_the_noise(seed: int, slow: float, fast: float) -> None:
    found = list(learnt(7200, 0.1, Noise(slow, fast), seed))
    assert counts_with(found[-1]) == pytest.approx(0.1, abs=0.03)
    assert all(counts_with(each) == ASSUMED for each in found if each.comparisons < LEAST)


@given(st.integers(0, 2**32), st.floats(-0.0005, 0.0005))
@settings(max_examples=15, deadline=None)
def test_a_trend_is_no_slow_down(seed: int, trend: float) -> None:
    """A device that gets slower, or quicker, for an hour: by up to five times."""
    *_, last = learnt(3600, 0.0, Noise(0.0, 0.005, trend), seed)
    assert last.mean == pytest.approx(0.0, abs=0.005)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.sampled_from([16, 32])), max_size=60))
def test_comparisons_are_of_like_seconds_and_share_none(stays: list[tuple[bool, int, int]]) -> None:
    meter, second = InterferenceMeter(), 0
    for computes, seconds, batch in stays:
        for _ in range(seconds):
            second += 1
            token_s = STEP.at(batch, 0.5) * (1.2 if computes else 1.0)
            gpu = InstanceLoad(read_at_s=float(second), running=batch, token_s=token_s, kv_usage_ratio=0.5)
            cpu = InstanceLoad(
                read_at_s=float(second), running=int(computes), generation_tokens_per_s=9.0 if computes else 0.0
            )
            meter.observe(Snapshot(instances={"gpu": gpu, "cpu": cpu}), SPECS, KNOWN)
    found = meter.slowdowns.get(PAIR)
    if found is not None and found.comparisons:
        assert found.comparisons <= second // 6
        assert found.mean == pytest.approx(0.2)


def test_prompts_that_are_computed_meanwhile_are_no_slow_down() -> None:
    meter = InterferenceMeter()
    for second in range(1, 400):
        computes = second // 6 % 2 == 1
        prompts_per_s = 1200.0 if computes else 800.0
        token_s = STEP.at(32, 0.5) / (1 - prompts_per_s * PROMPT.slope)
        gpu = InstanceLoad(
            read_at_s=float(second), running=32, token_s=token_s, kv_usage_ratio=0.5, prompt_tokens_per_s=prompts_per_s
        )
        cpu = InstanceLoad(
            read_at_s=float(second), running=int(computes), generation_tokens_per_s=9.0 if computes else 0.0
        )
        meter.observe(Snapshot(instances={"gpu": gpu, "cpu": cpu}), SPECS, KNOWN)
    assert meter.slowdowns[PAIR].comparisons >= 20
    assert meter.slowdowns[PAIR].mean == pytest.approx(0.0, abs=1e-9)


def test_what_two_cpus_do_at_once_is_no_comparison() -> None:
    meter, specs = InterferenceMeter(), {**SPECS, "cpu-2": make_spec("cpu")}
    for second in range(1, 200):
        rate = 9.0 if second // 5 % 2 else 0.0
        cpu = InstanceLoad(read_at_s=float(second), running=int(rate > 0), generation_tokens_per_s=rate)
        gpu = InstanceLoad(read_at_s=float(second), running=32, token_s=0.01, kv_usage_ratio=0.5)
        meter.observe(Snapshot(instances={"gpu": gpu, "cpu": cpu, "cpu-2": cpu}), specs, KNOWN)
    assert not any(each.comparisons for each in meter.slowdowns.values())


@given(st.floats(-0.3, 0.6), st.floats(0.0, 0.3), st.floats(0.0, 0.3))
def test_what_was_seen_replaces_what_is_assumed_only_if_it_is_surely_more(
    mean: float, off: float, calibrated: float
) -> None:
    seen = Slowdown(mean=mean, low=mean - off, high=mean + off, comparisons=100)
    known = structs.replace(KNOWN, slowdowns={PAIR: seen}, interference={PAIR: calibrated})
    ratio = interference(known, *PAIR)
    assert ratio == (mean if mean - off > calibrated else calibrated)
    assert ratio >= calibrated
    (told,) = report(known)
    assert (told.ratio, told.is_learnt, told.seen) == (ratio, ratio != calibrated, mean)
