# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Policies that predict nothing: `gpu-only`, `cpu-only` and `upstream-threshold`. They move no stream."""

from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, RunOn
from syshaxd.core.placement.rules.view import Move, View, least_loaded, room_by_kv, too_slow
from syshaxd.core.types import InstanceSpec, Role


class _OneRole:
    """All requests go to instances in one role; to others only while none of it is ready."""

    role: Role
    summary: str

    def room(self, view: View, spec: InstanceSpec) -> Room:
        """Rules."""
        return room_by_kv(view, spec)

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Rules."""
        specs = view.specs(self.role)
        reason = "the policy" if specs else f"no {self.role.value} instance is ready"
        return least_loaded([self.room(view, spec) for spec in specs or view.candidates], (reason,))

    def moves(self, view: View) -> tuple[Move, ...]:
        """Rules."""
        return ()


class GpuOnlyRules(_OneRole):
    """The GPU alone, for comparison."""

    role = Role.GPU
    summary = "the CPU gets requests only while no GPU instance is ready"


class CpuOnlyRules(_OneRole):
    """The CPU alone, for comparison."""

    role = Role.CPU
    summary = "the GPU gets requests only while no CPU instance is ready"


class UpstreamThresholdRules(_OneRole):
    """As upstream sysHAX 0.2: above a KV usage of the GPU, the CPU decodes, unless it is too slow."""

    role = Role.GPU
    summary = "as upstream sysHAX 0.2: over a KV usage of the GPU the CPU decodes, unless it is too slow"

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Rules."""
        for gpu in (self.room(view, spec) for spec in view.specs(Role.GPU)):
            if gpu.load.kv_usage_ratio <= view.policy.gpu_cache_threshold:
                continue
            used = f"{gpu.spec.name}: KV cache {gpu.load.kv_usage_ratio:.0%} used"
            for cpu in (self.room(view, spec) for spec in view.specs(Role.CPU)):
                if not cpu.has_place or too_slow(cpu, view.policy.cpu_throughput_threshold):
                    continue
                pair = gpu.spec.name, cpu.spec.name
                if pair in view.pairs and not request.whole_because and gpu.has_prefill_place:
                    return Offload(*pair, (used,))
                return RunOn(cpu.spec.name, (used,))
        return super().decide(view, request)
