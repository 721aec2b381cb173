# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The policy `cost`: nobody is worse off than with the GPU alone.

The GPU comes first, as if there were no CPU. When it is full, the CPU helps with what surely ends sooner so: the gain
must exceed a margin even if all measurements are off, and what it takes from others counts. Streams leave a GPU that
preempts, and come back, by the same measure.
"""

from syshaxd.core.placement.capacity import HYSTERESIS, Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, RunOn
from syshaxd.core.placement.prediction import Help, pays, predict_help, relief_pays, return_pays
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules.view import Move, View, least_loaded, room_by_kv, too_slow
from syshaxd.core.types import InstanceSpec, Role


class CostRules:
    """See the module."""

    def room(self, view: View, spec: InstanceSpec) -> Room:
        """Rules."""
        return room_by_kv(view, spec)

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Rules."""
        gpus = [self.room(view, spec) for spec in view.specs(Role.GPU)]
        if not gpus:
            return least_loaded([self.room(view, spec) for spec in view.candidates], ("no GPU instance is ready",))
        reasons: list[str] = []
        for gpu in gpus:
            if not gpu.full:
                return RunOn(gpu.spec.name, ("the GPU has room",))
            reasons.append(f"{gpu.spec.name}: {gpu.full}")
        cpu_has_room = False
        for spec in view.specs(Role.CPU):
            cpu = self.room(view, spec)
            refusal = cpu.full or too_slow(cpu, view.policy.cpu_throughput_threshold)
            if not refusal:
                cpu_has_room = True
                helped = _help(view, request, gpus, cpu, tuple(reasons))
                if not isinstance(helped, str):
                    return helped
                refusal = helped
            reasons.append(f"{spec.name}: {refusal}")
        return least_loaded(gpus, tuple(reasons), cpu_has_room=cpu_has_room)

    def moves(self, view: View) -> tuple[Move, ...]:
        """Rules."""
        moves: list[Move] = []
        for gpu in (self.room(view, spec) for spec in view.specs(Role.GPU)):
            for cpu in (self.room(view, spec) for spec in view.specs(Role.CPU)):
                move = _back(view, gpu, cpu) or _relief(view, gpu, cpu)
                if move:
                    moves.append(move)
        return tuple(moves)


def _help(
    view: View, request: InferenceRequest, gpus: list[Room], cpu: Room, reasons: tuple[str, ...]
) -> Placement | str:
    """What a CPU with room takes over from full GPUs; a text: why it is better to wait."""
    name = cpu.spec.name
    gpu, splits = gpus[0], False
    if not request.whole_because and request.prompt_tokens >= view.policy.offload_min_prompt_tokens:
        able = [gpu for gpu in gpus if (gpu.spec.name, name) in view.pairs]
        if able:
            prefill = next((gpu for gpu in able if gpu.has_prefill_place), None)
            if prefill is None:
                return "has room, but a GPU has none to compute the prompt"
            gpu, splits = prefill, True
    returns = request.movable and (request.stream or splits) and (name, gpu.spec.name) in view.pairs
    prediction = predict_help(
        view.estimates,
        Help(
            gpu=gpu.spec.name,
            cpu=name,
            kind=request.kind,
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            slots=gpu.slots,
            inside=gpu.queue,
            queued=view.queued,
            cpu_running=cpu.running,
            splits=splits,
            returns=returns,
        ),
    )
    if prediction is None and cpu.running:
        return "has room, but how quick it is gets known first, by one request"
    if prediction is not None and not pays(prediction):
        return (
            f"would take {prediction.offload_s:.1f} s, the wait for {gpu.spec.name} {prediction.wait_s:.1f} s; "
            f"surely gained: {prediction.least_s:.1f} s"
        )
    reasons = (*reasons, f"{name}: has room")
    turn_at = gpu.spec.name if returns else ""
    if splits:
        return Offload(gpu.spec.name, name, reasons, prediction, turn_at)
    return RunOn(name, reasons, turn_at)


def _back(view: View, gpu: Room, cpu: Room) -> Move | None:
    """Streams without a turn go back to a GPU that has to spare, so many that it need not give them away again soon."""
    pair = cpu.spec.name, gpu.spec.name
    kv_full = gpu.load.kv_usage_ratio > view.policy.gpu_cache_threshold - HYSTERESIS
    if pair not in view.pairs or gpu.load.waiting or kv_full or not return_pays(view.estimates, *reversed(pair)):
        return None
    count = min(int(gpu.slots * (1 - HYSTERESIS)) - gpu.running, 1 + gpu.slots // 8)
    return Move(*pair, Cause.ROOM, count) if count > 0 else None


def _relief(view: View, gpu: Room, cpu: Room) -> Move | None:
    """A stream leaves a GPU that preempts."""
    pair = gpu.spec.name, cpu.spec.name
    if not gpu.load.preempted or pair not in view.pairs or cpu.full:
        return None
    if not relief_pays(view.estimates, *pair, waiting=gpu.queue, slots=gpu.slots):
        return None
    return Move(*pair, Cause.PRESSURE, 1)
