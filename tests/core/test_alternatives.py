# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Alternatives: what is shown of a decision is what decided, and nothing of it comes from the prompt."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.alternatives import alternatives, expected_length, short_form
from syshaxd.core.placement.decision import InferenceRequest, Offload, Reject, RunOn
from syshaxd.core.placement.estimate import Estimates, observe_answer
from syshaxd.core.placement.measured import Lengths, Line
from syshaxd.core.placement.rules import RULES, Policy, View
from syshaxd.core.placement.steps import StepTime
from tests.fakes.specs import make_spec

GPU, CPU = replace(make_spec("gpu"), max_num_seqs=8), replace(make_spec("cpu"), max_num_seqs=8)
PAIRS = frozenset({("gpu", "cpu"), ("cpu", "gpu")})
REQUEST = InferenceRequest(
    request_id="r", model="m", stream=True, whole_because="", prompt_tokens=500, max_tokens=100, movable=True
)


def step(batch: float, seconds: float) -> StepTime:
    """What was measured often, so that it is sure."""
    line = Line(batch, seconds, 4.0, 0.0, seconds / 50, 50)
    return StepTime(line, Line(batch, 0.1), spread=seconds / 50)


KNOWN = Estimates(
    token_s={"gpu": step(8, 0.03), "cpu": step(4, 0.09)},
    prefill_s={"gpu": Line(1000, 0.1, 4.0, 0.0, 0.002, 50), "cpu": Line(1000, 3.0, 4.0, 0.0, 0.06, 50)},
    lengths=Lengths((), tuple(range(20, 220, 2)), 120.0),
)


def seen(policy: str = "cost", queued: int = 40, running: int = 8, estimates: Estimates = KNOWN) -> View:
    return View(
        policy=Policy(name=policy),
        snapshot=Snapshot(),
        inflight={"gpu": running},
        ended={},
        candidates=(GPU, CPU),
        pairs=PAIRS,
        queued=queued,
        estimates=estimates,
    )


def test_each_way_is_told_with_its_times_and_the_choice_first() -> None:
    view = seen()
    decision = RULES["cost"].decide(view, REQUEST)
    assert isinstance(decision, Offload)
    assert decision.prediction is not None
    chosen, *others = alternatives(view, REQUEST, decision)
    assert (chosen.places, chosen.chosen) == (("gpu", "cpu"), True)
    assert (chosen.whole_s, chosen.least_s) == (decision.prediction.offload_s, decision.prediction.least_s)
    assert [(other.places, other.chosen) for other in others] == [(("gpu",), False), (("cpu",), False)]
    assert others[0].whole_s == pytest.approx(decision.prediction.wait_s), "the wait that help was weighed against"
    assert others[0].first_s == pytest.approx(decision.prediction.wait_first_s)


def test_a_gpu_with_room_is_predicted_without_a_wait() -> None:
    view = seen(queued=0, running=1)
    decision = RULES["cost"].decide(view, REQUEST)
    assert decision == RunOn("gpu", ("the GPU has room",))
    first = alternatives(view, REQUEST, decision)[0]
    assert first.first_s == pytest.approx(0.1)
    assert first.whole_s == pytest.approx(0.1 + 100 * 0.03)


def test_what_is_not_known_yet_is_not_told() -> None:
    view = seen(estimates=Estimates())
    for way in alternatives(view, REQUEST, RULES["cost"].decide(view, REQUEST)):
        assert (way.first_s, way.whole_s, way.least_s) == (None, None, None)


@given(
    st.sampled_from(sorted(RULES)), st.integers(0, 80), st.integers(0, 12), st.sampled_from([None, "gpu", "cpu", "ü\n"])
)
def test_the_chosen_way_is_among_those_of_every_policy(
    policy: str, queued: int, running: int, pinned: str | None
) -> None:
    view, request = seen(policy, queued, running), structs.replace(REQUEST, pinned=pinned)
    decision = RULES[policy].decide(view, request) if pinned is None else Reject("not ready: ü\n", 1.0)
    ways = alternatives(view, request, decision)
    if isinstance(decision, RunOn | Offload):
        assert [way.chosen for way in ways] == [True] + [False] * (len(ways) - 1)
    text = short_form(view, request, decision)
    assert text.isascii()
    assert text.isprintable()
    assert f"policy {policy}" in text


def test_what_is_kept_with_a_decision_is_small() -> None:
    lengths = Lengths()
    for tokens in range(300):
        lengths = lengths.observe(tokens)
    estimates = structs.replace(KNOWN, lengths_by_kind={f"{number}": lengths for number in range(64)})
    kept = estimates.for_kinds(("7 key", "7"))
    assert kept.lengths_of(("7 key", "7")).mean == lengths.mean
    assert kept.lengths_of(("7 key", "7")).quantile(0.9) == lengths.quantile(0.9)
    assert set(kept.lengths_by_kind) == {"7"}
    assert not kept.lengths.latest
    assert kept.for_kinds(("7 key", "7")) == kept


@pytest.mark.parametrize(
    ("learnt", "key", "basis"),
    [
        ((), "k", "no answers yet"),
        (("m",), "k", "answers of all kinds"),
        (("n",), "k", "answers to such requests"),
        (("n", "k"), "k", "answers to the key k"),
        (("n", "k"), "other", "answers to such requests"),
        (("n", "k"), "", "answers to such requests"),
    ],
)
def test_an_explanation_tells_from_what_the_length_is_expected(learnt: tuple[str, ...], key: str, basis: str) -> None:
    estimates = Estimates()
    for _ in range(20 if learnt else 0):
        model, its_key = (*learnt, "")[:2]
        estimates = observe_answer(estimates, 100, structs.replace(REQUEST, model=model, key=its_key).kinds)
    asked = structs.replace(REQUEST, model="n", key=key, max_tokens=60)
    found = expected_length(seen(estimates=estimates), asked)
    assert found.basis == basis
    if learnt:
        assert (found.mean, found.median, found.long) == (60, 60, 60)
