# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The distance of two distributions over tokens of which only the likeliest tokens are known."""

import math
from collections.abc import Mapping


def distance(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """The Jensen-Shannon distance, from 0 (the same) to 1 (nothing in common).

    It is the square root of the divergence: so it grows in proportion to what disturbs the logits, and a mean of it is
    not ruled by the few positions that are sensitive to everything.

    A token that only one side lists has at most the smallest listed probability on the other side. It is taken to be as
    near to the one that is known as that allows; what is then left of each side counts as one token. So differences
    that lie outside the lists stay unseen, and none is made up.

    Args:
        p: Natural logarithms of probabilities, by token.
        q: Likewise.
    """
    ours = {token: math.exp(logprob) for token, logprob in p.items()}
    theirs = {token: math.exp(logprob) for token, logprob in q.items()}
    ours_whole, theirs_whole = _completed(ours, theirs), _completed(theirs, ours)
    total = sum(_term(ours_whole[token], theirs_whole[token]) for token in ours_whole)
    total += _term(_rest(ours_whole), _rest(theirs_whole))
    return math.sqrt(min(1.0, max(0.0, total / 2)))


def _completed(known: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """The known probabilities, and the likeliest guess for the tokens that only the other side lists."""
    most = min(known.values())
    guessed = {token: min(most, value) for token, value in other.items() if token not in known}
    wanted = sum(guessed.values())
    scale = min(1.0, _rest(known) / wanted) if wanted > 0 else 0.0
    return {**known, **{token: value * scale for token, value in guessed.items()}}


def _rest(probabilities: Mapping[int, float]) -> float:
    return max(0.0, 1.0 - sum(probabilities.values()))


def _term(p: float, q: float) -> float:
    mean = (p + q) / 2
    return (p * math.log2(p / mean) if p > 0 else 0.0) + (q * math.log2(q / mean) if q > 0 else 0.0)
