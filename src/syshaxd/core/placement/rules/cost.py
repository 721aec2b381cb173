# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The policy `cost`: no request is worse off than with the GPU alone.

The GPU comes first, as if there were no CPU. When it is full, the CPU helps with what surely ends sooner so: the gain
must exceed a margin even if all measurements are off, and what it takes from others counts. Streams leave a GPU that
preempts, and come back, by the same measure.
"""

from collections.abc import Callable, Iterator, Sequence

from syshaxd.core.placement.capacity import HYSTERESIS, Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Placement, Prediction, RunOn
from syshaxd.core.placement.prediction import Help, making_room_pays, pays, predict_help, relief_pays, return_pays
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules.view import Move, View, gpu_first, room_by_kv, too_slow
from syshaxd.core.types import InstanceSpec, Role

_SHORT_PROMPT = 256
"""Longest prompt, in tokens, that a CPU computes to be measured for the first time."""


class CostRules:
    """See the module."""

    summary = "the GPU first; the CPU helps only if that certainly pays, including what it costs other requests"

    def room(self, view: View, spec: InstanceSpec) -> Room:
        """Rules."""
        return room_by_kv(view, spec)

    def decide(self, view: View, request: InferenceRequest) -> Decision:
        """Rules."""
        return gpu_first(
            view,
            request,
            self.room,
            gpu_full=lambda gpu: gpu.full,
            cpu_full=lambda cpu: cpu.full or too_slow(cpu, view.policy.cpu_throughput_threshold),
            help_=_help,
        )

    def moves(self, view: View) -> tuple[Move, ...]:
        """Rules."""
        if view.queued:
            return _make_room(view, self.room)
        gpus, cpus = ([self.room(view, spec) for spec in view.specs(role)] for role in (Role.GPU, Role.CPU))
        found = [_back(view, gpu, cpu) or _relief(view, gpu, cpu) for gpu in gpus for cpu in cpus]
        return tuple(move for move in [*(_aside(view, gpu, gpus) for gpu in gpus), *found] if move)


def _help(
    view: View, request: InferenceRequest, gpus: list[Room], cpu: Room, reasons: tuple[str, ...]
) -> Placement | str:
    """How a CPU with room helps full GPUs; a text: why it is better to wait."""
    if request.is_batch and 2 * cpu.running >= cpu.slots:
        return "the other half of its slots is for interactive requests"
    found: list[tuple[Help, Prediction]] = []
    refusal = ""
    for help_ in ways(view, request, gpus, cpu):
        prediction = predict_help(view.estimates, help_)
        if prediction is not None:
            found.append((help_, prediction))
            refusal = refusal or _refusal(help_, prediction)
        elif not cpu.running and (_has_place(gpus, help_) if help_.splits else request.prompt_tokens <= _SHORT_PROMPT):
            return _placement(help_, None, reasons)
        else:
            refusal = refusal or "has room, but its speed is not known yet; one request measures it first"
    best = _best(view, request, found)
    if best is None:
        return refusal
    if best[0].splits and not _has_place(gpus, best[0]):
        return "has room, but a GPU has none to compute the prompt"
    return _placement(*best, reasons)


def _best(
    view: View, request: InferenceRequest, found: Sequence[tuple[Help, Prediction]]
) -> tuple[Help, Prediction] | None:
    """The way in which a CPU helps a request; None: it is better to wait.

    What pays comes first. Otherwise a request whose target only help meets takes the way that costs others least, if it
    surely gains more to its first token than it costs them; so does a batch request, which leaves the GPU to others.
    """
    target = view.policy.target(request)
    tokens = view.estimates.lengths_of(request.kinds).mean
    tokens = max(1.0, tokens if request.max_tokens is None else min(tokens, request.max_tokens))
    paying: list[tuple[Help, Prediction]] = []
    meeting: list[tuple[Help, Prediction]] = []
    for help_, prediction in found:
        if prediction.delays_gpu:
            continue
        offload_first_s, wait_first_s = prediction.offload_first_s or 0.0, prediction.wait_first_s or 0.0
        met = target.met(offload_first_s, (prediction.offload_s - offload_first_s) / tokens)
        met_by_waiting = target.met(wait_first_s, (prediction.wait_s - wait_first_s) / tokens)
        if pays(prediction) and (met or not met_by_waiting):
            paying.append((help_, prediction))
        if met and (request.is_batch or not met_by_waiting) and prediction.least_first_s > 0:
            meeting.append((help_, prediction))
    if paying:
        return max(paying, key=lambda one: one[1].least_s)
    return min(meeting, key=lambda one: one[1].others_s, default=None)


def _refusal(help_: Help, prediction: Prediction) -> str:
    if prediction.delays_gpu:
        return f"would cost other requests more of {help_.gpu}'s time than it saves"
    return (
        f"would take {prediction.offload_s:.1f} s, the wait for {help_.gpu} {prediction.wait_s:.1f} s; "
        f"surely gained: {prediction.least_s:.1f} s"
    )


def _has_place(gpus: list[Room], help_: Help) -> bool:
    """Whether the GPU has a place to compute the prompt."""
    return any(gpu.has_prefill_place for gpu in gpus if gpu.spec.name == help_.gpu)


def ways(view: View, request: InferenceRequest, gpus: list[Room], cpu: Room) -> Iterator[Help]:
    """How the CPU could help: with a prompt that a GPU computes, and with all of the request."""
    name = cpu.spec.name
    able = [gpu for gpu in gpus if (gpu.spec.name, name) in view.pairs]
    if request.whole_because or request.prompt_tokens < view.policy.offload_min_prompt_tokens:
        able = []
    able.sort(key=lambda gpu: not gpu.has_prefill_place)
    share = view.estimates.kv_share(name, view.request_kv_tokens)
    kv_ratio = None
    if share and cpu.load.running:
        kv_ratio = cpu.load.kv_usage_ratio / cpu.load.running * cpu.running + share.value
    for gpu, splits in [(gpu, True) for gpu in able[:1]] + [(gpus[0], False)]:
        pair = name, gpu.spec.name
        yield Help(
            gpu=gpu.spec.name,
            cpu=name,
            kinds=request.kinds,
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            slots=gpu.slots,
            inside=gpu.queue,
            queued=view.queued,
            cpu_running=cpu.running,
            cpu_slots=cpu.slots,
            cpu_kv_ratio=kv_ratio,
            splits=splits,
            returns=request.movable and (request.stream or splits) and pair in view.pairs,
        )


def _placement(help_: Help, prediction: Prediction | None, reasons: tuple[str, ...]) -> Placement:
    reasons = (*reasons, f"{help_.cpu}: has room")
    returns_to = help_.gpu if help_.returns else ""
    if help_.splits:
        return Offload(help_.gpu, help_.cpu, reasons, prediction, returns_to)
    return RunOn(help_.cpu, reasons, returns_to, prediction)


def _back(view: View, gpu: Room, cpu: Room) -> Move | None:
    """Streams return to a GPU with spare room, only as many as it need not send away again soon."""
    pair = cpu.spec.name, gpu.spec.name
    kv_full = gpu.load.kv_usage_ratio > view.policy.gpu_cache_threshold - HYSTERESIS
    if pair not in view.pairs or gpu.load.waiting or kv_full or not return_pays(view.estimates, *reversed(pair)):
        return None
    count = min(int(gpu.slots * (1 - HYSTERESIS)) - gpu.running, 1 + gpu.slots // 8)
    return Move(*pair, Cause.ROOM, count) if count > 0 else None


def _aside(view: View, gpu: Room, gpus: list[Room]) -> Move | None:
    """A stream leaves a GPU that preempts, for another GPU with room."""
    if not gpu.load.preempted:
        return None
    able = [other for other in gpus if (gpu.spec.name, other.spec.name) in view.pairs and not other.full]
    target = min(able, key=lambda other: other.running / other.slots, default=None)
    return target and Move(gpu.spec.name, target.spec.name, Cause.PRESSURE, 1)


def _relief(view: View, gpu: Room, cpu: Room) -> Move | None:
    """A stream leaves a GPU that preempts, for a CPU."""
    pair = gpu.spec.name, cpu.spec.name
    if not gpu.load.preempted or pair not in view.pairs or cpu.full:
        return None
    if not relief_pays(view.estimates, *pair, waiting=gpu.queue, slots=gpu.slots):
        return None
    return Move(*pair, Cause.PRESSURE, 1)


def _make_room(view: View, room: Callable[[View, InstanceSpec], Room]) -> tuple[Move, ...]:
    """While interactive requests wait, a batch stream leaves each full GPU for a CPU with spare slots, if that pays."""
    moves: list[Move] = []
    for gpu in (room(view, spec) for spec in view.specs(Role.GPU)):
        cpus = [room(view, spec) for spec in view.specs(Role.CPU) if (gpu.spec.name, spec.name) in view.pairs]
        cpu = next((cpu for cpu in cpus if not cpu.full and 2 * cpu.running < cpu.slots), None)
        if gpu.full and cpu is not None and making_room_pays(view.estimates, gpu, cpu, view.queued):
            moves.append(Move(gpu.spec.name, cpu.spec.name, Cause.PRIORITY, 1))
    return tuple(moves)
