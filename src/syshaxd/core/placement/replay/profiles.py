# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Two devices of one host as replay knows them, and the shipped ones with where their numbers come from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


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
    gpu_interference: float = 0.025
    """Share by which a step of the GPU takes longer while the CPU computes. Source: benchmarks/gpu, an 8B shape on an
    H100 with 11 AMX cores busy beside it; not measured elsewhere."""
    cpu_interference: float = 0.0
    """The same for the CPU while the GPU computes."""
    slo_first_s: float = 5.0
    """Seconds to the first token that count as good."""
    slo_token_s: float = 0.2
    """Mean seconds between two tokens that count as good: the pace of reading."""


_GIB = 1024**3

_H200 = DeviceProfile(
    prefill_tokens_per_s=35_000,
    step_base_s=0.0047,
    step_per_request_s=0.000_02,
    max_num_seqs=64,
    kv_tokens=25_600,
    max_model_len=4096,
)
_H200_CPU = DeviceProfile(
    prefill_tokens_per_s=165,
    step_base_s=0.23,
    step_per_request_s=0.011,
    max_num_seqs=16,
    max_batched_tokens=2048,
    kv_tokens=32768,
    max_model_len=4096,
)
_CORE_1B = DeviceProfile(
    prefill_tokens_per_s=140,
    step_base_s=0.17,
    step_per_request_s=0.0136,
    max_num_seqs=4,
    max_batched_tokens=512,
    kv_tokens=65_536,
    max_model_len=2048,
)
_8B_BF16 = HandoverProfile(token_bytes=131_072, arena_bytes=_GIB, bytes_per_s=9e9, fixed_s=0.05)

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="h200-scarce-kv",
            gpu=_H200,
            cpu=_H200_CPU,
            handover=_8B_BF16,
            derivation="measured: an 8B shape in bfloat16 on an H200 whose KV cache is held to 1,600 blocks of 16 "
            "tokens, and on 11 AMX cores beside it; hand-overs of 131,072 bytes a token, an arena of 1 GiB",
        ),
        Profile(
            name="h200-16-slots",
            gpu=replace(_H200, max_num_seqs=16, kv_tokens=500_000),
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
        Profile(
            name="h200-int8-cpu",
            gpu=_H200,
            cpu=DeviceProfile(
                prefill_tokens_per_s=236,
                step_base_s=0.19,
                step_per_request_s=0.0025,
                max_num_seqs=32,
                max_batched_tokens=2048,
                kv_tokens=65_536,
                max_model_len=4096,
            ),
            handover=_8B_BF16,
            derivation="measured: the GPU as in h200-scarce-kv; q8_0 weights on 12 AMX cores beside it (6.0, 17.8, "
            "33.3, 67.3 and 126 tokens/s at 1, 4, 8, 16 and 32 streams, 236 tokens/s of prompts; docs/quantize.md)",
        ),
        Profile(
            name="a100x2-kunpeng-32b",
            gpu=DeviceProfile(
                prefill_tokens_per_s=4900,
                step_base_s=0.02,
                step_per_request_s=0.000_25,
                max_num_seqs=128,
                kv_tokens=267_000,
            ),
            cpu=DeviceProfile(
                prefill_tokens_per_s=150,
                step_base_s=0.07,
                step_per_request_s=0.0045,
                max_num_seqs=16,
                max_batched_tokens=2048,
                kv_tokens=65_536,
            ),
            handover=HandoverProfile(token_bytes=262_144, arena_bytes=4 * _GIB, bytes_per_s=9e9, fixed_s=0.05),
            derivation="derived: 32B in bfloat16 is 64 GB; a step reads it from two A100 (2 TB/s each) at 0.8 of their "
            "rate, a prompt's token takes 64 GFLOP at half of 624 TFLOPS, 70 GB are left for KV of 262,144 "
            "bytes a token. 4 bits on a Kunpeng 920 with 160 cores: 18 GB at 260 GB/s a step, and the middle "
            "of an estimate of 80 to 150 tokens/s at 16 streams",
        ),
        Profile(
            name="t4-3b",
            gpu=DeviceProfile(
                prefill_tokens_per_s=4300,
                step_base_s=0.023,
                step_per_request_s=0.0002,
                max_num_seqs=16,
                kv_tokens=200_000,
            ),
            cpu=DeviceProfile(
                prefill_tokens_per_s=400,
                step_base_s=0.045,
                step_per_request_s=0.003,
                max_num_seqs=16,
                max_batched_tokens=2048,
                kv_tokens=200_000,
            ),
            handover=HandoverProfile(token_bytes=36_864, arena_bytes=_GIB, bytes_per_s=9e9, fixed_s=0.05),
            derivation="derived: 3B in float16 is 6 GB; a step reads it at 0.8 of a T4's 320 GB/s, a prompt's token "
            "takes 6 GFLOP at 0.4 of 65 TFLOPS. int8 on 16 cores: 3 GB at 80 GB/s; prompts as measured for a "
            "1.1B model on one core (0.83 s for 300 tokens), times cores, over the size",
        ),
        Profile(
            name="two-cores-1b",
            gpu=_CORE_1B,
            cpu=_CORE_1B,
            handover=HandoverProfile(token_bytes=45_056, arena_bytes=_GIB, bytes_per_s=2e9, fixed_s=0.05),
            derivation="measured: a 1.1B shape in bfloat16 on vLLM for CPUs, one AVX-512 core for each role (5.4, 19.6 "
            "and 41.2 tokens/s at 1, 4 and 16 streams; 300 tokens of prompt in 1.4 to 3 s); 4 slots each",
            slo_first_s=20.0,
            slo_token_s=0.5,
        ),
    )
}
