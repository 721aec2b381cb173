# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The simulated model's probabilities: made up, but always the same for the same weights and the same text before."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

_VOCABULARY = 1 << 32
"""Ids of prompts: any four bytes of text."""
_REST = 0.1
"""What is left for the tokens that are not listed."""
_UNLISTED_LOGPROB = -12.0
_UNLISTED_RANK = 5000


def likeliest(seed: int, count: int, *, rounding_nats: float, chosen: int | None = None) -> dict[int, float]:
    """Returns the likeliest tokens at one position and their log-probabilities, likeliest first.

    Args:
        seed: What the model has seen and is.
        count: Tokens to list.
        rounding_nats: By how much each may be off.
        chosen: The token that must be the likeliest, by far; None: any, and the next may be nearly as likely.
    """
    drawn = random.Random(seed)  # noqa: S311 - nothing secret
    if not count:
        return {}
    tokens = drawn.sample(range(_VOCABULARY), count)
    if chosen is not None:
        tokens = [chosen, *(token for token in tokens if token != chosen)][:count]
    gap = 0.0 if chosen is None else 1.0
    logits = [0.0, *(-(gap + at + drawn.random()) for at in range(count - 1))]
    logits = [logit + drawn.uniform(-rounding_nats, rounding_nats) for logit in logits]
    whole = math.log(sum(map(math.exp, logits)) / (1 - _REST))
    listed = {token: logit - whole for token, logit in zip(tokens, logits, strict=True)}
    return dict(sorted(listed.items(), key=lambda item: -item[1]))


def of_prompt(ids: Sequence[int], count: int, *, weights: int, rounding_nats: float) -> list[dict[str, object] | None]:
    """Returns vLLM's `prompt_logprobs`: for each token but the first, itself and the likeliest."""
    positions: list[dict[str, object] | None] = [None]
    seen = crc32(b"%d" % weights)
    for before, token in pairwise(ids):
        seen = crc32(b"%d" % before, seen)
        listed = likeliest(seen, count, rounding_nats=rounding_nats)
        ranks = {key: rank for rank, key in enumerate(listed, start=1)}
        own = {token: (listed.get(token, _UNLISTED_LOGPROB), ranks.get(token, _UNLISTED_RANK))}
        entries = own | {key: (listed[key], ranks[key]) for key in listed}
        positions.append({str(key): _entry(*value, key) for key, value in entries.items()})
    return positions


def of_answer(seed: int, ids: Sequence[int], count: int, *, rounding_nats: float) -> dict[str, object]:
    """Returns vLLM's `logprobs` of a completion, as with `return_tokens_as_token_ids`."""
    listed = [
        likeliest(crc32(b"%d" % at, seed), max(1, count), rounding_nats=rounding_nats, chosen=token)
        for at, token in enumerate(ids)
    ]
    return {
        "text_offset": [0] * len(ids),
        "token_logprobs": [top[token] for top, token in zip(listed, ids, strict=True)],
        "tokens": [_name(token) for token in ids],
        "top_logprobs": [{_name(token): logprob for token, logprob in top.items()} for top in listed],
    }


def _entry(logprob: float, rank: int, token: int) -> dict[str, object]:
    return {"logprob": logprob, "rank": rank, "decoded_token": f"<{token}>"}


def _name(token: int) -> str:
    return f"token_id:{token}"
