# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reasoning in an answer that another instance continues.

Source: vLLM 0.32.0, vllm/reasoning/basic_parsers.py, vllm/parser/qwen3.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

THINK, END_OF_THINKING = "<think>", "</think>"
"""What the parsers find reasoning by: each is one token."""


class ReasoningParser(NamedTuple):
    """What matters of a parser that finds out from a prompt's tokens whether what follows is reasoning."""

    holds_back: bool
    """It holds back text in which a tag may begin."""
    counts_from_start: bool
    """All counts as reasoning that comes as such, whatever the prompt is; else what is between two tags."""
    keeps_special_tokens: bool
    """An answer contains the text of special tokens, whatever the request says."""


REASONING_PARSERS: Mapping[str, ReasoningParser] = {
    "deepseek_r1": ReasoningParser(holds_back=False, counts_from_start=False, keeps_special_tokens=False),
    "qwen3": ReasoningParser(holds_back=True, counts_from_start=True, keeps_special_tokens=True),
}
"""Those with which a stream can continue on another instance."""


def may_think(body: Mapping[str, Any]) -> bool:
    """Whether a chat does not turn reasoning off."""
    options = body.get("chat_template_kwargs")
    return not isinstance(options, Mapping) or bool(options.get("enable_thinking", True))


class ReasoningTokens:
    """Counts the tokens of an answer that are reasoning, as vLLM's parsers do."""

    __slots__ = ("_at", "_count", "_depth", "_end", "_from_start", "_think")

    def __init__(self, think: int, end: int, *, from_start: bool, thinks: bool = True) -> None:
        """Counts nothing yet.

        Args:
            think: The token that begins reasoning.
            end: The one that ends it.
            from_start: See `ReasoningParser.counts_from_start`.
            thinks: `may_think`.
        """
        self._think, self._end, self._from_start = think, end, from_start
        self._at = self._count = 0
        self._depth = int(from_start and thinks)

    def among(self, answer_ids: Sequence[int], sent_as_reasoning: int) -> int:
        """Returns how many of an answer's tokens are reasoning.

        Args:
            answer_ids: All so far. They begin with those of the call before.
            sent_as_reasoning: Tokens up to the end of what has been sent as reasoning.
        """
        if self._from_start and sent_as_reasoning:
            self._count += sum(ident != self._think for ident in answer_ids[self._at : sent_as_reasoning])
            self._at = max(self._at, sent_as_reasoning)
            return self._count
        for at in range(self._at, len(answer_ids)):
            ident = answer_ids[at]
            if ident == self._think:
                self._depth += not self._from_start
            elif ident == self._end:
                self._depth = max(0, self._depth - 1)
            else:
                self._count += self._depth > 0
        self._at = len(answer_ids)
        return self._count
