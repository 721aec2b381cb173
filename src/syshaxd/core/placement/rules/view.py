# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What rules of placement see, and what they have in common."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol, Self

from syshaxd.core.config import Config
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.capacity import Room, slots_by_kv
from syshaxd.core.placement.decision import Decision, InferenceRequest, Placement, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.targets import NO_TARGET, RequestClass, Target
from syshaxd.core.types import InstanceSpec, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which rules decide, and their thresholds."""

    name: str = "cost"
    """Of the rules (RULES)."""
    gpu_cache_threshold: float = 0.9
    """KV-cache usage, 0..1, from which the GPU counts as full."""
    cpu_throughput_threshold: float = 0.0
    """Tokens per second under which a working CPU instance gets no further request; 0: no such rule."""
    backlog_ratio: float = 0.25
    """Requests kept waiting inside a full instance, as a share of its slots, so that it never runs dry."""
    offload_min_prompt_tokens: int = 64
    """Prompts under this are computed where they are decoded: handing them over gains nothing."""
    holdout: float = 0.0
    """Share of the requests that a CPU would help with, which wait for the GPU instead, to measure what help gains."""
    targets: Mapping[RequestClass, Target] = field(default_factory=dict)
    """Latencies that each class is to get; one that is missing has no target."""

    def target(self, request: InferenceRequest) -> Target:
        """The latencies that a request is to get."""
        return self.targets.get(request.request_class, NO_TARGET)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """What a configuration says."""
        return cls(
            name=config.scheduler.policy,
            gpu_cache_threshold=config.decider.gpu_cache_threshold,
            cpu_throughput_threshold=config.decider.cpu_throughput_threshold,
            offload_min_prompt_tokens=config.offload.min_prompt_tokens,
            holdout=config.scheduler.holdout,
            targets={
                RequestClass(name): Target(ttft_s=target.ttft_s, tpot_s=target.tpot_s, refuse=target.refuse)
                for name, target in config.scheduler.slo
            },
        )


@dataclass(frozen=True, slots=True)
class Move:
    """Streams that should go on elsewhere."""

    source: str
    target: str
    cause: Cause
    count: int
    """At most so many; the longest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that a decision rests on."""

    policy: Policy
    snapshot: Snapshot
    """The latest readings, up to one interval old."""
    inflight: Mapping[str, int]
    """Requests that the daemon itself has running on each instance now."""
    ended: Mapping[str, int]
    """Requests of the daemon that ended on each instance since the readings."""
    candidates: Sequence[InstanceSpec]
    """The READY instances in question, in order of preference."""
    pairs: Set[tuple[str, str]]
    """Which of them can hand over to which, by name."""
    queued: int
    """Requests that get the GPU before the one in question, beside those inside it."""
    estimates: Estimates
    kv_tokens: Mapping[str, float] = field(default_factory=dict)
    """Of the daemon's requests on each instance: the sum of what they are expected to have in the KV cache."""
    request_kv_tokens: float = 0.0
    """Of the request in question; 0: there is none."""

    def mean_kv_tokens(self, name: str) -> float:
        """What a request on an instance has in the KV cache, with the one in question; 0: nothing runs there."""
        count = self.inflight.get(name, 0) + (1 if self.request_kv_tokens else 0)
        return (self.kv_tokens.get(name, 0.0) + self.request_kv_tokens) / count if count > 0 else 0.0

    def specs(self, role: Role) -> list[InstanceSpec]:
        """The candidates in a role."""
        return [spec for spec in self.candidates if spec.role is role]


class Rules(Protocol):
    """Rules of placement: pure, so that the same view gives the same decision."""

    summary: str
    """For operators, in one line."""

    def room(self, view: View, spec: InstanceSpec) -> Room:
        """How much more an instance can take."""

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Places a request that nothing but these rules places. There is at least one candidate."""

    def moves(self, view: View) -> tuple[Move, ...]:
        """Which running streams should move."""


def gpu_first(
    view: View,
    request: InferenceRequest,
    room: Callable[[View, InstanceSpec], Room],
    *,
    gpu_full: Callable[[Room], str],
    cpu_full: Callable[[Room], str],
    help_: Callable[[View, InferenceRequest, list[Room], Room, tuple[str, ...]], Placement | str],
) -> Decision:
    """Takes a GPU that is not full; else what a CPU helps with; else the least loaded GPU, or the wait for one.

    Args:
        view: What the decision rests on.
        request: The request.
        room: How much more an instance can take.
        gpu_full: Why a GPU is full, or an empty text.
        cpu_full: Why a CPU gets nothing, or an empty text.
        help_: What a CPU with room takes over from full GPUs; a text: why it is better to wait.
    """
    gpus = [room(view, spec) for spec in view.specs(Role.GPU)]
    if not gpus:
        return least_loaded([room(view, spec) for spec in view.candidates], ("no GPU instance is ready",))
    reasons: list[str] = []
    for gpu in gpus:
        full = gpu_full(gpu)
        if not full:
            return RunOn(gpu.spec.name, ("the GPU has room",))
        reasons.append(f"{gpu.spec.name}: {full}")
    cpu_has_room = False
    for spec in view.specs(Role.CPU):
        cpu = room(view, spec)
        refusal = cpu_full(cpu)
        if not refusal:
            cpu_has_room = True
            helped = help_(view, request, gpus, cpu, tuple(reasons))
            if not isinstance(helped, str):
                return helped
            refusal = helped
        reasons.append(f"{spec.name}: {refusal}")
    return least_loaded(gpus, tuple(reasons), cpu_has_room=cpu_has_room)


def room_by_kv(view: View, spec: InstanceSpec) -> Room:
    """How much more an instance can take by its slots, and by what its KV cache has room for."""
    policy, name = view.policy, spec.name
    return Room(
        spec,
        view.snapshot.load(name),
        view.inflight.get(name, 0),
        view.ended.get(name, 0),
        policy.backlog_ratio,
        slots_by_kv(spec, view.estimates.kv_share(name, view.mean_kv_tokens(name)), policy.gpu_cache_threshold),
        policy.gpu_cache_threshold,
    )


def least_loaded(rooms: Sequence[Room], reasons: tuple[str, ...], *, cpu_has_room: bool = False) -> Decision:
    """The least loaded of them, backlog included."""
    able = [room for room in rooms if room.has_place]
    if able:
        return RunOn(min(able, key=lambda room: room.inflight / room.spec.max_num_seqs).spec.name, reasons)
    return Wait((*reasons, *(f"{room.spec.name}: its backlog is full too" for room in rooms)), cpu_has_room)


def too_slow(room: Room, throughput_threshold: float) -> str:
    """Why a CPU at work gets no more, or an empty text.

    Args:
        room: The CPU.
        throughput_threshold: Tokens per second under which it gets no more.
    """
    tokens_per_s = room.load.generation_tokens_per_s
    if room.load.running > 0 and tokens_per_s < throughput_threshold:
        return f"{tokens_per_s:.1f} tokens/s, under {throughput_threshold:g}"
    return ""
