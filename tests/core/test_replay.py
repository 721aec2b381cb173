# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Replay: the device against the simulated engine's steps, and that `cost` loses nothing where `turn` did."""

import random
from dataclasses import asdict, replace
from statistics import fmean
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshax_sim.engine import Engine, Generation
from syshax_sim.profile import Profile as SimProfile
from syshaxd.core.placement.calibration import RunResult
from syshaxd.core.placement.replay.calibrated import calibrated, calibration
from syshaxd.core.placement.replay.compare import Comparison, compare
from syshaxd.core.placement.replay.device import Device, Job
from syshaxd.core.placement.replay.plot import draw
from syshaxd.core.placement.replay.profiles import PROFILES, DeviceProfile
from syshaxd.core.placement.replay.run import Replayed, replay
from syshaxd.core.placement.replay.trace import TracedRequest, at_rate, fit, parse, section, with_batch
from syshaxd.core.placement.rules import RULES, Policy
from tests.fakes.specs import make_spec

SMALL = DeviceProfile(
    prefill_tokens_per_s=1000,
    step_base_s=0.01,
    step_per_request_s=0.001,
    max_num_seqs=3,
    max_batched_tokens=64,
    kv_tokens=300,
)


def by_steps(jobs: list[tuple[int, int]]) -> tuple[list[float], int]:
    """When the simulated engine, which makes every step, completes each answer."""
    engine = Engine(SimProfile(**{**asdict(SMALL), "max_model_len": 300}))
    ends = [0.0] * len(jobs)
    now_s = 0.0

    def on_token(generation: Generation) -> None:
        if generation.finished:
            ends[generations.index(generation)] = now_s

    generations = [Generation(prompt, answer, on_token) for prompt, answer in jobs]
    for generation in generations:
        engine.add(generation)
    while engine.running or engine.waiting:
        now_s += engine.begin_step()
        engine.counters.busy_s = now_s
        engine.end_step()
    return ends, engine.counters.preemptions


def by_events(jobs: list[tuple[int, int]]) -> tuple[list[float], int]:
    device = Device(SMALL)
    ends = [0.0] * len(jobs)
    for number, (prompt, answer) in enumerate(jobs):
        device.waiting.append(Job(number, prompt, prompt, answer))
    device.progress(0.0)
    while device.running:
        now_s = device.next_s
        for job in device.progress(now_s).finished:
            assert isinstance(job.owner, int)
            ends[job.owner] = now_s
    assert device.kv_used == 0
    return ends, device.preemptions


@given(st.lists(st.tuples(st.integers(1, 120), st.integers(1, 60)), min_size=1, max_size=8))
def test_a_device_takes_the_time_of_an_engine_that_makes_each_step(jobs: list[tuple[int, int]]) -> None:
    (expected, preempted), (got, also_preempted) = by_steps(jobs), by_events(jobs)
    if not preempted and not also_preempted:
        assert got == pytest.approx(expected)
    else:  # the one preempts at the end of a step, the other before the next
        assert max(got) == pytest.approx(max(expected), rel=0.15, abs=0.15)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=6), st.floats(0.0, 1.0))
def test_a_device_that_is_slowed_makes_fewer_steps(changes: list[tuple[float, bool]], share: float) -> None:
    """An answer takes the longer, by the share, the longer the other device computes, but for the step under way."""
    device = Device(SMALL)
    device.add(Job("o", 10, 10, 100), 0.0)
    slowed_s = since_s = 0.0
    slowed = False
    events = sorted(changes)
    while device.running:
        if events and events[0][0] <= device.next_s:
            at_s, on = events.pop(0)
            slowed_s += slowed * (at_s - since_s)
            since_s, slowed = at_s, on
            device.slow(share if on else 0.0, at_s)
        else:
            now_s = device.next_s
            if device.progress(now_s).finished:
                slowed_s += slowed * (now_s - since_s)
                alone_s = 0.011 * 100 + 10 / 1000
                expected_s = alone_s + slowed_s * share / (1 + share)
                assert now_s == pytest.approx(expected_s, abs=0.022 * share * (1 + len(changes)) + 1e-9)


def test_a_calibration_of_a_profile_finds_its_interference() -> None:
    base = replace(PROFILES["cpu-3x"], gpu_interference=0.2, cpu_interference=0.1)
    gpu = replace(make_spec("gpu"), max_num_seqs=8)
    found = calibrated(base, list(calibration((gpu, replace(make_spec("cpu"), max_num_seqs=8)), base)))
    assert (found.gpu_interference, found.cpu_interference) == pytest.approx((0.2, 0.1))
    assert asdict(found.gpu) == pytest.approx(asdict(base.gpu))


def test_the_cpu_s_work_slows_the_gpu() -> None:
    """As on a real host: a request that the CPU serves costs the GPU's streams a share of their pace."""
    requests = [TracedRequest(0.0, 10, 500)] * 3  # the CPU takes two, the GPU computes the third alone
    small = replace(SMALL, max_num_seqs=1, kv_tokens=2000)
    profile = replace(PROFILES["cpu-3x"], gpu=small, cpu=small)
    policy = Policy(name="upstream-threshold", gpu_cache_threshold=-1.0)
    token_s = []
    for share in (0.0, 0.5):
        outcomes = replay(replace(profile, gpu_interference=share), policy, requests).outcomes
        assert [one.places[-1] for one in outcomes] == ["cpu", "cpu", "gpu"]
        token_s.append(outcomes[-1].token_s)
    assert token_s[1] == pytest.approx(1.5 * token_s[0], rel=0.05)


def test_a_turn_that_comes_while_the_gpu_computes_the_prompt_of_an_offload_is_kept() -> None:
    """The CPU is measured by it, at five seconds a token; the answer returns to the GPU with the first of them.

    Without its turn it would wait until the GPU has nothing else to do.
    """
    gpu = replace(SMALL, max_num_seqs=2, kv_tokens=6000)
    profile = replace(PROFILES["cpu-3x"], gpu=gpu, cpu=replace(gpu, step_base_s=5.0))
    sizes = [(0.0, 10, 80), (0.0, 10, 82), (0.5, 500, 100), (1.3, 10, 4000)]
    helped = replay(profile, Policy(name="cost"), [TracedRequest(*size) for size in sizes]).outcomes[2]
    assert helped.places == ("gpu", "cpu")
    assert [handover.target for handover in helped.handovers] == ["cpu", "gpu"]
    assert helped.whole_s < 15


def poisson(rate: float, seconds: float, seed: int) -> list[TracedRequest]:
    """Lengths as in conversations: half of the prompts under 1,000 tokens, half of the answers under 130."""
    chance = random.Random(seed)
    times, now_s = [], 0.0
    while (now_s := now_s + chance.expovariate(rate)) < seconds:
        times.append(now_s)
    sizes = [(int(chance.lognormvariate(6.9, 0.6)), int(chance.lognormvariate(4.85, 0.9))) for _ in times]
    return [
        TracedRequest(at_s, max(8, min(prompt, 2000)), max(2, min(answer, 600)))
        for at_s, (prompt, answer) in zip(times, sizes, strict=True)
    ]


def whole_s(replayed: Replayed) -> float:
    return fmean(outcome.whole_s for outcome in replayed.outcomes)


def run(profile: str, policy: str, requests: list[TracedRequest]) -> Replayed:
    return replay(PROFILES[profile], Policy(name=policy), requests)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("rate", "chance"), [(9, 0.0), (10, 0.0), (14, 0.025)])
def test_the_loss_of_the_former_rules_is_gone(rate: float, chance: float, seed: int) -> None:
    """An 8B model on a GPU with scarce KV cache and a CPU that is fifty times slower a token.

    What is left without a calibration comes from the one or two requests that measure the CPU. If requests arrive up to
    10 ms later, whole answers of the GPU alone take up to 3 % more or less at 14 requests/s.
    """
    requests = poisson(rate, 40, seed)
    alone, cost = (run("h200-scarce-kv", policy, requests) for policy in ("gpu-only", "cost"))
    calibrated_ = replay(PROFILES["h200-scarce-kv"], Policy(name="cost"), requests, calibrated=True)
    assert whole_s(calibrated_) < 1.015 * whole_s(alone)
    assert whole_s(cost) < (1.015 + chance) * whole_s(alone)
    helped = sum(len(outcome.places) > 1 for outcome in cost.outcomes)
    assert helped <= 0.01 * len(requests), "the right thing is nearly nothing"


@pytest.mark.parametrize("rate", [10, 14])
def test_the_former_rules_lose(rate: float) -> None:
    requests = poisson(rate, 40, 3)
    alone, turn = (run("h200-scarce-kv", policy, requests) for policy in ("gpu-only", "turn"))
    assert whole_s(turn) > 1.05 * whole_s(alone)


def test_a_cpu_that_is_nearly_as_quick_helps_in_overload() -> None:
    """A third as quick; its work takes 2.5 % of the GPU's time, so that both make at most 1.3 times as much."""
    sums = dict.fromkeys(("gpu-only", "cost", "turn"), 0)
    for seed in (1, 2, 3):
        done = {policy: run("cpu-3x", policy, poisson(2.5, 200, seed)) for policy in sums}
        sums = {policy: made + done[policy].tokens for policy, made in sums.items()}
        assert whole_s(done["cost"]) < 0.75 * whole_s(done["gpu-only"])
    assert sums["cost"] > 1.12 * sums["gpu-only"]
    assert sums["cost"] > 0.91 * sums["turn"], "a little less, as it takes no more from the GPU than it gives"


@given(
    st.sampled_from(sorted(RULES)),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 250), st.integers(1, 40)), min_size=1, max_size=25),
)
def test_every_answer_is_made_whole_whatever_the_policy(policy: str, sizes: list[tuple[float, int, int]]) -> None:
    """None is starved, and each has its slots to the end."""
    profile = replace(PROFILES["cpu-3x"], gpu=SMALL, cpu=replace(SMALL, step_base_s=0.02))
    small = replace(profile, handover=replace(profile.handover, token_bytes=1000, arena_bytes=250_000))
    requests = [TracedRequest(*sizes) for sizes in sorted(sizes)]
    for outcome in replay(small, Policy(name=policy), requests).outcomes:
        assert outcome.traced.at_s <= outcome.first_s <= outcome.end_s
        assert outcome.places


def test_traces_of_three_kinds() -> None:
    azure = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
    )
    mooncake = (
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
        '{"timestamp": 30535, "input_length": 0, "output_length": 0}\n'
    )
    assert parse(azure) == [TracedRequest(0.0, 4808, 10), TracedRequest(pytest.approx(0.052), 3180, 8)]
    assert parse(mooncake) == [TracedRequest(0.0, 6955, 52), TracedRequest(pytest.approx(3.053), 1, 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "line 2"),
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,1\n", "line 2.*GeneratedTokens"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n{"timestamp": 1}\n', "line 2.*input_length"),
        ('{"timestamp": 1, "input_length": -2, "output_length": 3}\n', "line 1.*negative"),
        ("{nonsense\n", "line 1"),
    ],
)
def test_a_trace_that_cannot_be_read_says_where(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(text)


def test_a_trace_is_cut_and_sped_up() -> None:
    requests = [TracedRequest(float(number), 1000, 500) for number in range(100)]
    part = section(requests, 10, seed=4)
    assert [request.at_s for request in part] == list(range(10))
    assert section(requests, 1000, seed=4) == requests
    assert fit(part, 600)[0] == TracedRequest(0.0, 300, 300)
    assert at_rate(part, 5.0)[-1].at_s == pytest.approx(2.0)
    assert at_rate([TracedRequest(0.0, 1, 1)] * 2, 5.0)[-1].at_s == 0.2


def test_a_comparison_tells_means_the_ideal_and_what_is_chance() -> None:
    what = Comparison(
        profile=PROFILES["cpu-3x"], policies=("gpu-only", "cost"), loads=(0.5, 3.0), requests=60, seeds=(1, 2)
    )
    rows = list(compare(poisson(5, 40, 1), what))
    assert [(row.load, row.policy) for row in rows] == [
        (0.5, "gpu-only"),
        (0.5, "cost"),
        (3.0, "gpu-only"),
        (3.0, "cost"),
    ]
    assert rows[0].tokens_per_s <= 1.1 * rows[0].ideal_tokens_per_s
    assert rows[2].worst_goodput == rows[2].worst_whole_p99 == 1.0, "it is compared with itself"
    assert rows[2].noise_whole_p99 > 0
    assert 0 < rows[3].helped < 1
    picture = draw(rows)
    assert picture.count("<polyline") == 2 * 3
    ElementTree.fromstring(picture)


def test_a_calibration_gives_a_profile_its_paces() -> None:
    def ran(name: str, batch: int, prompt: int, first_s: float, token_s: float, beside: str = "") -> RunResult:
        return RunResult(
            instance=name, batch=batch, prompt_tokens=prompt, beside=beside, first_s=first_s, token_s=token_s
        )

    results = [
        ran("gpu", 1, 32, 0.05, 0.021),
        ran("gpu", 1, 1032, 0.55, 0.021),
        ran("gpu", 4, 32, 0.2, 0.024),
        ran("gpu", 4, 32, 9.9, 9.9, beside="cpu"),
        ran("cpu", 1, 32, 0.5, 0.1),
    ]
    base = PROFILES["cpu-3x"]
    profile = calibrated(base, results)
    assert (profile.gpu.step_base_s, profile.gpu.step_per_request_s) == pytest.approx((0.02, 0.001))
    assert profile.gpu.prefill_tokens_per_s == pytest.approx(2000)
    assert profile.cpu == replace(base.cpu, step_base_s=0.1, step_per_request_s=0.0)
    assert calibrated(base, []) == replace(base, derivation="calibrated")


def test_interactive_requests_hardly_notice_batch_requests_and_all_are_answered() -> None:
    requests = poisson(2.5, 100, 1)
    mixed = with_batch(requests, 0.5, seed=1)
    outcomes = run("cpu-3x", "cost", mixed).outcomes
    interactive = [outcome.whole_s for outcome in outcomes if not outcome.traced.is_batch]
    batch = [outcome.whole_s for outcome in outcomes if outcome.traced.is_batch]
    assert len(interactive) + len(batch) == len(requests)
    alone = whole_s(run("cpu-3x", "cost", [one for one in mixed if not one.is_batch]))
    assert fmean(interactive) < 1.5 * alone
    assert fmean(interactive) < 0.6 * fmean(batch)
    assert fmean(interactive) < 0.7 * whole_s(run("cpu-3x", "cost", requests))
