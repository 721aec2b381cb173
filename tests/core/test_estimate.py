# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.decision import Prediction
from syshaxd.core.placement.estimate import Estimates, observe_answer, observe_loads, predict_help

positive = st.floats(0.001, 10.0)


def seen(gpu_s: float, cpu_s: float, answer_tokens: float = 256.0) -> Estimates:
    return Estimates(per_token_s={"gpu": gpu_s, "cpu": cpu_s}, answer_tokens=answer_tokens)


def load(read_at_s: float, running: int, tokens_per_s: float, error: str = "") -> Snapshot:
    one = InstanceLoad(read_at_s=read_at_s, running=running, generation_tokens_per_s=tokens_per_s, error=error)
    return Snapshot(instances={"gpu": one})


def test_time_per_token_is_that_of_one_stream_of_the_batch() -> None:
    assert observe_loads(Estimates(), load(1.0, 32, 4894.0)).per_token_s["gpu"] == pytest.approx(32 / 4894)


def test_a_reading_counts_once_and_newer_ones_count_more() -> None:
    once = observe_loads(Estimates(), load(1.0, 1, 10.0))
    assert observe_loads(once, load(1.0, 1, 10.0)) == once
    twice = observe_loads(once, load(2.0, 1, 5.0))
    assert twice.per_token_s["gpu"] == pytest.approx(0.1 + 0.3 * 0.1)


@pytest.mark.parametrize("idle", [load(2.0, 0, 0.0), load(2.0, 3, 0.0), load(2.0, 0, 9.0), load(2.0, 1, 1.0, "gone")])
def test_an_instance_without_work_leaves_what_is_known_as_it_is(idle: Snapshot) -> None:
    known = observe_loads(Estimates(), load(1.0, 1, 10.0))
    assert observe_loads(known, idle).per_token_s == known.per_token_s
    assert observe_loads(Estimates(), idle).per_token_s == {}


def maybe_predicted(
    known: Estimates,
    *,
    prompt_tokens: int | None = None,
    max_tokens: int | None = None,
    ahead: int = 1,
    slots: int = 1,
    returns: bool = False,
) -> Prediction | None:
    return predict_help(
        known,
        gpu="gpu",
        cpu="cpu",
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        ahead=ahead,
        slots=slots,
        returns=returns,
    )


def predicted(known: Estimates, **more: Any) -> Prediction:
    found = maybe_predicted(known, **more)
    assert found is not None
    return found


def test_what_was_never_seen_at_work_is_not_predicted() -> None:
    for known in ({}, {"gpu": 0.01}, {"cpu": 0.01}):
        assert maybe_predicted(Estimates(per_token_s=known)) is None


def test_a_long_prompt_speaks_against_a_cpu_that_must_compute_it() -> None:
    known = Estimates(per_token_s={"gpu": 0.01, "cpu": 0.01})
    for instance, prompt_token_s in (("gpu", 0.0001), ("cpu", 0.005)):
        read = InstanceLoad(read_at_s=1.0, prompt_token_s=prompt_token_s)
        assert known.per_prompt_token_s.get(instance) is None
        known = observe_loads(known, Snapshot(instances={instance: read}))
    for prompt_tokens, worth_it in ((None, True), (100, True), (2000, False)):
        found = predicted(known, prompt_tokens=prompt_tokens, max_tokens=10, ahead=4, slots=8)
        assert (found.benefit_s > 0) is worth_it
    assert found.offload_s == pytest.approx(2000 * 0.005 + 10 * 0.01)
    assert found.wait_s == pytest.approx(4 * 256 * 0.01 / 8 + 2000 * 0.0001 + 10 * 0.01)


def test_a_fast_gpu_is_worth_a_wait_and_a_long_queue_is_not() -> None:
    """The figures of an 8-billion-parameter model on an H200 and on 12 cores."""
    estimates = seen(0.0065, 0.35)
    short = predicted(estimates, ahead=8, slots=32)
    assert short.offload_s == pytest.approx(0.1 + 256 * 0.35)
    assert short.wait_s == pytest.approx(8 * 256 * 0.0065 / 32 + 256 * 0.0065)
    assert short.benefit_s < -80
    assert predicted(estimates, max_tokens=20, ahead=1000, slots=32).benefit_s > 40


def test_what_can_go_on_at_the_gpu_is_worth_it_as_soon_as_the_cpu_has_made_what_the_move_costs() -> None:
    estimates = seen(0.0065, 0.35)
    # 800 answers at 32 slots: 41.6 s until its turn; the CPU makes 119 of 256 tokens till then, and one to let go with.
    found = predicted(estimates, ahead=800, slots=32, returns=True)
    assert found.offload_s == pytest.approx(41.6 + 0.35 + 0.1 + (256 - 41.5 / 0.35 - 1) * 0.0065)
    assert 0.0 < found.benefit_s < 0.5
    assert predicted(estimates, ahead=800, slots=32).benefit_s < -40
    assert predicted(estimates, ahead=400, slots=32, returns=True).benefit_s < 0
    assert predicted(estimates, ahead=4000, slots=32, returns=True).offload_s == pytest.approx(0.1 + 256 * 0.35)


@given(
    positive, positive, st.integers(1, 4000), st.integers(1, 500), st.integers(1, 64), st.floats(1, 4000), st.booleans()
)
def test_a_longer_queue_never_speaks_against_an_offload(
    gpu_s: float, cpu_s: float, max_tokens: int, ahead: int, slots: int, mean: float, returns: bool
) -> None:
    estimates = seen(gpu_s, cpu_s, mean)
    now = predicted(estimates, max_tokens=max_tokens, ahead=ahead, slots=slots, returns=returns)
    later = predicted(estimates, max_tokens=max_tokens, ahead=ahead + 1, slots=slots, returns=returns)
    assert later.wait_s > now.wait_s
    assert later.benefit_s >= now.benefit_s - 1e-9 * later.wait_s
    without = predicted(estimates, max_tokens=max_tokens, ahead=ahead, slots=slots)
    assert now.offload_s <= without.offload_s
    assert returns or later.offload_s == now.offload_s


@given(st.lists(st.integers(1, 4000), min_size=1))
def test_the_mean_length_stays_among_those_seen(lengths: list[int]) -> None:
    estimates = Estimates()
    for tokens in lengths:
        estimates = observe_answer(estimates, tokens)
    assert min(*lengths, 256) - 1e-6 <= estimates.answer_tokens <= max(*lengths, 256) + 1e-6
