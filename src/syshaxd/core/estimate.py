# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How long answers take, predicted from what the instances were measured to do.

A prediction needs the time per output token on both sides. It is what a stream sees at the instance's present batch, so
it holds what the batch costs; a stream more changes it little.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from syshaxd.core.types import InstanceLoad, Prediction, Snapshot

_WEIGHT = 0.3
"""Of the newest reading in the time per token."""
_ANSWER_WEIGHT = 0.05
"""Of the newest answer in the mean length."""
_HANDOVER_S = 0.1
"""Of a hand-over, beside the tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What was measured so far."""

    per_token_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds between two tokens of one stream, by instance; absent: never seen at work."""
    answer_tokens: float = 256.0
    """Mean length of answers."""
    read_at_s: Mapping[str, float] = field(default_factory=dict)
    """Monotonic times of the readings that are in it already."""


def observe_loads(estimates: Estimates, snapshot: Snapshot) -> Estimates:
    """Takes new readings into account; what an instance without work does is not known from them."""
    per_token_s = dict(estimates.per_token_s)
    read_at_s = dict(estimates.read_at_s)
    for name, load in snapshot.instances.items():
        if load.error or read_at_s.get(name) == load.read_at_s:
            continue
        read_at_s[name] = load.read_at_s
        if (now_s := _per_token_s(load)) is not None:
            before_s = per_token_s.get(name, now_s)
            per_token_s[name] = before_s + _WEIGHT * (now_s - before_s)
    return Estimates(per_token_s=per_token_s, answer_tokens=estimates.answer_tokens, read_at_s=read_at_s)


def observe_answer(estimates: Estimates, tokens: int) -> Estimates:
    """Takes the length of an answer into account."""
    mean = estimates.answer_tokens + _ANSWER_WEIGHT * (tokens - estimates.answer_tokens)
    return Estimates(per_token_s=estimates.per_token_s, answer_tokens=mean, read_at_s=estimates.read_at_s)


def predict_offload(
    estimates: Estimates, *, gpu: str, cpu: str, max_tokens: int | None, ahead: int, slots: int
) -> Prediction | None:
    """Compares decoding on the CPU now with waiting for the GPU; both make the first token on the GPU.

    Args:
        estimates: What was measured.
        gpu: The instance that is full.
        cpu: The one that would help.
        max_tokens: Limit of the answer; None: not told.
        ahead: Requests that get the GPU before this one.
        slots: Requests that the GPU runs at the same time.

    Returns:
        Seconds of both; None if one of them was never seen at work.
    """
    gpu_s, cpu_s = estimates.per_token_s.get(gpu), estimates.per_token_s.get(cpu)
    if gpu_s is None or cpu_s is None:
        return None
    tokens = estimates.answer_tokens if max_tokens is None else min(estimates.answer_tokens, max_tokens)
    # The GPU ends an answer every `answer_tokens * gpu_s / slots` seconds.
    wait_s = ahead * estimates.answer_tokens * gpu_s / slots
    return Prediction(offload_s=_HANDOVER_S + tokens * cpu_s, wait_s=wait_s + tokens * gpu_s)


def _per_token_s(load: InstanceLoad) -> float | None:
    if load.running < 1 or load.generation_tokens_per_s <= 0:
        return None
    return load.running / load.generation_tokens_per_s
