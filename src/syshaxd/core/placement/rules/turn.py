# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The policy `turn`, the only one up to 0.3.0; kept for comparison.

When the GPU is full by its last reading, the CPU helps with what is expected to end sooner so, by any gain. A stream
leaves a GPU that preempts, whatever that costs; while it preempts, no stream goes back, and the queue waits behind it.
"""

from syshaxd.core.placement.capacity import HYSTERESIS, Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, Prediction, RunOn
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules.view import Move, View, gpu_first, too_slow
from syshaxd.core.types import InstanceSpec, Role

_HANDOVER_S = 0.1


class TurnRules:
    """See the module."""

    summary = "the rules up to 0.3.0: the CPU helps if the request is expected to finish sooner, by any margin"

    def room(self, view: View, spec: InstanceSpec) -> Room:
        """Rules: with no KV left, an instance has as many slots as it runs requests now."""
        load, threshold = view.snapshot.load(spec.name), view.policy.gpu_cache_threshold
        inflight = view.inflight.get(spec.name, 0)
        slots, kv_ratio = spec.max_num_seqs, load.kv_usage_ratio
        if load.running and (kv_ratio > threshold or (load.waiting and kv_ratio > threshold - HYSTERESIS)):
            slots = min(load.running, slots)
        turns_wait = bool(load.preempted and inflight)
        return Room(
            spec, load, inflight, view.ended.get(spec.name, 0), view.policy.backlog_ratio, slots, turns_wait=turns_wait
        )

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Rules."""
        return gpu_first(
            view,
            request,
            self.room,
            gpu_full=lambda gpu: _gpu_full(gpu, view.policy.gpu_cache_threshold),
            cpu_full=lambda cpu: _cpu_full(cpu, view.policy.cpu_throughput_threshold),
            help_=_help,
        )

    def moves(self, view: View) -> tuple[Move, ...]:
        """Rules."""
        if view.queued:
            return ()
        moves: list[Move] = []
        for gpu in view.specs(Role.GPU):
            preempts = view.snapshot.load(gpu.name).preempted > 0
            back = _spare(view, gpu)
            for cpu in view.specs(Role.CPU):
                full = _cpu_full(self.room(view, cpu), view.policy.cpu_throughput_threshold)
                if (cpu.name, gpu.name) in view.pairs and back:
                    moves.append(Move(cpu.name, gpu.name, Cause.ROOM, back))
                elif (gpu.name, cpu.name) in view.pairs and preempts and not full:
                    moves.append(Move(gpu.name, cpu.name, Cause.PRESSURE, 1))
        return tuple(moves)


def _gpu_full(room: Room, kv_threshold: float) -> str:
    if room.running >= room.spec.max_num_seqs:
        return f"{room.running} of {room.spec.max_num_seqs} slots taken"
    if room.waiting > 0 and room.load.running > 0:
        return f"{room.waiting} wait behind {room.load.running} running"
    if room.load.kv_usage_ratio > kv_threshold:
        return f"KV cache {room.load.kv_usage_ratio:.0%} used"
    return ""


def _cpu_full(room: Room, throughput_threshold: float) -> str:
    if room.running >= room.spec.max_num_seqs:
        return f"{room.running} of {room.spec.max_num_seqs} slots taken"
    if room.running >= room.slots:
        return f"KV cache {room.load.kv_usage_ratio:.0%} used"
    if room.waiting > 0:
        return f"{room.waiting} wait"
    return too_slow(room, throughput_threshold)


def _spare(view: View, gpu: InstanceSpec) -> int:
    """Streams that may return to a GPU at once without having to leave it again soon."""
    load = view.snapshot.load(gpu.name)
    if load.waiting or load.kv_usage_ratio > view.policy.gpu_cache_threshold - HYSTERESIS:
        return 0
    room = int(gpu.max_num_seqs * (1 - HYSTERESIS)) - max(load.running, view.inflight.get(gpu.name, 0))
    return max(0, min(room, 1 + gpu.max_num_seqs // 8))


def _help(
    view: View, request: InferenceRequest, gpus: list[Room], cpu: Room, reasons: tuple[str, ...]
) -> Placement | str:
    """How a CPU with room helps full GPUs; a text: why it is better to wait."""
    name = cpu.spec.name
    prefill: Room | None = None
    if not request.whole_because and request.prompt_tokens >= view.policy.offload_min_prompt_tokens:
        able = [gpu for gpu in gpus if (gpu.spec.name, name) in view.pairs]
        prefill = next((gpu for gpu in able if gpu.has_prefill_place), None)
        if able and prefill is None:
            return "has room, but a GPU has none to compute the prompt"
    gpu = prefill or gpus[0]
    splits = prefill is not None
    returns = request.movable and (request.stream or splits) and (name, gpu.spec.name) in view.pairs
    prediction = _predict(view, request, gpu, name, splits=splits, returns=returns)
    if prediction is not None and prediction.benefit_s < 0:
        return f"would take {prediction.offload_s:.1f} s, the wait for {gpu.spec.name} {prediction.wait_s:.1f} s"
    reasons = (*reasons, f"{name}: has room")
    returns_to = gpu.spec.name if returns else ""
    if prefill is None:
        return RunOn(name, reasons, returns_to, prediction)
    return Offload(gpu.spec.name, name, reasons, prediction, returns_to)


def _predict(
    view: View, request: InferenceRequest, gpu: Room, cpu: str, *, splits: bool, returns: bool
) -> Prediction | None:
    """Seconds with the CPU and without; None: one of them was never seen at work."""
    estimates = view.estimates
    gpu_step, cpu_step = estimates.token_s.get(gpu.spec.name), estimates.token_s.get(cpu)
    if gpu_step is None or cpu_step is None:
        return None
    gpu_s, cpu_s, mean = gpu_step.mean_s, cpu_step.mean_s, estimates.lengths.mean
    tokens = mean if request.max_tokens is None else min(mean, request.max_tokens)
    turn_s = (view.queued + gpu.queue + 1) * mean * gpu_s / gpu.slots
    wait_s = turn_s + tokens * gpu_s
    prefill_s = _HANDOVER_S
    if not splits:
        lines = [estimates.prefill_s.get(name) for name in (gpu.spec.name, cpu)]
        on_gpu_s, prefill_s = (request.prompt_tokens * line.y / line.x if line else 0.0 for line in lines)
        wait_s += on_gpu_s
    help_s = prefill_s + tokens * cpu_s
    if returns and turn_s < help_s:
        made = max(0.0, turn_s - prefill_s) / cpu_s + 1
        leaves_s = max(turn_s, prefill_s) + cpu_s
        help_s = min(help_s, leaves_s + _HANDOVER_S + max(0.0, tokens - made) * gpu_s)
    return Prediction(offload_s=help_s, wait_s=wait_s, least_s=wait_s - help_s)
