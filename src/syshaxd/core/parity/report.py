# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a comparison of two instances found. Ratios are from 0 to 1; distances too, see `distance`."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Agreement(StrEnum):
    """Whether two instances compute the same. The exported names never change."""

    AGREES = "agrees"
    """Every token of every answer is the same, and the probabilities are too but for their last digits."""
    NOISE = "noise"
    """Rounding: probabilities differ a little, and where the choices differ, both were nearly as likely."""
    DIFFERS = "differs"
    """More than rounding explains."""
    UNKNOWN = "unknown"
    """They could not be compared."""


class ParityCause(StrEnum):
    """What probably makes the difference. The exported names never change."""

    NONE = "none"
    ROUNDING = "rounding"
    """Kernels, devices or batch shapes that add up in another order, or 16-bit arithmetic against 32-bit."""
    PRECISION = "precision"
    """The same weights in a coarser form on one side: quantised weights, or a quantised KV cache."""
    WEIGHTS = "weights"
    """Another model or revision, or a quantisation that has ruined it."""
    TOKENIZER = "tokenizer"
    """The same text becomes other tokens."""
    KERNEL = "kernel"
    """Right for some work and wrong for other: a broken kernel, or one that computes with less."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on a pair."""

    agreement: Agreement
    cause: ParityCause
    reasons: tuple[str, ...]
    """What it rests on and what to do, for a person; a line each."""
    allowed: bool
    """Within the configured bound: requests may move from one to the other."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which two greedy answers part."""

    index: int
    """Of the token in the answers, from 0."""
    first_margin_nats: float
    """By how much the first instance preferred its own token to the other's: a difference of log-probabilities."""
    second_margin_nats: float
    near_tie: bool
    """Neither margin is large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReport:
    """One prompt.

    A position is a place in the text at which both sides' distributions over the next token were compared.
    """

    prompt: str
    same_tokens: bool
    """The prompt became the same tokens on both sides; if not, nothing else was compared."""
    prefill_positions: int = 0
    """The prompt's."""
    decode_positions: int = 0
    """The answer's, up to the first difference and with it."""
    same_top: int = 0
    """Positions at which both find the same token likeliest."""
    near_ties: int = 0
    """Of the others, those at which neither side much prefers its own choice."""
    prefill_distance: float = 0.0
    """Mean over the positions."""
    decode_distance: float = 0.0
    generated_tokens: int = 0
    common_tokens: int = 0
    """Of those, how many are the same, from the first on."""
    difference: Difference | None = None

    @property
    def positions(self) -> int:
        """All of them."""
        return self.prefill_positions + self.decode_positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All prompts together; all zero where none became the same tokens."""

    positions: int = 0
    same_top_ratio: float = 0.0
    """Of the positions: both find the same token likeliest."""
    near_tie_ratio: float = 0.0
    """Of the positions: they don't, but neither much prefers its own."""
    clear_flip_ratio: float = 0.0
    """Of the positions: the rest."""
    prefill_distance: float = 0.0
    """Mean over all positions."""
    decode_distance: float = 0.0
    first_token_ratio: float = 0.0
    """Of the answers: their first token is the same."""
    greedy_ratio: float = 0.0
    """Of the answers: they are the same to the end."""
    common_prefix_ratio: float = 0.0
    """Of the answers' tokens: those before the first difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Two instances."""

    first: str
    second: str
    verdict: Verdict
    figures: Figures = Figures()
    prompts: tuple[PromptReport, ...] = ()
    compared_at_s: float = 0.0
    """Unix time."""


def report_json(report: ParityReport) -> dict[str, Any]:
    """The report for programs, with keys that never change."""
    values = asdict(report)
    return {"first": values.pop("first"), "second": values.pop("second"), **values.pop("verdict"), **values}
