# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The result of comparing two instances. Ratios and distances are from 0 to 1; see `distance`."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Agreement(StrEnum):
    """Whether two instances compute the same. The exported names never change."""

    AGREES = "agrees"
    """Every token of every answer is the same, and the probabilities are too but for their last digits."""
    NOISE = "noise"
    """Rounding: probabilities differ a little, and where the choices differ, both were nearly as likely."""
    QUANTISED = "quantised"
    """One model with different weights: not the same, by the operator's choice."""
    DIFFERS = "differs"
    """More than rounding explains."""
    UNKNOWN = "unknown"
    """The comparison failed."""


class ParityCause(StrEnum):
    """The likely cause of a difference. The exported names never change."""

    NONE = "none"
    ROUNDING = "rounding"
    """A different order of summation (kernels, devices, batch shapes), or 16-bit against 32-bit arithmetic."""
    PRECISION = "precision"
    """The same weights in a coarser form on one side: quantised weights, or a quantised KV cache."""
    WEIGHTS = "weights"
    """A different model or revision, or a destructive quantisation."""
    TOKENIZER = "tokenizer"
    """The same text is tokenized differently."""
    KERNEL = "kernel"
    """Right for some work and wrong for other: a broken or less precise kernel."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on a pair."""

    agreement: Agreement
    cause: ParityCause
    reasons: tuple[str, ...]
    """Evidence and advice, one line each."""
    allowed: bool
    """Within the configured limit: requests may move between the two."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position at which two greedy answers diverge."""

    index: int
    """Index of the token in the answers, from 0."""
    first_margin_nats: float
    """How much the first instance preferred its own token to the other's: a difference of log-probabilities."""
    second_margin_nats: float
    near_tie: bool
    """Neither margin is large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReport:
    """One prompt.

    A position is a point in the text at which both sides' next-token distributions were compared.
    """

    prompt: str
    same_tokens: bool
    """Both sides tokenized the prompt equally; if not, nothing else was compared."""
    prefill_positions: int = 0
    """The prompt's."""
    decode_positions: int = 0
    """The answer's, up to the first difference and with it."""
    same_top: int = 0
    """Positions with the same likeliest token on both sides."""
    near_ties: int = 0
    """Other positions at which neither side clearly prefers its own choice."""
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
    """All prompts together; all zero if none was tokenized equally."""

    positions: int = 0
    same_top_ratio: float = 0.0
    """Share of positions with the same likeliest token."""
    near_tie_ratio: float = 0.0
    """Share of positions that differ without a clear preference."""
    clear_flip_ratio: float = 0.0
    """Share of positions that clearly differ."""
    prefill_distance: float = 0.0
    """Mean over all positions."""
    decode_distance: float = 0.0
    first_token_ratio: float = 0.0
    """Share of answers with the same first token."""
    greedy_ratio: float = 0.0
    """Share of answers that are identical."""
    common_prefix_ratio: float = 0.0
    """Share of the answers' tokens before the first difference."""


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
    """The report as JSON. Keys never change."""
    values = asdict(report)
    return {"first": values.pop("first"), "second": values.pop("second"), **values.pop("verdict"), **values}
