# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Scheduler: where a request goes. Pure: the same request, loads and counts give the same decision.

First policy, after upstream sysHAX: the GPU comes first; it is full when its slots are taken, when requests wait
behind running ones, or when its KV cache is nearly used up. Then the CPU helps, unless it is full or too slow itself.
When both are full, a short backlog inside the GPU's own queue keeps it fed, and everything over that waits here.
Where the GPU can hand over to the CPU, it makes the first token of what the CPU helps with, and the CPU the rest.
The CPU helps with nothing that is expected to end sooner if it waits for the GPU.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Self

from syshaxd.core.config import Config
from syshaxd.core.estimate import Estimates, predict_help
from syshaxd.core.types import (
    Cause,
    Decision,
    InferenceRequest,
    InstanceLoad,
    InstanceSpec,
    Offload,
    Reject,
    Role,
    RunOn,
    Snapshot,
    Wait,
)

_NO_PAIRS: Set[tuple[str, str]] = frozenset()
_NOTHING_KNOWN = Estimates()
_NO_LOAD = InstanceLoad(read_at_s=0.0)
# Between giving streams away and taking them back, as a share of slots and of KV.
_HYSTERESIS = 0.2
_GPU_HAS_ROOM = ("the GPU has room",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The thresholds of the decision."""

    gpu_cache_threshold: float = 0.9
    """KV-cache usage, 0..1, from which the GPU counts as full."""
    cpu_throughput_threshold: float = 0.0
    """Tokens per second under which a working CPU instance gets no further request; 0: no such rule."""
    backlog_ratio: float = 0.25
    """Requests kept waiting inside a full instance, as a share of its slots, so that it never runs dry."""
    offload_min_prompt_tokens: int = 64
    """Prompts under this are computed where they are decoded: handing them over gains nothing."""

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The thresholds that a configuration names."""
        return cls(
            gpu_cache_threshold=config.decider.gpu_cache_threshold,
            cpu_throughput_threshold=config.decider.cpu_throughput_threshold,
            offload_min_prompt_tokens=config.offload.min_prompt_tokens,
        )


@dataclass(frozen=True, slots=True)
class Move:
    """Streams that should go on elsewhere."""

    source: str
    target: str
    cause: Cause
    count: int
    """At most so many; the longest first."""


class Scheduler:
    """Decides by one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """May be exchanged at any time."""

    def decide(
        self,
        request: InferenceRequest,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        candidates: Sequence[InstanceSpec],
        pairs: Set[tuple[str, str]] = _NO_PAIRS,
        *,
        queued: int = 0,
        estimates: Estimates = _NOTHING_KNOWN,
    ) -> Decision:
        """Places one request.

        Args:
            request: The request.
            snapshot: The latest readings, up to one interval old.
            inflight: Requests that the daemon itself has running on each instance now.
            candidates: The READY instances that serve the request's model and route, in order of preference.
            pairs: Which of them can hand over to which, by name.
            queued: Requests that wait before this one.
            estimates: What the instances were measured to do.
        """
        if request.pinned is not None:
            return self._pinned(request.pinned, inflight, candidates)
        if not candidates:
            return Reject("no instance that serves this request is ready", retry_after_s=5.0)
        if request.offload and (forced := self._offload(request, candidates, inflight, pairs)):
            return forced
        gpus: list[InstanceSpec] = []
        reasons: list[str] = []
        for spec in candidates:
            if spec.role is Role.GPU:
                full = self._gpu_full(spec, snapshot.instances.get(spec.name, _NO_LOAD), inflight.get(spec.name, 0))
                if not full:
                    return RunOn(spec.name, _GPU_HAS_ROOM)
                gpus.append(spec)
                reasons.append(f"{spec.name}: {full}")
        if not gpus:
            return self._shortest(candidates, inflight, ("no GPU instance is ready",))
        for spec in candidates:
            if spec.role is Role.CPU:
                full = self._cpu_full(spec, snapshot.instances.get(spec.name, _NO_LOAD), inflight.get(spec.name, 0))
                if not full:
                    able = (gpu for gpu in gpus if (gpu.name, spec.name) in pairs)
                    prefill = next((gpu for gpu in able if inflight.get(gpu.name, 0) < self.places(gpu)), None)
                    gpu = prefill or gpus[0]
                    ahead = queued + self._waiting(gpu, snapshot, inflight) + 1
                    splits = prefill is not None
                    helped = self._help(
                        request, gpu, spec, tuple(reasons), splits=splits, ahead=ahead, estimates=estimates
                    )
                    if isinstance(helped, RunOn | Offload):
                        return helped
                    full = helped
                reasons.append(f"{spec.name}: {full}")
        return self._shortest(gpus, inflight, tuple(reasons))

    def moves(
        self,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        ready: Sequence[InstanceSpec],
        pairs: Set[tuple[str, str]],
    ) -> tuple[Move, ...]:
        """Which running streams should move: back to a GPU that has room again, or off one whose KV cache is full.

        Args:
            snapshot: The latest readings.
            inflight: Requests that the daemon itself has running on each instance now.
            ready: The READY instances.
            pairs: Which of them can hand over to which, by name.
        """
        moves: list[Move] = []
        for gpu in (spec for spec in ready if spec.role is Role.GPU):
            load = snapshot.instances.get(gpu.name, _NO_LOAD)
            for cpu in (spec for spec in ready if spec.role is Role.CPU):
                back = self._room(gpu, load, inflight.get(gpu.name, 0))
                if (cpu.name, gpu.name) in pairs and back:
                    moves.append(Move(cpu.name, gpu.name, Cause.ROOM, back))
                elif (gpu.name, cpu.name) in pairs and self._under_pressure(load):
                    cpu_load = snapshot.instances.get(cpu.name, _NO_LOAD)
                    if not self._cpu_full(cpu, cpu_load, inflight.get(cpu.name, 0)):
                        moves.append(Move(gpu.name, cpu.name, Cause.PRESSURE, 1))
        return tuple(moves)

    def _room(self, gpu: InstanceSpec, load: InstanceLoad, inflight: int) -> int:
        """Streams that a GPU can take back at once, such that it does not have to give them away again soon."""
        if load.waiting or load.kv_usage_ratio > self.policy.gpu_cache_threshold - _HYSTERESIS:
            return 0
        room = int(gpu.max_num_seqs * (1 - _HYSTERESIS)) - max(load.running, inflight)
        return max(0, min(room, 1 + gpu.max_num_seqs // 8))

    def _under_pressure(self, load: InstanceLoad) -> bool:
        """Requests wait, and no KV is left for them: the GPU would preempt."""
        return load.waiting > 0 and load.kv_usage_ratio > self.policy.gpu_cache_threshold

    def _offload(
        self,
        request: InferenceRequest,
        candidates: Sequence[InstanceSpec],
        inflight: Mapping[str, int],
        pairs: Set[tuple[str, str]],
    ) -> Offload | Wait | None:
        """An offload that the client asks for, now or later; None: it cannot be."""
        if request.whole_because:
            return None
        able = [
            (gpu, cpu)
            for gpu in candidates
            for cpu in candidates
            if gpu.role is Role.GPU and cpu.role is Role.CPU and (gpu.name, cpu.name) in pairs
        ]
        for gpu, cpu in able:
            if all(inflight.get(spec.name, 0) < self.places(spec) for spec in (gpu, cpu)):
                return Offload(gpu.name, cpu.name, ("the request asks for it",))
        return Wait(("the request asks for an offload, and the backlogs are full",)) if able else None

    def _help(
        self,
        request: InferenceRequest,
        gpu: InstanceSpec,
        cpu: InstanceSpec,
        reasons: tuple[str, ...],
        *,
        splits: bool,
        ahead: int,
        estimates: Estimates,
    ) -> RunOn | Offload | str:
        """What a CPU with room takes over from a full GPU; a text: why it is better to wait.

        Args:
            request: The request.
            gpu: The GPU that it would wait for.
            cpu: The CPU.
            reasons: Why the GPU is full.
            splits: Whether the GPU can hand over to the CPU, and take the prefill into its backlog.
            ahead: Requests that get the GPU before this one.
            estimates: What the instances were measured to do.
        """
        long_enough = request.prompt_tokens >= self.policy.offload_min_prompt_tokens
        splits = splits and not request.whole_because and long_enough
        prediction = predict_help(
            estimates,
            gpu=gpu.name,
            cpu=cpu.name,
            prompt_tokens=None if splits else request.prompt_tokens,
            max_tokens=request.max_tokens,
            ahead=ahead,
            slots=gpu.max_num_seqs,
        )
        if prediction is not None and prediction.benefit_s < 0:
            return f"would take {prediction.offload_s:.1f} s, the wait for {gpu.name} {prediction.wait_s:.1f} s"
        reasons = (*reasons, f"{cpu.name}: has room")
        return Offload(gpu.name, cpu.name, reasons, prediction) if splits else RunOn(cpu.name, reasons)

    def _waiting(self, gpu: InstanceSpec, snapshot: Snapshot, inflight: Mapping[str, int]) -> int:
        """Requests in a GPU's own queue; the daemon's own count is newer than the reading."""
        read = snapshot.instances.get(gpu.name, _NO_LOAD).waiting
        return max(read, inflight.get(gpu.name, 0) - gpu.max_num_seqs)

    def _pinned(self, name: str, inflight: Mapping[str, int], candidates: Sequence[InstanceSpec]) -> Decision:
        chosen = [spec for spec in candidates if spec.name == name]
        if not chosen:
            return Reject(f"{name}, which the request asks for, is not ready or does not serve it", retry_after_s=5.0)
        return self._shortest(chosen, inflight, ("the request asks for it",))

    def _shortest(
        self, candidates: Sequence[InstanceSpec], inflight: Mapping[str, int], reasons: tuple[str, ...]
    ) -> Decision:
        """The least loaded of the candidates, backlog included."""
        best = min(candidates, key=lambda spec: inflight.get(spec.name, 0) / spec.max_num_seqs)
        if inflight.get(best.name, 0) < self.places(best):
            return RunOn(best.name, reasons)
        return Wait((*reasons, f"{best.name}: its backlog is full too"))

    def places(self, spec: InstanceSpec) -> int:
        """Requests that an instance gets at most: its slots and a short backlog."""
        return spec.max_num_seqs + max(1, int(spec.max_num_seqs * self.policy.backlog_ratio))

    def _gpu_full(self, spec: InstanceSpec, load: InstanceLoad, inflight: int) -> str:
        """Why the instance can take no more, or an empty text."""
        running = max(load.running, inflight)
        if running >= spec.max_num_seqs:
            return f"{running} of {spec.max_num_seqs} slots taken"
        if load.waiting > 0 and load.running > 0:
            return f"{load.waiting} wait behind {load.running} running"
        if load.kv_usage_ratio > self.policy.gpu_cache_threshold:
            return f"KV cache {load.kv_usage_ratio:.0%} used"
        return ""

    def _cpu_full(self, spec: InstanceSpec, load: InstanceLoad, inflight: int) -> str:
        """Why the instance can take no more, or an empty text."""
        running = max(load.running, inflight)
        if running >= spec.max_num_seqs:
            return f"{running} of {spec.max_num_seqs} slots taken"
        if load.waiting > 0:
            return f"{load.waiting} wait"
        threshold = self.policy.cpu_throughput_threshold
        if load.running > 0 and load.generation_tokens_per_s < threshold:
            return f"{load.generation_tokens_per_s:.1f} tokens/s, under {threshold:g}"
        return ""
