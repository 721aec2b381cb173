# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Gain and cost of help by a CPU, in seconds: the expected value, and a lower bound."""

import math
from dataclasses import dataclass

from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.decision import InferenceRequest, Prediction
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.measured import Measured
from syshaxd.core.placement.steps import StepTime

_HANDOVER_S = 0.1
_HANDOVER_STEPS = 2
"""A hand-over that was never measured counts as `_HANDOVER_S` plus this many steps of the slower instance."""
MEDIAN, LONG = 0.5, 0.9
"""Quantiles of the answers' lengths: help must pay at both."""
_MARGIN_S = 0.25
_MARGIN_RATIO = 0.1
"""Help must gain at least this many seconds and such a share of the wait: less may be lost in unmeasured costs."""
_MAX_ERROR_RATIO = 0.9
_INTERFERENCE = 0.02
"""Share by which a CPU's work lengthens a GPU's steps, unless it was measured: engines share the host's cores, caches
and memory. Source: benchmarks/gpu."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """A CPU's help for one request that would wait for a GPU."""

    gpu: str
    cpu: str
    kinds: tuple[str, ...]
    """InferenceRequest.kinds."""
    prompt_tokens: int
    max_tokens: int | None
    slots: int
    """Requests that the GPU runs at the same time."""
    inside: int
    """Requests that wait inside the GPU."""
    queued: int
    """Requests in the queue that get the GPU before this one."""
    cpu_running: int
    cpu_slots: int
    """Requests that the CPU runs at the same time."""
    cpu_kv_ratio: float | None = None
    """Share of the CPU's KV cache in use, with this request; None: as usual."""
    splits: bool
    """The GPU computes the prompt and hands it over."""
    returns: bool
    """The answer migrates to the GPU when its position there comes up."""


def predict_help(estimates: Estimates, help_: Help) -> Prediction | None:
    """Compares help now with the wait for the GPU; None: a measurement of one of the instances is missing."""
    gpu, cpu = estimates.token_s.get(help_.gpu), estimates.token_s.get(help_.cpu)
    if gpu is None or cpu is None or not (help_.splits or help_.cpu in estimates.prefill_s):
        return None
    lengths = estimates.lengths_of(help_.kinds)
    expected = _Case(estimates, help_, gpu, cpu, tokens=lengths.mean, doubt=0.0)
    worst = [_Case(estimates, help_, gpu, cpu, tokens=lengths.quantile(at), doubt=1.0) for at in (MEDIAN, LONG)]
    return Prediction(
        offload_s=expected.help_s,
        wait_s=expected.wait_s,
        least_s=min(case.wait_s - case.help_s - case.others_s for case in worst),
        least_first_s=min(case.wait_first_s - case.help_first_s - case.others_s for case in worst),
        offload_first_s=expected.help_first_s,
        wait_first_s=expected.wait_first_s,
        others_s=expected.others_s,
        delays_gpu=any(case.delays_gpu for case in worst),
    )


def predict_first_s(estimates: Estimates, room: Room, request: InferenceRequest, queued: int) -> float:
    """Seconds until an instance makes a request's first token; 0: it was not measured yet.

    Args:
        estimates: What was measured.
        room: The instance's. If it is full, the request waits for its turn.
        request: The request.
        queued: Requests in the queue that get the instance before it.
    """
    step, prompt = estimates.token_s.get(room.spec.name), estimates.prefill_s.get(room.spec.name)
    if step is None:
        return 0.0
    turn_s = 0.0
    if room.full:
        turn_s = (queued + room.queue + 1) * estimates.lengths.mean * step.at(room.slots) / room.slots
    return turn_s + (prompt.at(request.prompt_tokens) if prompt else 0.0)


def pays(prediction: Prediction) -> bool:
    """Whether help gains more than a trifle, even if everything measured is off, and spares the GPU time."""
    return not prediction.delays_gpu and prediction.least_s > max(_MARGIN_S, _MARGIN_RATIO * prediction.wait_s)


def relief_pays(estimates: Estimates, gpu: str, cpu: str, *, waiting: int, slots: int) -> bool:
    """Whether a stream should leave a GPU that preempts because its KV cache is full, and return later.

    If it stays, a request is thrown out, waits for those inside that end, and is computed again.

    Args:
        estimates: What was measured.
        gpu: The instance that preempts.
        cpu: Where the stream would go.
        waiting: Requests that wait inside the GPU.
        slots: Requests that it runs at the same time.
    """
    gpu_step, cpu_step = estimates.token_s.get(gpu), estimates.token_s.get(cpu)
    prompt = estimates.prefill_s.get(gpu)
    if gpu_step is None or cpu_step is None or prompt is None:
        return False
    gpu_s = gpu_step.at(slots) * (1 - min(_MAX_ERROR_RATIO, gpu_step.error_ratio))
    cpu_s = cpu_step.mean_s * (1 + cpu_step.error_ratio)
    away_s = (waiting + 1) * estimates.lengths.mean * gpu_s / slots
    tokens = prompt.x + estimates.lengths.mean / 2
    gain_s = away_s * min(1.0, gpu_s / cpu_s) + prompt.at(tokens)
    moves_s = handover_s(estimates, gpu, cpu, tokens).high + handover_s(estimates, cpu, gpu, tokens).high
    refused, computes = estimates.refused.get(gpu), estimates.prefill_s.get(cpu)
    if refused is not None and computes is not None:
        moves_s += min(1.0, refused.high) * computes.at(prompt.x)
    # While it is away, the CPU's work delays all streams that stay.
    delays_s = slots * away_s * interference(estimates, gpu, cpu)
    return gain_s - moves_s - delays_s > _MARGIN_S


def making_room_pays(estimates: Estimates, gpu: Room, cpu: Room, queued: int) -> bool:
    """Whether a batch stream should leave a full GPU for a CPU, so that interactive requests get its slot.

    All that wait move up by one place, once the stream has left. What the stream itself loses does not count: batch is
    the first to be paused. What its work takes from others does.

    Args:
        estimates: What was measured.
        gpu: The full GPU.
        cpu: Where the stream would go.
        queued: Interactive requests that wait, behind which the stream returns.
    """
    gpu_step, cpu_step = (estimates.token_s.get(room.spec.name) for room in (gpu, cpu))
    if gpu_step is None or cpu_step is None:
        return False
    tokens = estimates.lengths.mean
    gpu_s = gpu_step.at(gpu.slots) * (1 - min(_MAX_ERROR_RATIO, gpu_step.error_ratio))
    end_s = tokens * gpu_s / gpu.slots
    prompt, computes = (estimates.prefill_s.get(room.spec.name) for room in (gpu, cpu))
    context = tokens / 2 + (prompt.x if prompt else 0.0)
    leaves_s = handover_s(estimates, gpu.spec.name, cpu.spec.name, context).high
    away_s = (queued + gpu.queue + 1) * tokens * gpu_step.at(gpu.slots) / gpu.slots
    made = min(tokens, away_s / cpu_step.at(cpu.running + 1))
    others_s = cpu.running * made * cpu_step.slope
    # All that the CPU computes at once share in what it takes from the GPU's streams.
    others_s += gpu.slots * away_s * interference(estimates, gpu.spec.name, cpu.spec.name) / (cpu.running + 1)
    refused = estimates.refused.get(gpu.spec.name)
    if refused is not None and computes is not None:
        others_s += cpu.running * min(1.0, refused.high) * computes.at(context) * (1 + computes.error_ratio)
    return queued * end_s - leaves_s - others_s > _MARGIN_S


def return_pays(estimates: Estimates, gpu: str, cpu: str) -> bool:
    """Whether a stream of mean length finishes sooner if it moves from a CPU to a GPU with room."""
    gpu_step, cpu_step, prompt = estimates.token_s.get(gpu), estimates.token_s.get(cpu), estimates.prefill_s.get(gpu)
    if gpu_step is None or cpu_step is None:
        return True
    left = estimates.lengths.mean / 2
    tokens = left + (prompt.x if prompt else 0.0)
    return left * (cpu_step.mean_s - gpu_step.mean_s) - handover_s(estimates, cpu, gpu, tokens).high > _MARGIN_S


def handover_s(estimates: Estimates, source: str, target: str, tokens: float) -> Measured:
    """Seconds between the tokens of two instances, if the KV cache of this many tokens is handed over."""
    line = estimates.handover_s.get((source, target))
    if line is not None:
        return Measured(max(line.y / 2, line.at(tokens)), line.spread, line.count)
    steps_s = [estimates.token_s[name].mean_s for name in (source, target) if name in estimates.token_s]
    return Measured.first(_HANDOVER_S + _HANDOVER_STEPS * max(steps_s, default=0.0))


def interference(estimates: Estimates, gpu: str, cpu: str) -> float:
    """Share by which a CPU's work lengthens a GPU's steps: the assumed one, until it was certainly seen to be more."""
    assumed, seen = assumed_interference(estimates, gpu, cpu), estimates.slowdowns.get((gpu, cpu))
    return seen.mean if seen is not None and seen.low > assumed else assumed


def assumed_interference(estimates: Estimates, gpu: str, cpu: str) -> float:
    """The same, as a calibration measured it, or without one."""
    return estimates.interference.get((gpu, cpu), _INTERFERENCE)


class _Case:
    """The times of an answer of one length. With `doubt` 1, each measurement is off against help by its bound."""

    def __init__(
        self, estimates: Estimates, help_: Help, gpu: StepTime, cpu: StepTime, *, tokens: float, doubt: float
    ) -> None:
        self._estimates, self._help, self._doubt, self._cpu = estimates, help_, doubt, cpu
        self._tokens = tokens if help_.max_tokens is None else min(tokens, help_.max_tokens)
        self._gpu_s = gpu.at(help_.slots) * (1 - doubt * min(_MAX_ERROR_RATIO, gpu.error_ratio))
        self._cpu_s = cpu.at(help_.cpu_running + 1, help_.cpu_kv_ratio) * (1 + doubt * cpu.error_ratio)
        self._cpu_more_s = cpu.slope
        ahead = help_.queued + help_.inside + 1
        # Seconds between two answers that end on the GPU. Lengths vary by their mean, sums of many lengths by less.
        self._end_s = estimates.lengths.mean * self._gpu_s / help_.slots * (1 - doubt * min(0.7, 1 / math.sqrt(ahead)))
        gpu_prompt, cpu_prompt = (estimates.prefill_s.get(name) for name in (help_.gpu, help_.cpu))
        self._gpu_prompt_s = gpu_prompt.at(help_.prompt_tokens) if gpu_prompt else 0.0
        # Prompts that are computed together take as long as all of them, which hides what one of them takes.
        token_work_s = (gpu_prompt.steepest if doubt else gpu_prompt.slope) if gpu_prompt else 0.0
        self._gpu_prompt_work_s = token_work_s * help_.prompt_tokens
        usual_s = token_work_s * gpu_prompt.x if gpu_prompt else 0.0
        # What the GPU gives for one token of one answer: a step's share, without the prompts computed meanwhile.
        self._gpu_token_work_s = max(0.0, self._gpu_s / help_.slots - usual_s / max(1.0, estimates.lengths.mean))
        self._cpu_prompt_s = 0.0
        if cpu_prompt:
            self._cpu_prompt_s = cpu_prompt.at(help_.prompt_tokens) * (1 + doubt * cpu_prompt.error_ratio)
        self._turn_s = ahead * self._end_s
        self.wait_first_s = self._turn_s + self._gpu_prompt_s
        self.wait_s = self.wait_first_s + self._tokens * self._gpu_s
        self._refused = self._share_refused()
        # The prompt waits for a slot of the GPU behind the requests that wait inside.
        self.help_first_s = (
            (help_.inside + 1) * self._end_s + self._gpu_prompt_s if help_.splits else self._cpu_prompt_s
        )
        self._begins_s = self._seconds_to_begin()
        self.help_s, made = self._seconds_of_help()
        self.others_s = self._seconds_of_others(made)
        self.delays_gpu = self._takes_of_gpu(made) > self._spares_gpu(made)

    def _spares_gpu(self, made: float) -> float:
        """Seconds of the GPU's time that the CPU saves by making this many tokens."""
        prompt_s = 0.0 if self._help.splits else self._gpu_prompt_work_s
        return prompt_s + made * self._gpu_token_work_s

    def _takes_of_gpu(self, made: float) -> float:
        """Seconds by which the GPU gets to the requests ahead of this one later, and makes its own tokens later."""
        help_ = self._help
        prompt_s = self._gpu_prompt_work_s if help_.splits and help_.queued else 0.0
        # All that the CPU computes at once share in what it takes, also those that could be there in the meantime.
        batch = 1 + min(help_.cpu_slots - 1, max(help_.cpu_running, help_.queued))
        busy_s = (made * self._cpu.at(batch) + self._refused * self._cpu_prompt_s) / batch
        return prompt_s + interference(self._estimates, help_.gpu, help_.cpu) * busy_s

    def _share_refused(self) -> float:
        """Share of such hand-overs that are refused, so that the CPU computes the prompt."""
        if not self._help.splits:
            return 1.0
        known = self._estimates.refused.get(self._help.gpu)
        return min(1.0, self._doubted(known)) if known else 0.0

    def _seconds_to_begin(self) -> float:
        """Seconds until the CPU makes its first token."""
        help_ = self._help
        if not help_.splits:
            return self._cpu_prompt_s
        gap_s = self._doubted(handover_s(self._estimates, help_.gpu, help_.cpu, help_.prompt_tokens))
        return self.help_first_s + gap_s + self._refused * self._cpu_prompt_s

    def _seconds_of_help(self) -> tuple[float, float]:
        """Seconds to the end of the answer, and the tokens that the CPU makes."""
        whole_s = self._begins_s + self._tokens * self._cpu_s
        if not self._help.returns:
            return whole_s, self._tokens
        # It leaves the CPU after a whole token; its slot on the GPU waits for that.
        made = max(0.0, self._turn_s - self._begins_s) / self._cpu_s + 1
        tokens = self._help.prompt_tokens + min(made, self._tokens)
        gap_s = self._doubted(handover_s(self._estimates, self._help.cpu, self._help.gpu, tokens))
        leaves_s = max(self._turn_s, self._begins_s) + self._cpu_s
        returned_s = leaves_s + gap_s + max(0.0, self._tokens - made) * self._gpu_s
        return min((whole_s, self._tokens), (returned_s, min(made, self._tokens)))

    def _seconds_of_others(self, made: float) -> float:
        """Seconds by which it delays others, summed over them."""
        help_ = self._help
        # Each of its steps is longer for all others on the CPU, and its prompt makes them wait: also those that could
        # be there in the meantime.
        stalled = max(help_.cpu_running, min(help_.cpu_slots - 1, help_.queued))
        return help_.cpu_running * made * self._cpu_more_s + stalled * self._refused * self._cpu_prompt_s

    def _doubted(self, value: Measured) -> float:
        return value.value + self._doubt * (value.high - value.value)
