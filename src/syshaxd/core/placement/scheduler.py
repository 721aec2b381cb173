# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Scheduler: where a request goes. Pure: the same request, loads and counts give the same decision.

First policy, after upstream sysHAX: the GPU comes first; it is full when its slots are taken, when requests wait
behind running ones, or when its KV cache is nearly used up. Then the CPU helps, unless it is full or too slow itself.
When both are full, a short backlog inside the GPU's own queue keeps it fed, and everything over that waits here.
Where the GPU can hand over to the CPU, it makes the first token of what the CPU helps with, and the CPU the rest.
What the CPU helps with keeps its turn at the GPU if it can move there: then it goes on there, as if it had waited.
The CPU helps with nothing that is expected to end sooner if it waits for the GPU.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Self

from syshaxd.core.config import Config
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.capacity import HYSTERESIS, Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Reject, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates, predict_help
from syshaxd.core.placement.records import Cause
from syshaxd.core.types import InstanceSpec, Role

_NO_PAIRS: Set[tuple[str, str]] = frozenset()
_NONE_ENDED: Mapping[str, int] = {}
_NOTHING_KNOWN = Estimates()
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
        ended: Mapping[str, int] = _NONE_ENDED,
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
            ended: Requests of the daemon that ended on each instance since the readings.
            queued: Requests that get the GPU before this one, beside those inside it.
            estimates: What the instances were measured to do.
        """
        room_of = partial(self.room, snapshot=snapshot, inflight=inflight, ended=ended)
        if request.pinned is not None:
            return self._pinned(request.pinned, [room_of(spec) for spec in candidates if spec.name == request.pinned])
        if not candidates:
            return Reject("no instance that serves this request is ready", retry_after_s=5.0)
        if request.offload and (forced := self._offload(request, [room_of(spec) for spec in candidates], pairs)):
            return forced
        gpus: list[Room] = []
        reasons: list[str] = []
        for spec in candidates:
            if spec.role is Role.GPU:
                room = room_of(spec)
                full = room.gpu_full
                if not full:
                    return RunOn(spec.name, _GPU_HAS_ROOM)
                gpus.append(room)
                reasons.append(f"{spec.name}: {full}")
        if not gpus:
            return self._shortest([room_of(spec) for spec in candidates], ("no GPU instance is ready",))
        cpu_has_room = False
        for spec in candidates:
            if spec.role is Role.CPU:
                room = room_of(spec)
                full = room.cpu_full(self.policy.cpu_throughput_threshold)
                if not full:
                    cpu_has_room = True
                    helped = self._help(
                        request, gpus, room, tuple(reasons), pairs=pairs, queued=queued, estimates=estimates
                    )
                    if isinstance(helped, RunOn | Offload):
                        return helped
                    full = helped
                reasons.append(f"{spec.name}: {full}")
        return self._shortest(gpus, tuple(reasons), cpu_has_room=cpu_has_room)

    def room(
        self,
        spec: InstanceSpec,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        ended: Mapping[str, int] = _NONE_ENDED,
    ) -> Room:
        """How much more an instance can take. Arguments are those of `decide`."""
        name, policy = spec.name, self.policy
        load = snapshot.load(name)
        counts = inflight.get(name, 0), ended.get(name, 0)
        return Room(spec, load, *counts, policy.gpu_cache_threshold, policy.backlog_ratio)

    def moves(
        self,
        snapshot: Snapshot,
        inflight: Mapping[str, int],
        ready: Sequence[InstanceSpec],
        pairs: Set[tuple[str, str]],
    ) -> tuple[Move, ...]:
        """Which running streams should move: back to a GPU that has room again, or off one that preempts.

        Args:
            snapshot: The latest readings.
            inflight: Requests that the daemon itself has running on each instance now.
            ready: The READY instances.
            pairs: Which of them can hand over to which, by name.
        """
        moves: list[Move] = []
        for gpu in (spec for spec in ready if spec.role is Role.GPU):
            load = snapshot.load(gpu.name)
            for cpu in (spec for spec in ready if spec.role is Role.CPU):
                back = self._room(gpu, load, inflight.get(gpu.name, 0))
                if (cpu.name, gpu.name) in pairs and back:
                    moves.append(Move(cpu.name, gpu.name, Cause.ROOM, back))
                elif (gpu.name, cpu.name) in pairs and load.preempted:
                    room = self.room(cpu, snapshot, inflight)
                    if not room.cpu_full(self.policy.cpu_throughput_threshold):
                        moves.append(Move(gpu.name, cpu.name, Cause.PRESSURE, 1))
        return tuple(moves)

    def _room(self, gpu: InstanceSpec, load: InstanceLoad, inflight: int) -> int:
        """Streams that a GPU can take back at once, such that it does not have to give them away again soon."""
        if load.waiting or load.kv_usage_ratio > self.policy.gpu_cache_threshold - HYSTERESIS:
            return 0
        room = int(gpu.max_num_seqs * (1 - HYSTERESIS)) - max(load.running, inflight)
        return max(0, min(room, 1 + gpu.max_num_seqs // 8))

    def _offload(
        self, request: InferenceRequest, rooms: Sequence[Room], pairs: Set[tuple[str, str]]
    ) -> Offload | Wait | None:
        """An offload that the client asks for, now or later; None: it cannot be."""
        if request.whole_because:
            return None
        able = [
            (gpu, cpu)
            for gpu in rooms
            for cpu in rooms
            if gpu.spec.role is Role.GPU and cpu.spec.role is Role.CPU and (gpu.spec.name, cpu.spec.name) in pairs
        ]
        for gpu, cpu in able:
            if gpu.has_place and cpu.has_place:
                return Offload(gpu.spec.name, cpu.spec.name, ("the request asks for it",))
        return Wait(("the request asks for an offload, and the backlogs are full",)) if able else None

    def _help(
        self,
        request: InferenceRequest,
        gpus: Sequence[Room],
        cpu: Room,
        reasons: tuple[str, ...],
        *,
        pairs: Set[tuple[str, str]],
        queued: int,
        estimates: Estimates,
    ) -> RunOn | Offload | str:
        """What a CPU with room takes over from full GPUs; a text: why it is better to wait.

        Args:
            request: The request.
            gpus: The GPUs.
            cpu: The CPU.
            reasons: Why the GPUs are full.
            pairs: Which of them can hand over to which, by name.
            queued: Requests that get the GPU before this one, beside those inside it.
            estimates: What the instances were measured to do.
        """
        name = cpu.spec.name
        prefill: Room | None = None
        if not request.whole_because and request.prompt_tokens >= self.policy.offload_min_prompt_tokens:
            able = [gpu for gpu in gpus if (gpu.spec.name, name) in pairs]
            prefill = next((gpu for gpu in able if gpu.has_prefill_place), None)
            if able and prefill is None:
                return "has room, but a GPU has none to compute the prompt"
        gpu = prefill or gpus[0]
        splits = prefill is not None
        returns = request.movable and (request.stream or splits) and (name, gpu.spec.name) in pairs
        prediction = predict_help(
            estimates,
            gpu=gpu.spec.name,
            cpu=name,
            prompt_tokens=None if splits else request.prompt_tokens,
            max_tokens=request.max_tokens,
            ahead=queued + gpu.queue + 1,
            slots=gpu.slots,
            returns=returns,
        )
        if prediction is not None and prediction.benefit_s < 0:
            return f"would take {prediction.offload_s:.1f} s, the wait for {gpu.spec.name} {prediction.wait_s:.1f} s"
        reasons = (*reasons, f"{name}: has room")
        turn_at = gpu.spec.name if returns else ""
        if prefill is None:
            return RunOn(name, reasons, turn_at)
        return Offload(gpu.spec.name, name, reasons, prediction, turn_at)

    def _pinned(self, name: str, rooms: Sequence[Room]) -> Decision:
        if not rooms:
            return Reject(f"{name}, which the request asks for, is not ready", retry_after_s=5.0)
        return self._shortest(rooms, ("the request asks for it",))

    def _shortest(self, rooms: Sequence[Room], reasons: tuple[str, ...], *, cpu_has_room: bool = False) -> Decision:
        """The least loaded of them, backlog included."""
        able = [room for room in rooms if room.has_place]
        if able:
            return RunOn(min(able, key=lambda room: room.inflight / room.spec.max_num_seqs).spec.name, reasons)
        return Wait((*reasons, *(f"{room.spec.name}: its backlog is full too" for room in rooms)), cpu_has_room)
