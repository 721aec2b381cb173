# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Speed and size of the simulated device."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A device with a model on it. Its engine makes steps; each gives one token to every running request.

    A step lasts `step_base_s + step_per_request_s * requests + prompt tokens computed in it / prefill_tokens_per_s`.
    """

    prefill_tokens_per_s: float
    step_base_s: float
    step_per_request_s: float
    max_num_seqs: int = 256
    """Requests that run at the same time; more wait."""
    max_batched_tokens: int = 8192
    """Prompt tokens that one step computes at most: longer prompts take several."""
    kv_tokens: int = 500_000
    """Tokens that the KV cache holds. When it is full, the youngest request is preempted and computed again later."""
    max_model_len: int = 32_768
    """Tokens of prompt and answer together."""
    kv_token_bytes: int = 1024
    """KV cache of one token: what is handed over."""
    arena_bytes: int = 0
    """KV caches on their way that it has room for: it refuses to save more. 0: no limit."""
    handover_bytes_per_s: float = 0.0
    """Of saving and loading a KV cache, one after the other; 0: no time."""
    answer_tokens: int = 256
    """Tokens after which an answer ends by itself, unless the request says `ignore_eos`."""
    tokens_per_event: int = 1
    """Tokens that a stream's event has at least, but for the first and the last (vLLM's stream_interval)."""
    wide_characters: bool = False
    """Whether some characters of answers span two tokens."""
    usage_unasked: bool = False
    """Every stream reports its usage with each event (vLLM's --enable-force-include-usage)."""
    prompt_details: bool = False
    """Usage always reports how many tokens of the prompt were cached (vLLM's --enable-prompt-tokens-details)."""
    parser: bool = False
    """A parser sees chats: tokens without text make no event, unless ids were asked for."""
    weights: int = 0
    """Which model: another number gives other answers."""
    rounding_nats: float = 0.0
    """By how much each log-probability is off."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is bool:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"profile: {item.name} must be a number from 0, not {value!r}")
        for name in ("prefill_tokens_per_s", "max_num_seqs", "max_batched_tokens", "max_model_len", "answer_tokens"):
            if not getattr(self, name):
                raise ValueError(f"profile: {name} must be above 0")
        if self.max_model_len > self.kv_tokens:
            raise ValueError(f"profile: max_model_len {self.max_model_len} does not fit in kv_tokens {self.kv_tokens}")


_CPU = Profile(
    prefill_tokens_per_s=190,
    step_base_s=0.08,
    step_per_request_s=0.0165,
    max_num_seqs=64,
    max_batched_tokens=512,
    kv_tokens=32_768,
    max_model_len=8192,
)

BUILT_IN = {
    # An 8-billion-parameter model in bf16 on one H200: 4,900 tokens/s at 32 requests.
    "gpu": Profile(prefill_tokens_per_s=20_000, step_base_s=0.005, step_per_request_s=0.000_05),
    # The same model on 12 cores with AMX: 46 tokens/s at 16 requests.
    "cpu": _CPU,
    # The same with quantised weights, by the ratios to bf16 in docs/quantize.md. q8_0: measured on 12 AMX cores, 1.8
    # times as fast at up to 16 requests, and 1.51 for prompts.
    "cpu-q8_0": replace(_CPU, prefill_tokens_per_s=287, step_base_s=0.044, step_per_request_s=0.0092),
    # q4_0: measured on one AMX core, 2.20, 1.80, 1.16 and 1.18 times at 1, 4, 8 and 16 requests, and half for prompts.
    "cpu-q4_0": replace(_CPU, prefill_tokens_per_s=95, step_base_s=0.028, step_per_request_s=0.017),
    # No device at all, for tests: everything at once.
    "instant": Profile(prefill_tokens_per_s=1e9, step_base_s=0, step_per_request_s=0),
}


def load(name: str) -> Profile:
    """Returns a built-in profile, or that of a JSON file with `Profile`'s fields.

    Raises:
        ValueError: There is no such profile, or the file does not describe one.
        OSError: The file cannot be read.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not name.endswith(".json"):
        raise ValueError(f"profile: {name!r} is neither {', '.join(BUILT_IN)} nor a .json file")
    values = json.loads(Path(name).read_text("utf-8"))
    try:
        return Profile(**values)
    except TypeError as error:
        raise ValueError(f"profile: {name}: {error}") from error
