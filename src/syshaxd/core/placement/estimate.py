# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How long answers take, predicted from what the instances were measured to do.

A prediction needs the time per output token on both sides. It is what a stream sees at the instance's present batch, so
it holds what the batch costs; a stream more changes it little. Where the CPU would compute the prompt as well, that
counts as soon as both were seen to compute prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.decision import Prediction

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
    per_prompt_token_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds for a token of a prompt, by instance; absent: not known yet."""
    answer_tokens: float = 256.0
    """Mean length of answers."""
    read_at_s: Mapping[str, float] = field(default_factory=dict)
    """Monotonic times of the readings that are in it already."""


def observe_loads(estimates: Estimates, snapshot: Snapshot) -> Estimates:
    """Takes new readings into account; what an instance without work does is not known from them."""
    per_token_s = dict(estimates.per_token_s)
    per_prompt_token_s = dict(estimates.per_prompt_token_s)
    read_at_s = dict(estimates.read_at_s)
    for name, load in snapshot.instances.items():
        if load.error or read_at_s.get(name) == load.read_at_s:
            continue
        read_at_s[name] = load.read_at_s
        for known, now_s in ((per_token_s, _per_token_s(load)), (per_prompt_token_s, load.prompt_token_s)):
            if now_s > 0:
                before_s = known.get(name, now_s)
                known[name] = before_s + _WEIGHT * (now_s - before_s)
    return replace(estimates, per_token_s=per_token_s, per_prompt_token_s=per_prompt_token_s, read_at_s=read_at_s)


def observe_answer(estimates: Estimates, tokens: int) -> Estimates:
    """Takes the length of an answer into account."""
    mean = estimates.answer_tokens + _ANSWER_WEIGHT * (tokens - estimates.answer_tokens)
    return replace(estimates, answer_tokens=mean)


def predict_help(
    estimates: Estimates,
    *,
    gpu: str,
    cpu: str,
    prompt_tokens: int | None,
    max_tokens: int | None,
    ahead: int,
    slots: int,
    returns: bool,
) -> Prediction | None:
    """Compares answering on the CPU now with waiting for the GPU.

    Args:
        estimates: What was measured.
        gpu: The instance that is full.
        cpu: The one that would help.
        prompt_tokens: Length of the prompt if the CPU computes it, too; None: the GPU does, and hands it over.
        max_tokens: Limit of the answer; None: not told.
        ahead: Requests that get the GPU before this one.
        slots: Requests that the GPU runs at the same time.
        returns: Whether the answer goes on on the GPU when it is its turn there.

    Returns:
        Seconds of both; None if one of them was never seen at work.
    """
    gpu_s, cpu_s = estimates.per_token_s.get(gpu), estimates.per_token_s.get(cpu)
    if gpu_s is None or cpu_s is None:
        return None
    tokens = estimates.answer_tokens if max_tokens is None else min(estimates.answer_tokens, max_tokens)
    # The GPU ends an answer every `answer_tokens * gpu_s / slots` seconds.
    turn_s = ahead * estimates.answer_tokens * gpu_s / slots
    wait_s = turn_s + tokens * gpu_s
    prefill_s = _HANDOVER_S
    if prompt_tokens is not None:
        per_prompt_token_s = estimates.per_prompt_token_s
        known = gpu in per_prompt_token_s and cpu in per_prompt_token_s
        prefill_s = prompt_tokens * per_prompt_token_s[cpu] if known else 0.0
        wait_s += prompt_tokens * per_prompt_token_s[gpu] if known else 0.0
    help_s = prefill_s + tokens * cpu_s
    if returns and turn_s < help_s:
        # It leaves the CPU with a token, for which its slot at the GPU waits.
        made = max(0.0, turn_s - prefill_s) / cpu_s + 1
        leaves_s = max(turn_s, prefill_s) + cpu_s
        help_s = min(help_s, leaves_s + _HANDOVER_S + max(0.0, tokens - made) * gpu_s)
    return Prediction(offload_s=help_s, wait_s=wait_s)


def _per_token_s(load: InstanceLoad) -> float:
    """0: it did nothing."""
    if load.running < 1 or load.generation_tokens_per_s <= 0:
        return 0.0
    return load.running / load.generation_tokens_per_s
