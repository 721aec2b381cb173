# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is learnt from readings, answers and hand-overs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.capacity import slots_by_kv
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.estimate import Estimates, observe_answer, observe_handover, observe_loads
from syshaxd.core.placement.measured import Lengths, Line, Measured
from syshaxd.core.placement.prediction import handover_s
from syshaxd.core.placement.records import Cause, HandoverRecord
from syshaxd.core.placement.steps import StepTime
from tests.fakes.specs import make_spec

positive = st.floats(0.001, 10.0)


def read(at_s: float, **fields: float | str) -> Snapshot:
    return Snapshot(instances={"gpu": InstanceLoad(read_at_s=at_s, **fields)})  # type: ignore[arg-type]


def test_time_between_tokens_is_what_the_instance_tells_or_that_of_one_stream_of_the_batch() -> None:
    told = observe_loads(Estimates(), read(1.0, running=32, generation_tokens_per_s=4894.0, token_s=0.007))
    assert told.token_s["gpu"].at(32) == pytest.approx(0.007)
    guessed = observe_loads(Estimates(), read(1.0, running=32, generation_tokens_per_s=4894.0))
    assert guessed.token_s["gpu"].at(32) == pytest.approx(32 / 4894)


def test_a_reading_counts_once() -> None:
    once = observe_loads(Estimates(), read(1.0, running=1, token_s=0.1))
    assert observe_loads(once, read(1.0, running=1, token_s=0.2)) == once
    assert observe_loads(once, read(2.0, running=1, token_s=0.2)).token_s["gpu"].mean_s > 0.1


@pytest.mark.parametrize("idle", [{}, {"running": 3}, {"generation_tokens_per_s": 9.0}, {"error": "gone"}])
def test_an_instance_without_work_leaves_what_is_known_as_it_is(idle: dict[str, float]) -> None:
    known = observe_loads(Estimates(), read(1.0, running=1, token_s=0.1))
    assert observe_loads(known, read(2.0, **idle)).token_s == known.token_s
    assert observe_loads(Estimates(), read(2.0, **idle)).token_s == {}


def test_batches_of_several_sizes_give_the_time_of_each() -> None:
    known = Estimates()
    for number in range(1, 60):
        running = 1 + number % 16
        known = observe_loads(known, read(number, running=running, token_s=0.23 + 0.011 * running))
    line = known.token_s["gpu"]
    assert line.slope == pytest.approx(0.011, rel=0.01)
    assert line.at(16) == pytest.approx(0.406, rel=0.01)
    assert line.error_ratio < 0.01


def test_a_running_request_is_seen_to_take_its_share_of_the_kv_cache() -> None:
    """Also by a reading of a GPU that has just been drained: it has room for no more requests than before."""
    spec = replace(make_spec("gpu"), max_num_seqs=64)
    known = observe_loads(Estimates(), read(1.0, running=24, kv_usage_ratio=0.96))
    assert slots_by_kv(spec, known.kv_per_request["gpu"], 0.9) == 22
    drained = observe_loads(known, read(2.0, running=5, kv_usage_ratio=0.2))
    assert slots_by_kv(spec, drained.kv_per_request["gpu"], 0.9) == 22
    assert slots_by_kv(spec, None, 0.9) == 64
    assert slots_by_kv(spec, Measured.first(0.0001), 0.9) == 64
    assert slots_by_kv(spec, Measured.first(0.99), 0.9) == 1


def test_lengths_of_a_kind_count_once_there_are_some() -> None:
    known = Estimates()
    for tokens in range(1, 8):
        known = observe_answer(known, tokens, ("short",))
    assert known.lengths_of(("short",)) is known.lengths
    for _ in range(20):
        known = observe_answer(known, 1000, ("long",))
    known = observe_answer(known, 8, ("short",))
    assert known.lengths_of(("short",)).quantile(0.9) == 8
    assert known.lengths_of(("long",)).mean == 1000
    assert known.lengths_of(("other",)) is known.lengths


def test_kinds_that_were_not_seen_for_long_are_forgotten() -> None:
    known = Estimates()
    for number in range(300):
        known = observe_answer(known, 5, (f"always {number}", "always"))
    assert len(known.lengths_by_kind) == 256
    assert {"always", "always 299"} <= set(known.lengths_by_kind)
    assert "always 0" not in known.lengths_by_kind


def keyed(key: str, model: str = "m") -> InferenceRequest:
    return InferenceRequest(request_id="r", model=model, stream=True, key=key)


def test_answers_to_a_key_are_expected_to_be_as_long_as_those_before_and_to_a_new_key_as_those_of_its_model() -> None:
    known = Estimates()
    for _ in range(20):
        known = observe_answer(known, 10, keyed("short").kinds)
        known = observe_answer(known, 1000, keyed("long").kinds)
        known = observe_answer(known, 5000, keyed("", "other").kinds)
    assert known.lengths_of(keyed("short").kinds).quantile(0.9) == 10
    assert known.lengths_of(keyed("long").kinds).quantile(0.1) == 1000
    assert known.lengths_of(keyed("new").kinds).mean == pytest.approx(505), "of all keys of its model"
    assert known.kv_tokens(keyed("short")) < known.kv_tokens(keyed("new")) < known.kv_tokens(keyed("long"))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 4000)), max_size=600))
def test_keys_without_end_take_no_memory_and_hide_no_kind(answers: list[tuple[int, int]]) -> None:
    known = Estimates()
    for key, tokens in answers:
        known = observe_answer(known, tokens, keyed(f"key {key}").kinds)
    assert len(known.lengths_by_kind) <= 256
    if len(answers) >= 8:
        latest = sorted(tokens for _, tokens in answers[-128:])
        assert known.lengths_of(keyed("").kinds).ordered == tuple(latest)


def handover(gap_s: float | None, cached: int | None) -> HandoverRecord:
    return HandoverRecord(
        source="gpu",
        target="cpu",
        cause=Cause.OFFLOAD,
        known_tokens=500,
        asked=True,
        cached_tokens=cached,
        gap_s=gap_s,
        size_bytes=2_000_000,
    )


def test_hand_overs_tell_how_long_they_take_and_how_many_are_refused() -> None:
    known = observe_handover(Estimates(), handover(0.5, 499))
    assert known.handover_s["gpu", "cpu"].y == 0.5
    assert known.handover_bytes["gpu"].value == 4000
    assert known.refused["gpu"].value == 0
    lost = observe_handover(known, handover(8.0, 0))
    assert lost.handover_s == known.handover_s, "that is not the time of a hand-over"
    assert lost.refused["gpu"].value > 0
    assert observe_handover(known, handover(None, None)) == known


@given(st.lists(positive, min_size=1))
def test_a_value_stays_among_its_measurements(values: list[float]) -> None:
    known = Measured.first(values[0])
    for value in values[1:]:
        known = known.observe(value)
    assert min(values) - 1e-9 <= known.value <= max(values) + 1e-9
    assert 0 <= known.low <= known.value <= known.high


@given(st.lists(st.tuples(st.integers(1, 64), positive), min_size=1), st.integers(1, 64))
def test_a_line_is_never_negative_and_never_falls(points: list[tuple[int, float]], at: int) -> None:
    line = Line.first(*points[0])
    for point in points[1:]:
        line = line.observe(*point)
    assert line.slope >= 0
    assert line.at(at + 1) >= line.at(at) >= -1e-9
    assert line.error_ratio >= 0
    assert line.slope <= line.steepest * (1 + 1e-9) + 1e-9
    assert line.steepest * max(1.0, line.x) <= line.y * (1 + 1e-9) + 1e-9, "no part of it is below 0"


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=200))
def test_lengths_are_those_of_the_latest_answers(lengths: list[int]) -> None:
    known = Lengths()
    for tokens in lengths:
        known = known.observe(tokens)
    latest = lengths[-128:]
    assert known.ordered == tuple(sorted(latest))
    assert known.mean == pytest.approx(sum(latest) / len(latest))
    assert known.quantile(0.0) == min(latest)
    assert known.quantile(1.0) == max(latest)
    assert known.mean_square == pytest.approx(sum(tokens * tokens for tokens in latest) / len(latest))
    assert 0 <= known.made() <= max(latest) / 2 + 1e-6
    assert known.made(10) <= 5


batches = st.tuples(st.integers(1, 64), positive, st.floats(0, 1))


@given(st.lists(batches, min_size=1), st.integers(1, 64), st.floats(0, 0.9))
def test_a_step_takes_no_less_with_more_requests_or_more_context(
    seen: list[tuple[int, float, float]], batch: int, context: float
) -> None:
    step = StepTime.first(*seen[0])
    for one in seen[1:]:
        step = step.observe(*one)
    assert step.at(batch + 1) >= step.at(batch) >= -1e-9
    assert step.at(batch, context + 0.1) >= step.at(batch, context) >= -1e-9
    assert step.error_ratio >= 0


def test_batch_and_context_are_told_apart_although_they_grow_together() -> None:
    step = StepTime.first(1, 0.1)
    for number in range(200):
        batch, context = 1 + number % 16, (1 + number % 16) / 32 * (0.7 + 0.6 * (number * 7 % 11) / 11)
        step = step.observe(batch, 0.05 + 0.002 * batch + 0.04 * context, context)
    assert step.context_slope == pytest.approx(0.04, rel=0.2)
    for batch, context in ((4, 0.05), (8, 0.4), (16, 0.6)):
        assert step.at(batch, context) == pytest.approx(0.05 + 0.002 * batch + 0.04 * context, rel=0.03)


def test_without_contexts_to_compare_only_the_batch_counts() -> None:
    step = StepTime.first(4, 0.1, 0.2)
    for _ in range(20):
        step = step.observe(4, 0.1, 0.2)
    assert step.context_slope == 0
    assert step.at(4, 0.9) == step.at(4) == pytest.approx(0.1)


def request(prompt_tokens: int, max_tokens: int | None = None) -> InferenceRequest:
    return InferenceRequest(request_id="r", model="m", stream=True, prompt_tokens=prompt_tokens, max_tokens=max_tokens)


@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(1, 100))
def test_longer_requests_are_expected_to_take_more_of_the_kv_cache(prompt: int, more: int, limit: int) -> None:
    known = Estimates()
    assert known.kv_tokens(request(prompt + more)) >= known.kv_tokens(request(prompt)) >= prompt
    assert known.kv_tokens(request(prompt, limit)) <= prompt + limit / 2


def test_the_kv_cache_has_room_for_fewer_long_requests_than_short_ones() -> None:
    spec = replace(make_spec("gpu"), max_num_seqs=64)
    known = observe_loads(Estimates(), read(1.0, running=20, kv_usage_ratio=0.8), {"gpu": 1000.0})
    assert slots_by_kv(spec, known.kv_share("gpu", 1000), 0.9) == 22
    assert slots_by_kv(spec, known.kv_share("gpu", 2000), 0.9) == 11
    assert slots_by_kv(spec, known.kv_share("gpu", 0), 0.9) == 22, "nothing is expected of those of others"


def test_a_hand_over_takes_longer_the_more_is_handed_over() -> None:
    known = Estimates()
    for tokens in (200, 1000, 1800, 600, 1400, 400, 1600):
        one = replace(handover(0.1 + tokens * 1e-4, tokens - 1), known_tokens=tokens)
        known = observe_handover(known, one)
    assert handover_s(known, "gpu", "cpu", 1000).value == pytest.approx(0.2, rel=0.05)
    assert handover_s(known, "gpu", "cpu", 4000).value == pytest.approx(0.5, rel=0.1)
    assert handover_s(known, "gpu", "cpu", 0).value > 0
