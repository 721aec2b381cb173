# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Circuit breakers and the budget for retries."""

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.placement.breaker import WINDOW_S, Breaker, may_open
from syshaxd.core.placement.retry_budget import REFILL_S, RetryBudget

NAMES = st.sampled_from(("gpu", "cpu", "npu"))
MODELS = st.frozensets(st.sampled_from(("a", "b")), min_size=1)


def test_a_breaker_opens_after_so_many_failures() -> None:
    breaker = Breaker(3)
    assert [breaker.failed(now_s) for now_s in (0.0, 1.0, 2.0)] == [False, False, True]
    breaker.open("status 500", 2.0)
    assert breaker.is_open
    assert breaker.reason == "3 of 3 requests failed lately: status 500"
    assert breaker.probe_at_s == 4.0


def test_failures_among_more_successes_do_not_open_it() -> None:
    breaker = Breaker(3)
    for _ in range(10):
        assert not breaker.failed(1.0)
        breaker.succeeded()
        breaker.succeeded()


def test_old_failures_do_not_count() -> None:
    breaker = Breaker(2)
    assert not breaker.failed(0.0)
    assert not breaker.failed(WINDOW_S + 1)
    assert breaker.failed(WINDOW_S + 2)


def test_probes_have_a_back_off_that_outlives_a_short_recovery() -> None:
    breaker = Breaker(1)
    assert breaker.failed(0.0)
    breaker.open("x", 0.0)
    breaker.probe_failed("no token", 2.0)
    assert breaker.probe_at_s == 6.0
    assert "no token" in breaker.reason
    breaker.close(6.0)
    assert not breaker.is_open
    assert breaker.failed(7.0)
    breaker.open("x", 7.0)
    assert breaker.probe_at_s == 15.0, "the third pause"
    breaker.close(15.0)
    assert breaker.failed(500.0)
    breaker.open("x", 500.0)
    assert breaker.probe_at_s == 502.0, "forgotten"


@given(failures=st.integers(1, 5), events=st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=60))
def test_a_breaker_never_opens_without_enough_failures_that_are_half_of_all(
    failures: int, events: list[tuple[bool, float]]
) -> None:
    breaker, now_s = Breaker(failures), 0.0
    failed_at: list[float] = []
    for ok, pause_s in events:
        now_s += pause_s
        if ok:
            breaker.succeeded()
        else:
            failed_at.append(now_s)
            if breaker.failed(now_s):
                assert len([at_s for at_s in failed_at if now_s - at_s <= WINDOW_S]) >= failures
                breaker.open("x", now_s)
                assert breaker.probe_at_s > now_s
                breaker.close(now_s)


@given(failures=st.integers(0, 0), count=st.integers(0, 50))
def test_zero_failures_never_open_it(failures: int, count: int) -> None:
    breaker = Breaker(failures)
    assert not any(breaker.failed(1.0) for _ in range(count))


@given(models=st.dictionaries(NAMES, MODELS, min_size=1), is_open=st.sets(NAMES))
def test_opening_leaves_each_model_an_instance(models: dict[str, frozenset[str]], is_open: set[str]) -> None:
    closed = {name for name in models if name not in is_open}
    for name in closed:
        if may_open(name, models, is_open):
            rest = set().union(*(models[other] for other in closed - {name}))
            assert models[name] <= rest


def test_the_only_instance_stays() -> None:
    assert not may_open("gpu", {"gpu": frozenset({"m"})}, set())
    assert not may_open("gpu", {"gpu": frozenset({"m"}), "cpu": frozenset({"m"})}, {"cpu"})
    assert not may_open("gpu", {"gpu": frozenset({"m"}), "cpu": frozenset({"other"})}, set())
    assert may_open("gpu", {"gpu": frozenset({"m"}), "cpu": frozenset({"m"})}, set())


def test_all_requests_of_an_instance_that_ends_may_be_tried_elsewhere() -> None:
    budget = RetryBudget(0.2)
    assert all(budget.spend(100, 0.0) for _ in range(100))
    assert not budget.spend(100, 0.0)
    for _ in range(5):
        budget.earn()
    assert budget.spend(100, 0.0)
    assert not budget.spend(100, 0.0)
    assert budget.spend(100, 0.7)
    assert all(budget.spend(100, 0.7 + REFILL_S) for _ in range(100)), "full again after a minute"


@given(
    ratio=st.floats(0, 1),
    reserve=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40), st.floats(0, 5)), max_size=30),
)
def test_retries_never_exceed_reserve_refill_and_share(
    ratio: float, reserve: int, steps: list[tuple[int, int, float]]
) -> None:
    budget, now_s, requests, retries = RetryBudget(ratio), 0.0, 0, 0
    for arrive, fail, pause_s in steps:
        now_s += pause_s
        for _ in range(arrive):
            budget.earn()
        requests += arrive
        retries += sum(budget.spend(reserve, now_s) for _ in range(fail))
        assert retries <= reserve + requests * ratio + now_s * reserve / REFILL_S + 1e-6
