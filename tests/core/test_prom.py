# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Readings of vLLM's metrics, new and old, and what becomes of bad ones."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.wire.vllm_metrics import MetricsReading, TokenCount, load, rate, read

DATA = Path(__file__).parent / "data"
V1 = (DATA / "vllm-0.32-metrics.txt").read_text()
OLD = (DATA / "vllm-0.5-metrics.txt").read_text()

READING = MetricsReading(
    at_s=10.0,
    running=0,
    waiting=0,
    kv_usage_ratio=0.0,
    prompt_tokens=TokenCount(total=0.0),
    generation_tokens=TokenCount(total=0.0),
)


def v1(*, model: str = "m", engine: int = 0, running: str = "1", kv_usage: str = "0.5") -> str:
    labels = f'{{engine="{engine}",model_name="{model}"}}'
    return (
        f"vllm:num_requests_running{labels} {running}\n"
        f"vllm:num_requests_waiting{labels} 2\n"
        f"vllm:kv_cache_usage_perc{labels} {kv_usage}\n"
        f"vllm:num_preemptions_total{labels} 3\n"
        f"vllm:prompt_tokens_total{labels} 100\n"
        f"vllm:generation_tokens_total{labels} 200\n"
        f"vllm:generation_tokens_created{labels} 1.79e+09\n"
    )


def test_v1_text() -> None:
    assert read(V1, model="m", at_s=1.5) == MetricsReading(
        at_s=1.5,
        running=0,
        waiting=0,
        kv_usage_ratio=0.0,
        prompt_tokens=TokenCount(total=37.0),
        generation_tokens=TokenCount(total=8.0),
        preemptions=0,
        prefill_s=pytest.approx(0.33620007400008944),
        prefill_tokens=37.0,
        prefills=1.0,
        token_s=pytest.approx(0.30800033900004564),
        token_gaps=7.0,
    )


def test_old_text() -> None:
    reading = read(OLD, model="m", at_s=1.5)
    assert (reading.running, reading.waiting) == (7, 5), "the swapped wait, too"
    assert reading.kv_usage_ratio == 0.25, "the cache, not the swap space"
    assert load(reading, None).generation_tokens_per_s == 120.5
    assert load(reading, None).prompt_tokens_per_s == 400.5


def test_engines_add_up_and_their_cache_usage_is_averaged() -> None:
    text = v1(engine=0, kv_usage="0.2") + v1(engine=1, kv_usage="0.6")
    reading = read(text, model="m", at_s=0.0)
    assert (reading.running, reading.waiting, reading.preemptions) == (2, 4, 6)
    assert reading.kv_usage_ratio == pytest.approx(0.4)
    assert reading.generation_tokens == TokenCount(total=400.0)


def test_only_the_wanted_model_counts() -> None:
    reading = read(v1(model="m", running="1") + v1(model="other", running="5"), model="other", at_s=0.0)
    assert reading.running == 5


def test_a_single_model_may_have_another_name() -> None:
    """vLLM labels its metrics with the first of the model's names; requests may use another."""
    assert read(v1(model="first-name"), model="second-name", at_s=0.0).running == 1


def test_none_of_several_models_is_the_wanted_one() -> None:
    with pytest.raises(InstanceFailedError, match="a, b, but not m"):
        read(v1(model="a") + v1(model="b"), model="m", at_s=0.0)


@pytest.mark.parametrize(
    "name",
    [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
    ],
)
def test_a_missing_sample_is_named(name: str) -> None:
    text = "".join(line for line in v1().splitlines(keepends=True) if not line.startswith(name))
    with pytest.raises(InstanceFailedError, match=f"no {name}"):
        read(text, model="m", at_s=0.0)


@pytest.mark.parametrize(
    "value", ["NaN", "+Inf", "-1", "many", "", "0x10", "1_000", "9" * 400, "1e300", "5e9", "1" * 5000, "\udcff"]
)
def test_a_value_that_is_no_count_costs_no_other(value: str) -> None:
    good, odd = (read(text, model="m", at_s=0.0) for text in (v1(), v1(running=value)))
    assert odd.running == 0
    assert all(fault.startswith("/metrics: vllm:num_requests_running ") for fault in odd.faults)
    assert replace(odd, running=good.running, faults=()) == good
    assert load(odd, None).error == "; ".join(odd.faults) != ""


@pytest.mark.parametrize("text", ["", "<html>502 Bad Gateway</html>", '{"detail":"Not Found"}'])
def test_something_else_than_metrics_is_an_error(text: str) -> None:
    with pytest.raises(InstanceFailedError, match="is this a vLLM server"):
        read(text, model="m", at_s=0.0)


@settings(deadline=None)
@given(tail=st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=40))
@example(tail='{a="')
@example(tail="{")
@example(tail='{"x"} 1')
@example(tail=" ")
def test_garbage_is_an_error_or_a_reading_but_nothing_else(tail: str) -> None:
    """Whatever stands in a line, the daemon's monitor survives it."""
    for separator in ("{", " ", "\t"):
        text = v1().replace('running{engine="0",model_name="m"} 1', f"running{separator}{tail}")
        try:
            reading = read(text, model="m", at_s=0.0)
        except InstanceFailedError:
            continue
        assert reading.running >= 0


@given(
    before=st.floats(0, 1e12),
    after=st.floats(0, 1e12),
    elapsed_s=st.floats(1e-3, 1e6),
)
def test_rates_are_never_negative(before: float, after: float, elapsed_s: float) -> None:
    result = rate(before, after, elapsed_s)
    assert 0 <= result <= after / elapsed_s
    if after < before:
        assert result == after / elapsed_s, "counted since the restart"


def test_load_has_rates_since_the_reading_before() -> None:
    before = replace(
        READING, at_s=10.0, prompt_tokens=TokenCount(total=50.0), generation_tokens=TokenCount(total=100.0)
    )
    now = replace(
        READING, at_s=12.0, prompt_tokens=TokenCount(total=10.0), generation_tokens=TokenCount(total=300.0), running=4
    )
    result = load(now, before)
    assert result.generation_tokens_per_s == 100.0
    assert result.prompt_tokens_per_s == 5.0, "it restarted: 10 tokens in 2 s"
    assert (result.running, result.read_at_s, result.error) == (4, 12.0, "")


@pytest.mark.parametrize("before", [None, READING])
def test_load_without_an_earlier_reading_has_no_rates(before: MetricsReading | None) -> None:
    now = replace(READING, generation_tokens=TokenCount(total=300.0))
    assert load(now, before).generation_tokens_per_s == 0.0


@pytest.mark.parametrize(
    ("prefills", "tokens", "seconds", "mean_tokens", "mean_s"),
    [
        (2, 1000, 4.0, 500, 2.0),
        (0, 0, 0.0, 0.0, 0.0),
        (-5, -1000, -4.0, 0.0, 0.0),  # it restarted
    ],
)
def test_load_has_the_mean_prompt_since_the_reading_before(
    prefills: float, tokens: float, seconds: float, mean_tokens: float, mean_s: float
) -> None:
    before = replace(READING, prefills=10.0, prefill_tokens=3000.0, prefill_s=9.0)
    now = replace(READING, at_s=11.0, prefills=10.0 + prefills, prefill_tokens=3000.0 + tokens, prefill_s=9.0 + seconds)
    assert (load(now, before).prefill_tokens, load(now, before).prefill_s) == (mean_tokens, mean_s)


@pytest.mark.parametrize(("gaps", "seconds", "mean_s"), [(4, 0.2, 0.05), (0, 0.0, 0.0), (-4, -0.2, 0.0)])
def test_load_has_the_mean_time_between_two_tokens(gaps: float, seconds: float, mean_s: float) -> None:
    before = replace(READING, token_gaps=10.0, token_s=1.0)
    now = replace(READING, at_s=11.0, token_gaps=10.0 + gaps, token_s=1.0 + seconds)
    assert load(now, before).token_s == pytest.approx(mean_s)
