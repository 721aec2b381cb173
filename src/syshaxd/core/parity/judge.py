# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Judges the figures of a comparison: noise or a real difference, its likely cause, and whether requests may move.

The scale was measured on real instances (docs/parity.md): 16-bit arithmetic against 32-bit gives a mean distance of
0.02, weights in 8 bits 0.04 to 0.07, and from 0.3 on a model gives other answers than before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from syshaxd.core.parity.report import Agreement, Figures, ParityCause, PromptReport, Verdict

# Below it only the last bits of float32 differ.
_SAME_DISTANCE = 0.001
# Every text has a few positions that are sensitive to any change: up to this share they are noise.
_NOISE_FLIP_RATIO = 0.01
# Beyond either, the answers have no more in common than those of two models of a family.
_WEIGHTS_DISTANCE = 0.2
_WEIGHTS_SAME_TOP_RATIO = 0.75
# Work this many times further off than other work of the same instances is wrong.
_OUTLIER_FACTOR = 4.0
_OUTLIER_DISTANCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Mean distances, 0..1."""

    noise_distance: float = 0.03
    """A difference up to this is noise."""
    max_distance: float = 0.1
    """Requests may move up to this."""
    max_distance_quantised: float = 0.1
    """Requests may move up to this if the weights differ."""


def judge(
    prompts: Sequence[PromptReport], figures: Figures, bounds: Bounds, weights: tuple[str, str] = ("", "")
) -> Verdict:
    """Returns the verdict on a pair.

    Args:
        prompts: What was compared.
        figures: Of all of them.
        bounds: Limits of noise and of allowed differences.
        weights: What each of the two computes with.
    """
    strangers = sum(not report.same_tokens for report in prompts)
    if strangers:
        reason = (
            f"{strangers} of {len(prompts)} prompts are tokenized differently; give both instances "
            "the same revision of the model's folder"
        )
        return Verdict(Agreement.DIFFERS, ParityCause.TOKENIZER, (reason,), allowed=False)
    farthest = max(figures.prefill_distance, figures.decode_distance)
    agreement, cause, reason = _named(prompts, figures, farthest, bounds)
    key, limit = "max_distance", bounds.max_distance
    if weights[0] != weights[1]:
        key, limit = "max_distance_quantised", bounds.max_distance_quantised
        if cause is not ParityCause.KERNEL:
            agreement, cause, reason = _quantised(figures, farthest, bounds, weights)
    if farthest <= limit:
        return Verdict(agreement, cause, (reason,), allowed=True)
    refusal = f"the distance {farthest:.3f} exceeds parity.{key}, {limit:g}: no request may move"
    return Verdict(agreement, cause, (reason, refusal), allowed=False)


def unknown(reason: str) -> Verdict:
    """The verdict on a pair that could not be compared."""
    return Verdict(Agreement.UNKNOWN, ParityCause.NONE, (reason,), allowed=False)


def _named(
    prompts: Sequence[PromptReport], figures: Figures, farthest: float, bounds: Bounds
) -> tuple[Agreement, ParityCause, str]:
    same = f"{figures.same_top_ratio:.1%} of {figures.positions} positions have the same likeliest token"
    if farthest <= _SAME_DISTANCE and figures.same_top_ratio == 1.0:
        return Agreement.AGREES, ParityCause.NONE, f"{same}, and the probabilities are the same"
    if farthest <= bounds.noise_distance and figures.clear_flip_ratio <= _NOISE_FLIP_RATIO:
        ties = (
            f"{figures.near_tie_ratio:.1%} are near ties"
            if figures.near_tie_ratio
            else "the probabilities hardly differ"
        )
        return Agreement.NOISE, ParityCause.ROUNDING, f"{same}, {ties}: rounding, as between devices or 16-bit kernels"
    if where := _outlier(prompts, figures):
        return (
            Agreement.DIFFERS,
            ParityCause.KERNEL,
            f"{where}: suspect a broken kernel or a different dtype of the KV cache",
        )
    if farthest >= _WEIGHTS_DISTANCE or figures.same_top_ratio < _WEIGHTS_SAME_TOP_RATIO:
        return (
            Agreement.DIFFERS,
            ParityCause.WEIGHTS,
            f"only {same}: a different model or revision, or a destructive quantisation; compare the weights' folders",
        )
    return (
        Agreement.DIFFERS,
        ParityCause.PRECISION,
        f"{same}, {figures.clear_flip_ratio:.1%} clearly differ: quantised weights on one side, or a different dtype",
    )


def _quantised(
    figures: Figures, farthest: float, bounds: Bounds, weights: tuple[str, str]
) -> tuple[Agreement, ParityCause, str]:
    reason = (
        f"{weights[0]} and {weights[1]} weights: {figures.same_top_ratio:.1%} of {figures.positions} positions have "
        f"the same likeliest token, {figures.clear_flip_ratio:.1%} clearly differ; the distance is {farthest:.3f}, and "
        f"rounding alone explains {bounds.noise_distance:g}"
    )
    return Agreement.QUANTISED, ParityCause.PRECISION, reason


def _outlier(prompts: Sequence[PromptReport], figures: Figures) -> str:
    """Work that is wrong while other work is right; empty if nothing stands out."""
    prefill, decode = figures.prefill_distance, figures.decode_distance
    if decode > _OUTLIER_DISTANCE and decode > _OUTLIER_FACTOR * prefill:
        return f"prefill agrees (distance {prefill:.3f}), decode does not ({decode:.3f})"
    usual = median(report.prefill_distance for report in prompts)
    far = [report for report in prompts if report.prefill_distance > max(_OUTLIER_DISTANCE, _OUTLIER_FACTOR * usual)]
    if far:
        return f"{len(far)} of {len(prompts)} prompts are far off, the others agree (distance {usual:.3f})"
    return ""
