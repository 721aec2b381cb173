# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Parity: distances between distributions, what two answers have in common, and what it means.

`parity_recorded.json` holds what vLLM said to four of the prompts, with SmolLM2-135M-Instruct. 0.32.0 on an x86_64 CPU:
in float32, in bfloat16, and in bfloat16 with weights rounded to int8, fp8 and int4. 0.26.0: on an H200 in bfloat16 and
with `--quantization fp8`, and on the AMX cores beside it in bfloat16.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.parity import (
    PROMPTS,
    Agreement,
    Bounds,
    Figures,
    ParityCause,
    ParityReport,
    PromptAnswer,
    TokenStep,
    compare,
    parse_answer,
    request_body,
)
from syshaxd.core.parity.answer import GENERATED_TOKENS, TOP_TOKENS
from syshaxd.core.parity.distance import distance

RECORDED = json.loads(Path(__file__).with_name("parity_recorded.json").read_text())
HALF = math.log(0.5)
BOUNDS = Bounds()


@st.composite
def distributions(draw: st.DrawFn) -> dict[int, float]:
    """The likeliest tokens of a distribution; what is left belongs to tokens that are not listed."""
    tokens = draw(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True))
    weights = draw(st.lists(st.floats(1e-6, 1.0), min_size=len(tokens), max_size=len(tokens)))
    rest = draw(st.floats(0.0, 1.0))
    whole = sum(weights) + rest
    return {token: math.log(weight / whole) for token, weight in zip(tokens, weights, strict=True)}


@given(distributions(), distributions())
def test_a_distance_is_symmetric_and_from_0_to_1(p: dict[int, float], q: dict[int, float]) -> None:
    assert 0.0 <= distance(p, q) <= 1.0
    assert distance(p, q) == pytest.approx(distance(q, p), abs=1e-6)


@given(distributions())
def test_the_distance_to_itself_is_0(p: dict[int, float]) -> None:
    assert distance(p, p) == 0.0


@given(distributions(), st.integers(1, 8))
def test_a_shorter_list_of_the_same_distribution_makes_up_no_difference(p: dict[int, float], count: int) -> None:
    shorter = dict(sorted(p.items(), key=lambda item: -item[1])[:count])
    assert distance(p, shorter) == pytest.approx(0.0, abs=1e-6)


def test_certain_and_different_is_as_far_as_can_be() -> None:
    assert distance({1: 0.0}, {2: 0.0}) == pytest.approx(1.0)


def test_the_distance_grows_in_proportion_to_the_disturbance() -> None:
    def disturbed(by: float) -> float:
        return distance({1: HALF, 2: HALF}, {1: math.log(0.5 + by), 2: math.log(0.5 - by)})

    assert disturbed(0.02) == pytest.approx(2 * disturbed(0.01), rel=0.01)


def step(*choices: tuple[int, float], token: int | None = None) -> TokenStep:
    return TokenStep(choices[0][0] if token is None else token, {key: math.log(p) for key, p in choices})


def answer(*generated: TokenStep, prompt: tuple[TokenStep, ...] = (step((1, 0.9), (2, 0.1)),)) -> PromptAnswer:
    return PromptAnswer(prompt, generated)


def compared(ours: PromptAnswer, theirs: PromptAnswer, bounds: Bounds = BOUNDS) -> ParityReport:
    return compare(("gpu", "cpu"), ["p"], [ours], [theirs], bounds)


def test_answers_are_compared_up_to_the_first_difference_and_with_it() -> None:
    ours = answer(step((1, 0.9), (2, 0.1)), step((3, 0.52), (4, 0.48)), step((5, 1.0)))
    theirs = answer(step((1, 0.9), (2, 0.1)), step((4, 0.51), (3, 0.49)), step((6, 1.0)))
    (prompt,) = compared(ours, theirs).prompts
    assert (prompt.generated_tokens, prompt.common_tokens, prompt.decode_positions) == (3, 1, 2)
    assert (prompt.positions, prompt.same_top, prompt.near_ties) == (3, 2, 1)
    assert prompt.difference is not None
    assert prompt.difference.index == 1
    assert prompt.difference.near_tie
    assert prompt.difference.first_margin_nats == pytest.approx(math.log(0.52 / 0.48))
    assert prompt.difference.second_margin_nats == pytest.approx(math.log(0.51 / 0.49))


def test_a_choice_that_one_side_much_prefers_is_no_near_tie() -> None:
    (prompt,) = compared(answer(step((1, 0.7), (2, 0.3))), answer(step((2, 0.51), (1, 0.49)))).prompts
    assert prompt.difference is not None
    assert not prompt.difference.near_tie
    assert prompt.near_ties == 0


def test_a_choice_that_the_other_side_does_not_list_has_at_least_the_margin_of_the_last_listed() -> None:
    (prompt,) = compared(answer(step((1, 0.9), (2, 0.05))), answer(step((7, 0.5), (8, 0.4)))).prompts
    assert prompt.difference is not None
    assert prompt.difference.first_margin_nats == pytest.approx(math.log(0.9 / 0.05))
    assert prompt.difference.second_margin_nats == pytest.approx(math.log(0.5 / 0.4))
    assert not prompt.difference.near_tie


def test_answers_of_different_lengths_are_compared_as_far_as_both_go() -> None:
    one, two = step((1, 1.0)), step((2, 1.0))
    (prompt,) = compared(answer(one, two), answer(one)).prompts
    assert (prompt.generated_tokens, prompt.common_tokens, prompt.difference) == (1, 1, None)


def test_other_tokens_of_the_same_prompt_mean_another_tokenizer() -> None:
    report = compared(
        answer(step((1, 1.0)), prompt=(step((1, 1.0)),)), answer(step((1, 1.0)), prompt=(step((2, 1.0)),))
    )
    assert (report.verdict.agreement, report.verdict.cause) == (Agreement.DIFFERS, ParityCause.TOKENIZER)
    assert not report.verdict.allowed
    assert report.figures == Figures()


def test_right_prefill_and_wrong_decode_point_to_a_kernel() -> None:
    right, wrong = step((1, 0.9), (2, 0.1)), step((2, 0.9), (1, 0.1))
    prompt = (right,) * 20
    report = compared(answer(right, right, prompt=prompt), answer(right, wrong, prompt=prompt))
    assert report.verdict.cause is ParityCause.KERNEL
    assert "decode" in report.verdict.reasons[0]


def test_one_prompt_far_off_among_good_ones_points_to_a_kernel() -> None:
    right, wrong = step((1, 0.9), (2, 0.1)), step((2, 0.9), (1, 0.1), token=1)
    good, bad = answer(right, prompt=(right,) * 5), answer(right, prompt=(wrong,) * 5)
    report = compare(("gpu", "cpu"), list("abcde"), [good] * 5, [good] * 4 + [bad], Bounds())
    assert report.verdict.cause is ParityCause.KERNEL
    assert "1 of 5 prompts" in report.verdict.reasons[0]


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_pair_is_allowed_exactly_up_to_the_bound(p: float, bound: float) -> None:
    ours, theirs = answer(step((1, 1.0))), answer(step((1, 1 - p * 0.99), (2, 0.001)))
    report = compared(ours, theirs, Bounds(max_distance=bound))
    farthest = max(report.figures.prefill_distance, report.figures.decode_distance)
    assert report.verdict.allowed == (farthest <= bound)
    assert report.verdict.allowed or "parity.max_distance" in report.verdict.reasons[-1]


# Real answers.


def recorded(name: str) -> list[PromptAnswer]:
    def steps(rows: list[tuple[int, dict[str, float]]]) -> tuple[TokenStep, ...]:
        return tuple(TokenStep(token, {int(key): logprob for key, logprob in top.items()}) for token, top in rows)

    return [PromptAnswer(steps(row["prompt"]), steps(row["generated"])) for row in RECORDED[name]]


def judged(first: str, second: str) -> ParityReport:
    prompts = [PROMPTS[at] for at in RECORDED["prompts"]]
    return compare((first, second), prompts, recorded(first), recorded(second), Bounds())


def test_an_instance_agrees_with_itself() -> None:
    report = judged("float32", "float32")
    assert (report.verdict.agreement, report.verdict.cause) == (Agreement.AGREES, ParityCause.NONE)
    assert report.figures.greedy_ratio == 1.0


@pytest.mark.parametrize("pair", [("float32", "bfloat16"), ("h200", "amx"), ("h200", "bfloat16"), ("amx", "bfloat16")])
def test_16_bit_arithmetic_and_other_devices_are_noise(pair: tuple[str, str]) -> None:
    report = judged(*pair)
    assert (report.verdict.agreement, report.verdict.cause) == (Agreement.NOISE, ParityCause.ROUNDING)
    assert report.verdict.allowed


def test_noise_does_not_mean_the_same_answers() -> None:
    assert judged("float32", "bfloat16").figures.greedy_ratio < 1.0


@pytest.mark.parametrize("pair", [("bfloat16", "int8"), ("bfloat16", "fp8"), ("h200", "h200_fp8"), ("h200_fp8", "amx")])
def test_weights_in_8_bits_are_told_from_noise_and_within_the_usual_bound(pair: tuple[str, str]) -> None:
    report = judged(*pair)
    assert (report.verdict.agreement, report.verdict.cause) == (Agreement.DIFFERS, ParityCause.PRECISION)
    assert report.verdict.allowed


@pytest.mark.parametrize("coarse", ["int8", "int4"])
def test_quantised_weights_have_a_verdict_and_a_limit_of_their_own(coarse: str) -> None:
    prompts = [PROMPTS[at] for at in RECORDED["prompts"]]
    answers = (recorded("bfloat16"), recorded(coarse))
    far = compare(("gpu", "cpu"), prompts, *answers, Bounds(max_distance=0.0), weights=("full", "q8_0")).figures
    farthest = max(far.prefill_distance, far.decode_distance)
    for limit, allowed in ((farthest, True), (farthest - 0.001, False)):
        bounds = Bounds(max_distance=0.0, max_distance_quantised=limit)
        verdict = compare(("gpu", "cpu"), prompts, *answers, bounds, weights=("full", "q8_0")).verdict
        assert (verdict.agreement, verdict.allowed) == (Agreement.QUANTISED, allowed)
        assert verdict.reasons[0].startswith("full and q8_0 weights: ")
        assert allowed or "parity.max_distance_quantised" in verdict.reasons[-1]
    same = compare(("gpu", "cpu"), prompts, *answers, Bounds(), weights=("q8_0", "q8_0")).verdict
    assert same.agreement is Agreement.DIFFERS


def test_a_quantisation_that_ruins_the_model_is_not_allowed() -> None:
    report = judged("bfloat16", "int4")
    assert (report.verdict.agreement, report.verdict.cause) == (Agreement.DIFFERS, ParityCause.WEIGHTS)
    assert not report.verdict.allowed


def test_the_coarser_the_weights_the_larger_the_distance() -> None:
    far = [judged("bfloat16", name).figures.prefill_distance for name in ("bfloat16", "float32", "int8", "fp8", "int4")]
    assert far == sorted(far)


# What goes over the wire.


def test_a_real_answer_is_read() -> None:
    got = parse_answer(RECORDED["answer"])
    assert len(got.generated) == GENERATED_TOKENS
    assert [len(step.logprobs) for step in (*got.prompt, *got.generated)] == [TOP_TOKENS] * (
        len(got.prompt) + GENERATED_TOKENS
    )
    choice = RECORDED["answer"]["choices"][0]
    assert [step.token for step in got.prompt] == choice["prompt_token_ids"][1:]
    assert [step.token for step in got.generated] == choice["token_ids"]
    assert all(step.token == step.top for step in got.generated)


def test_the_prompts_own_token_is_not_among_the_likeliest_unless_it_is_one_of_them() -> None:
    listed = {"5": (-9.0, 400), **{str(rank + 9): (-rank / 10, rank) for rank in range(1, TOP_TOKENS + 1)}}
    entries = {key: {"logprob": logprob, "rank": rank} for key, (logprob, rank) in listed.items()}
    got = parse_answer(_body(prompt_logprobs=[None, entries]))
    assert got.prompt[0].token == 5
    assert 5 not in got.prompt[0].logprobs
    assert got.prompt[0].top == 10


def _body(**changes: Any) -> Any:
    body = json.loads(json.dumps(RECORDED["answer"]))
    body["choices"][0] |= changes
    return body


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"choices": []},
        _body(prompt_logprobs=None),
        _body(prompt_logprobs=[None]),
        _body(prompt_logprobs=[None, {}]),
        _body(prompt_logprobs=[None, {"1": {"logprob": float("nan"), "rank": 1}}]),
        _body(prompt_logprobs=[None, {"1": {"logprob": 3.0, "rank": 1}}]),
        _body(logprobs=None),
        _body(logprobs={"tokens": [], "top_logprobs": []}),
        _body(logprobs={"tokens": ["a"], "top_logprobs": [{"a": -1.0}]}),
        _body(logprobs={"tokens": ["token_id:1"], "top_logprobs": [None]}),
    ],
)
def test_what_is_no_such_answer_is_refused(body: object) -> None:
    with pytest.raises(InstanceFailedError):
        parse_answer(body)


def test_the_request_is_greedy_and_asks_for_both_kinds_of_probabilities() -> None:
    body = request_body("m", "p")
    assert body["temperature"] == 0
    assert body["logprobs"] == body["prompt_logprobs"] == TOP_TOKENS
