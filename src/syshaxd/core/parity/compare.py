# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Compares two instances' answers to the same prompts."""

import math
from collections.abc import Sequence
from statistics import fmean

from syshaxd.core.parity.answer import PromptAnswer, TokenStep
from syshaxd.core.parity.distance import distance
from syshaxd.core.parity.judge import Bounds, judge
from syshaxd.core.parity.report import Difference, Figures, ParityReport, PromptReport

NEAR_TIE_NATS = math.log(2)
"""A near tie: neither side finds its own token more than twice as likely as the other's."""


def compare(
    pair: tuple[str, str],
    prompts: Sequence[str],
    ours: Sequence[PromptAnswer],
    theirs: Sequence[PromptAnswer],
    bounds: Bounds,
    *,
    weights: tuple[str, str] = ("", ""),
) -> ParityReport:
    """Compares two instances.

    Args:
        pair: Their names.
        prompts: The prompts, at least one.
        ours: The first's answer to each prompt.
        theirs: The second's answers.
        bounds: Limits of noise and of allowed differences.
        weights: What each of the two computes with, such as `full` or `q8_0`.
    """
    reports = tuple(map(compare_prompt, prompts, ours, theirs))
    figures = _summed([report for report in reports if report.same_tokens])
    verdict = judge(reports, figures, bounds, weights)
    return ParityReport(first=pair[0], second=pair[1], verdict=verdict, figures=figures, prompts=reports)


def compare_prompt(prompt: str, ours: PromptAnswer, theirs: PromptAnswer) -> PromptReport:
    """Compares two answers to one prompt."""
    if [step.token for step in ours.prompt] != [step.token for step in theirs.prompt]:
        return PromptReport(prompt=prompt, same_tokens=False)
    generated = list(zip(ours.generated, theirs.generated, strict=False))
    common = next((at for at, (a, b) in enumerate(generated) if a.token != b.token), len(generated))
    # Up to and including the first difference both saw the same text.
    decode = generated[: common + 1]
    prefill = list(zip(ours.prompt, theirs.prompt, strict=True))
    apart = [(a, b) for a, b in (*prefill, *decode) if a.top != b.top]
    return PromptReport(
        prompt=prompt,
        same_tokens=True,
        prefill_positions=len(prefill),
        decode_positions=len(decode),
        same_top=len(prefill) + len(decode) - len(apart),
        near_ties=sum(max(_margins(a, b)) <= NEAR_TIE_NATS for a, b in apart),
        prefill_distance=_mean_distance(prefill),
        decode_distance=_mean_distance(decode),
        generated_tokens=len(generated),
        common_tokens=common,
        difference=_difference(common, *generated[common]) if common < len(generated) else None,
    )


def _difference(index: int, ours: TokenStep, theirs: TokenStep) -> Difference:
    first, second = _margins(ours, theirs)
    return Difference(index, first, second, near_tie=max(first, second) <= NEAR_TIE_NATS)


def _margins(ours: TokenStep, theirs: TokenStep) -> tuple[float, float]:
    """How much each side prefers its own choice to the other's, in nats.

    A token that is not listed is less likely than all listed ones: its margin is at least the returned one.
    """
    return _margin(ours, theirs.top), _margin(theirs, ours.top)


def _margin(step: TokenStep, other: int) -> float:
    return step.logprobs[step.top] - step.logprobs.get(other, min(step.logprobs.values()))


def _mean_distance(steps: Sequence[tuple[TokenStep, TokenStep]]) -> float:
    return fmean(distance(a.logprobs, b.logprobs) for a, b in steps)


def _summed(reports: Sequence[PromptReport]) -> Figures:
    """Over prompts that both sides tokenized equally."""
    if not reports:
        return Figures()
    positions = sum(report.positions for report in reports)
    flips = sum(report.positions - report.same_top - report.near_ties for report in reports)
    prefill = [report.prefill_positions for report in reports]
    decode = [report.decode_positions for report in reports]
    return Figures(
        positions=positions,
        same_top_ratio=sum(report.same_top for report in reports) / positions,
        near_tie_ratio=sum(report.near_ties for report in reports) / positions,
        clear_flip_ratio=flips / positions,
        prefill_distance=fmean((report.prefill_distance for report in reports), weights=prefill),
        decode_distance=fmean((report.decode_distance for report in reports), weights=decode),
        first_token_ratio=fmean(report.common_tokens > 0 for report in reports),
        greedy_ratio=fmean(report.difference is None for report in reports),
        common_prefix_ratio=sum(report.common_tokens for report in reports)
        / sum(report.generated_tokens for report in reports),
    )
