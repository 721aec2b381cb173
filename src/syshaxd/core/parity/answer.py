# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The requests and answers that show how an instance's model computes.

One request per prompt shows both phases. `prompt_logprobs` gives the model's distribution at every position of a
fixed text, which tests prefill even where greedy answers diverge. The tokens generated after it
test decode.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from syshaxd.core.errors import InstanceFailedError

TOP_TOKENS = 10
"""Requested tokens of each distribution; vLLM allows 20 unless `--max-logprobs` is set."""
GENERATED_TOKENS = 16
"""Tokens generated after each prompt."""


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One position of a text."""

    token: int
    """The token at this position."""
    logprobs: Mapping[int, float]
    """Natural log-probabilities of the likeliest tokens there, likeliest first."""

    @property
    def top(self) -> int:
        """The token that a greedy model would choose."""
        return next(iter(self.logprobs))


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """One instance's answer to one prompt."""

    prompt: tuple[TokenStep, ...]
    """Without the first token, which has no context."""
    generated: tuple[TokenStep, ...]


def request_body(model: str, prompt: str) -> dict[str, Any]:
    """The body for POST /v1/completions."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": GENERATED_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "prompt_logprobs": TOP_TOKENS,
        "logprobs": TOP_TOKENS,
        "return_tokens_as_token_ids": True,  # different tokens may have the same text
    }


def parse_answer(body: Any) -> PromptAnswer:
    """Parses the body of an answer to `request_body`.

    Raises:
        InstanceFailedError: It is not such an answer.
    """
    try:
        choice = body["choices"][0]
        prompt = tuple(_prompt_step(position) for position in choice["prompt_logprobs"][1:])
        logprobs = choice["logprobs"]
        generated = tuple(map(_generated_step, logprobs["tokens"], logprobs["top_logprobs"]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InstanceFailedError(f"the answer has no log-probabilities as vLLM gives them: {error!r}") from None
    if not prompt or not generated:
        raise InstanceFailedError("the answer has no log-probabilities")
    return PromptAnswer(prompt, generated)


def _prompt_step(position: Mapping[str, Mapping[str, Any]]) -> TokenStep:
    """The text's own token comes first, even if it is not among the likeliest."""
    listed = {int(token): entry["logprob"] for token, entry in position.items() if entry["rank"] <= TOP_TOKENS}
    own, *_ = position
    return TokenStep(int(own), _ordered(listed))


def _generated_step(token: str, listed: Mapping[str, float]) -> TokenStep:
    return TokenStep(_token_id(token), _ordered({_token_id(token): logprob for token, logprob in listed.items()}))


def _ordered(logprobs: Mapping[int, float]) -> dict[int, float]:
    if not logprobs or not all(math.isfinite(value) and value < 0.01 for value in logprobs.values()):
        raise ValueError(f"these are no log-probabilities: {dict(logprobs)}")
    # Ties go to the smaller id, as with argmax.
    return dict(sorted(logprobs.items(), key=lambda item: (-item[1], item[0])))


def _token_id(text: str) -> int:
    return int(text.removeprefix("token_id:"))
