# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.errors import RateLimitedError
from syshaxd.core.placement.rate_limits import RateLimits, RateMeter, TokenBucket, duration_text

RATES = st.integers(1, 1_000_000)
# Seconds since the last event, and what is then taken.
EVENTS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10_000)), max_size=30)


@given(RATES, EVENTS)
def test_what_waits_as_it_is_told_never_exceeds_the_rate(rate: int, events: list[tuple[float, float]]) -> None:
    bucket, now_s, taken = TokenBucket(rate, 0.0), 0.0, 0.0
    for pause_s, amount in events:
        fitting = min(amount, rate)
        now_s += pause_s
        now_s += bucket.wait_s(fitting, now_s)
        assert bucket.wait_s(fitting, now_s) <= 1e-6 * (1 + now_s)
        bucket.take(fitting, now_s)
        taken += fitting
        assert taken <= rate + rate * now_s / 60 + 1e-6 * (1 + taken)


@given(RATES, EVENTS)
def test_a_bucket_never_holds_more_than_a_minute(rate: int, events: list[tuple[float, float]]) -> None:
    bucket, now_s = TokenBucket(rate, 0.0), 0.0
    for pause_s, amount in events:
        now_s += pause_s
        bucket.take(amount, now_s)
        assert bucket.left(now_s) <= rate
    assert bucket.left(now_s + bucket.full_in_s(now_s)) == pytest.approx(rate, rel=1e-6)


@given(RATES, st.floats(0, 1000), st.floats(1, 1000))
def test_what_is_given_back_can_be_taken_again(rate: int, at_s: float, amount: float) -> None:
    bucket = TokenBucket(rate, 0.0)
    bucket.take(amount, at_s)
    bucket.take(-amount, at_s)
    assert bucket.left(at_s) == pytest.approx(rate)


def test_an_amount_over_the_rate_waits_until_the_bucket_is_full() -> None:
    bucket = TokenBucket(60, 0.0)
    assert bucket.wait_s(1000, 0.0) == 0
    bucket.take(1000, 0.0)
    assert bucket.left(0.0) == -940
    assert bucket.wait_s(1, 0.0) == 941


def test_a_clock_that_goes_back_changes_nothing() -> None:
    bucket = TokenBucket(60, 100.0)
    bucket.take(60, 100.0)
    assert (bucket.left(50.0), bucket.left(101.0)) == (0, 1)


def test_each_limit_is_told() -> None:
    meter = RateMeter(RateLimits(requests_per_minute=2, tokens_per_minute=60, max_requests=2), "the API key a", 0.0)
    meter.check(0.0)
    meter.begin(0.0)
    meter.begin(0.0)
    with pytest.raises(
        RateLimitedError, match="the API key a may have 2 requests at a time, and already has 2"
    ) as caught:
        meter.check(0.0)
    assert caught.value.limit == "concurrent"
    meter.end()
    with pytest.raises(RateLimitedError, match="2 requests a minute; try again in 30 s") as caught:
        meter.check(0.0)
    assert (caught.value.limit, caught.value.retry_after_s) == ("requests", 30)
    meter.use(90, 0.0)
    with pytest.raises(RateLimitedError, match="60 tokens a minute; try again in 1 s") as caught:
        meter.check(30.0)
    assert caught.value.limit == "tokens"
    meter.check(31.0)
    with pytest.raises(RateLimitedError, match="try again in 9 s"):
        meter.check_tokens(10, 31.0)


def test_header_lines_are_those_of_openai() -> None:
    meter = RateMeter(RateLimits(requests_per_minute=60, tokens_per_minute=6000), "all", 0.0)
    meter.begin(0.0)
    meter.use(9000, 0.0)
    assert meter.header_lines(0.0).decode().splitlines() == [
        "x-ratelimit-limit-requests: 60",
        "x-ratelimit-remaining-requests: 59",
        "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-tokens: 6000",
        "x-ratelimit-remaining-tokens: 0",
        "x-ratelimit-reset-tokens: 1m30s",
    ]


@pytest.mark.parametrize(("duration_s", "text"), [(0, "0ms"), (0.25, "250ms"), (1.24, "1.3s"), (60, "1m0s")])
def test_durations_as_openai_writes_them(duration_s: float, text: str) -> None:
    assert duration_text(duration_s) == text
