# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Two devices of one host as replay knows them, and the shipped ones with where their numbers come from."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A device with a model on it. Its engine makes steps; each gives one token to every running request.

    A step lasts `step_base_s + step_per_request_s * requests + prompt tokens computed in it / prefill_tokens_per_s`.
    """

    prefill_tokens_per_s: float
    step_base_s: float
    step_per_request_s: float
    max_num_seqs: int
    """Requests that run at the same time; more wait."""
    kv_tokens: int
    """Tokens that the KV cache holds. When it is full, the youngest request is preempted and computed again."""
    max_batched_tokens: int = 8192
    """Prompt tokens that one step computes at most."""
    max_model_len: int = 8192
    """Tokens of prompt and answer together."""

    def step_s(self, requests: int, prompt_tokens: int = 0) -> float:
        """How long a step takes."""
        return self.step_base_s + self.step_per_request_s * requests + prompt_tokens / self.prefill_tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverProfile:
    """What it takes to hand a KV cache over."""

    token_bytes: int
    """KV cache of one token."""
    arena_bytes: int
    """What each instance can hold of them on their way; a save that does not fit is refused."""
    bytes_per_s: float
    """Of saving and loading one after the other."""
    fixed_s: float
    """Beside the copies and the steps that both engines have under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A host."""

    name: str
    gpu: DeviceProfile
    cpu: DeviceProfile
    handover: HandoverProfile
    derivation: str
    """Where the numbers come from."""


_GIB = 1024**3

_H200_CPU = DeviceProfile(
    prefill_tokens_per_s=165,
    step_base_s=0.23,
    step_per_request_s=0.011,
    max_num_seqs=16,
    max_batched_tokens=2048,
    kv_tokens=32768,
)
_8B_BF16 = HandoverProfile(token_bytes=131_072, arena_bytes=_GIB, bytes_per_s=9e9, fixed_s=0.05)

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="h200-scarce-kv",
            gpu=DeviceProfile(
                prefill_tokens_per_s=35_000,
                step_base_s=0.0047,
                step_per_request_s=0.000_02,
                max_num_seqs=64,
                kv_tokens=25_600,
            ),
            cpu=_H200_CPU,
            handover=_8B_BF16,
            derivation="measured: an 8B shape in bfloat16 on an H200 whose KV cache is held to 1,600 blocks of 16 "
            "tokens, and on 11 AMX cores beside it; hand-overs of 131,072 bytes a token, an arena of 1 GiB",
        ),
        Profile(
            name="h200-16-slots",
            gpu=DeviceProfile(
                prefill_tokens_per_s=35_000,
                step_base_s=0.0047,
                step_per_request_s=0.000_02,
                max_num_seqs=16,
                kv_tokens=500_000,
            ),
            cpu=_H200_CPU,
            handover=_8B_BF16,
            derivation="measured: the same H200 and cores; the GPU has 16 slots and ample KV cache",
        ),
        Profile(
            name="cpu-3x",
            gpu=DeviceProfile(
                prefill_tokens_per_s=8000,
                step_base_s=0.03,
                step_per_request_s=0.0002,
                max_num_seqs=8,
                kv_tokens=500_000,
            ),
            cpu=DeviceProfile(
                prefill_tokens_per_s=400,
                step_base_s=0.09,
                step_per_request_s=0.001,
                max_num_seqs=8,
                kv_tokens=500_000,
            ),
            handover=HandoverProfile(token_bytes=131_072, arena_bytes=_GIB, bytes_per_s=9e9, fixed_s=0.05),
            derivation="assumed: a model that is large for its GPU, and a CPU a third as fast",
        ),
    )
}
