# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the rules of placement see, and what they share."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol, Self

import msgspec
from msgspec.structs import replace

from syshaxd.core.config import Config
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.capacity import Room, slots_by_kv
from syshaxd.core.placement.decision import Decision, InferenceRequest, Placement, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.targets import NO_TARGET, RequestClass, Target
from syshaxd.core.types import InstanceSpec, Role

CACHED_RATIO = 0.2
"""Share of a request's time that the KV cache of the previous turn saves, before anything was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which rules decide, and their thresholds."""

    name: str = "cost"
    """The name of the rules, a key of `RULES`."""
    gpu_cache_threshold: float = 0.9
    """KV-cache usage, 0..1, from which the GPU counts as full."""
    cpu_throughput_threshold: float = 0.0
    """Tokens per second below which a busy CPU gets no further request; 0: no such rule."""
    backlog_ratio: float = 0.25
    """Requests kept waiting inside a full instance, as a share of its slots, so that it never runs dry."""
    offload_min_prompt_tokens: int = 64
    """Shorter prompts are computed where they are decoded: a hand-over gains nothing."""
    holdout: float = 0.0
    """Share of the requests that a CPU would help, held out to measure what help gains."""
    targets: Mapping[RequestClass, Target] = field(default_factory=dict)
    """Latencies that each class is to get; one that is missing has no target."""

    def target(self, request: InferenceRequest) -> Target:
        """The latencies that a request is to get."""
        return self.targets.get(request.request_class, NO_TARGET)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The policy of a configuration."""
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
    """Streams that should migrate from one instance to another."""

    source: str
    target: str
    cause: Cause
    count: int
    """At most this many streams; the longest first."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a decision rests on, at one moment. Nothing in it changes."""

    policy: Policy
    snapshot: Snapshot = Snapshot()
    """The latest readings, up to one interval old."""
    inflight: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Requests that the daemon itself has running on each instance now."""
    ended: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Requests of the daemon that ended on each instance since the readings."""
    candidates: Sequence[InstanceSpec] = ()
    """The READY instances that serve the request, or all of them; in order of preference."""
    pairs: Set[tuple[str, str]] = frozenset()
    """Source and target of each possible hand-over between them, by name."""
    queued: int = 0
    """Requests in the queue that get the GPU before this one."""
    estimates: Estimates = Estimates()
    """What the instances were measured to do."""
    kv_tokens: Mapping[str, float] = msgspec.field(default_factory=dict)
    """KV-cache tokens that the daemon's requests on each instance are expected to have, summed."""
    request_kv_tokens: float = 0.0
    """KV-cache tokens that this request is expected to have; 0: the view is of no request."""
    cached_at: str = ""
    """The instance that answered the previous turn of the conversation; empty: none."""

    def mean_kv_tokens(self, name: str) -> float:
        """Mean KV-cache tokens of the requests on an instance, including this one; 0: nothing runs there."""
        count = self.inflight.get(name, 0) + (1 if self.request_kv_tokens else 0)
        return (self.kv_tokens.get(name, 0.0) + self.request_kv_tokens) / count if count > 0 else 0.0

    def specs(self, role: Role) -> list[InstanceSpec]:
        """The candidates in a role."""
        return [spec for spec in self.candidates if spec.role is role]


class Rules(Protocol):
    """Rules of placement: pure, so that the same view gives the same decision."""

    summary: str
    """One line for operators."""

    def room(self, view: View, spec: InstanceSpec) -> Room:
        """How much more an instance can take."""

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Places a request whose client insists on nothing. There is at least one candidate."""

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
    """Takes the best GPU that is not full, else help by a CPU, else the backlog of the least loaded GPU, else waits.

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
        return least_loaded([room(view, spec) for spec in view.candidates], ("no GPU instance is ready",), view=view)
    full = {gpu.spec.name: gpu_full(gpu) for gpu in gpus}
    able = [gpu for gpu in gpus if not full[gpu.spec.name]]
    if able:
        return RunOn(*soonest(view, request, able))
    reasons = [f"{name}: {why}" for name, why in full.items()]
    if len(gpus) > 1:
        # The GPUs serve one queue, each its share. The one with the shortest backlog takes this request first.
        gpus.sort(key=lambda gpu: gpu.queue / gpu.slots)
        share = gpus[0].slots / sum(gpu.slots for gpu in gpus)
        view = replace(view, queued=math.ceil(view.queued * share))
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
    return least_loaded(gpus, tuple(reasons), cpu_has_room=cpu_has_room, view=view)


def soonest(view: View, request: InferenceRequest, able: Sequence[Room]) -> tuple[str, tuple[str, ...]]:
    """Of GPUs that are not full, the one expected to answer first, and why.

    What counts is how quick each was seen to be, what share of its slots and KV cache is taken, and what the KV cache
    of the previous turn saves. While one of them was not seen at work, all count as equally quick.
    """
    if len(able) == 1:
        return able[0].spec.name, ("the GPU has room",)
    tokens = view.estimates.lengths_of(request.kinds).mean
    first_s: dict[str, float] = {}
    rest_s: dict[str, float] = {}
    for gpu in able:
        prompt, token = (its.get(gpu.spec.name) for its in (view.estimates.prefill_s, view.estimates.token_s))
        if prompt is None or token is None:
            first_s, rest_s = {}, {}
            break
        first_s[gpu.spec.name] = prompt.at(request.prompt_tokens)
        rest_s[gpu.spec.name] = token.at(gpu.running + 1) * tokens

    def cost(gpu: Room) -> float:
        name = gpu.spec.name
        load = max(gpu.running / gpu.slots, gpu.load.kv_usage_ratio)
        prompt_s, answer_s = first_s.get(name, CACHED_RATIO), rest_s.get(name, 1 - CACHED_RATIO)
        return (1 + load) * (answer_s + (0.0 if name == view.cached_at else prompt_s))

    best = min(able, key=cost).spec.name
    why = "it has answered the previous turn" if best == view.cached_at else "it is expected to answer first"
    return best, ("the GPU has room", why)


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


def least_loaded(
    rooms: Sequence[Room], reasons: tuple[str, ...], *, cpu_has_room: bool = False, view: View | None = None
) -> Decision:
    """The least loaded instance, backlog included. One whose cache holds the request's beginning may have more load."""
    able = [room for room in rooms if room.has_place]
    cached_at = "" if view is None else view.cached_at
    if able:
        loads = {
            room.spec.name: room.inflight / room.spec.max_num_seqs - (room.spec.name == cached_at) * CACHED_RATIO
            for room in able
        }
        return RunOn(min(loads, key=loads.__getitem__), reasons)
    return Wait((*reasons, *(f"{room.spec.name}: its backlog is full too" for room in rooms)), cpu_has_room)


def too_slow(room: Room, throughput_threshold: float) -> str:
    """Why a busy CPU gets no further request; empty: it may get one.

    Args:
        room: The CPU.
        throughput_threshold: Tokens per second under which it gets no more.
    """
    tokens_per_s = room.load.generation_tokens_per_s
    if room.load.running > 0 and tokens_per_s < throughput_threshold:
        return f"{tokens_per_s:.1f} tokens/s, under {throughput_threshold:g}"
    return ""
