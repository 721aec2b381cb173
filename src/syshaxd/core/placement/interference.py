# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How much a CPU's work lengthens a GPU's steps, learnt from readings while requests are served.

Whenever a CPU begins or ceases to compute, the GPU's time per token in the seconds before is compared with that in the
seconds after, both net of prompts and as a share of what the estimates expect for their batch and context. The two are
seconds apart, so whatever changes slowly (clocks, temperature, the mix of requests) cancels out; a trend adds to one
comparison and takes from the next, as the CPU begins and ceases in turns. A comparison counts only if batch, context
and prompts were alike on both sides, and no reading is in two comparisons. So comparisons are independent, and the
confidence sequence of the hold-out holds for their mean, at all times.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.holdout import Sample
from syshaxd.core.placement.measured import Slowdown
from syshaxd.core.placement.prediction import assumed_interference, interference
from syshaxd.core.report.engine_status import Interference
from syshaxd.core.types import InstanceSpec, Role

ALPHA = 0.05
"""Of all pairs between which there is no interference, at most this share is ever found to have some."""
LEAST = 50
"""Comparisons without which there is no interval: the theory is one of large numbers."""
_SIDE = 3
"""Readings on each side of a comparison."""
_MOST_MIXED = 3
"""Readings in a row in which a CPU neither computed nor idled, after which the two sides are too far apart."""
_ALIKE = 0.1
"""Batches differ by at most this share, contexts by this share of the KV cache, prompts by this share of a second."""
_MOST_PROMPTS = 0.5
"""Seconds of which prompts take a greater share say little of steps."""
_FARTHEST = 0.5
"""A comparison that is farther off counts as this far: no single one decides."""


class _Second(NamedTuple):
    """A reading of a GPU that computes."""

    ratio: float
    """Seconds a token, as a share of those expected."""
    batch: float
    context_ratio: float
    prompts_ratio: float
    """Share of the second in which prompts were computed."""


@dataclass(slots=True)
class _Pair:
    """A GPU and a CPU."""

    sample: Sample = field(default_factory=Sample)
    """Of the logarithms of ratios: with the CPU's work to without it."""
    computes: bool = False
    """Whether the CPU does, in `seconds`."""
    seconds: list[_Second] = field(default_factory=list)
    """The latest ones that are in no comparison."""
    before: list[_Second] | None = None
    """Those before the CPU began or ceased; None: too few."""
    mixed: int = 0

    def observe(self, second: _Second, *, computes: bool) -> bool:
        """Adds a reading; returns whether that completed a comparison."""
        self.mixed = 0
        if computes is not self.computes:
            self.before = self.seconds[-_SIDE:] if len(self.seconds) >= _SIDE else None
            self.seconds, self.computes = [], computes
        self.seconds.append(second)
        if self.before is None or len(self.seconds) < _SIDE:
            del self.seconds[:-_SIDE]
            return False
        before, after, self.before, self.seconds = self.before, self.seconds, None, []
        if not _are_alike(before, after):
            return False
        longer = math.log(fmean(each.ratio for each in after) / fmean(each.ratio for each in before))
        self.sample = self.sample.add(max(-_FARTHEST, min(_FARTHEST, longer if computes else -longer)))
        return True

    def skip(self) -> None:
        """Notes a reading in which the CPU neither computed nor idled, or the GPU's says nothing."""
        self.mixed += 1
        if self.mixed > _MOST_MIXED:
            self.seconds, self.before = [], None

    @property
    def slowdown(self) -> Slowdown:
        """What was learnt."""
        mean, count = self.sample.mean, self.sample.count
        radius = self.sample.radius(ALPHA) if count >= LEAST else math.inf
        low, high = (math.expm1(min(mean + off, _FARTHEST)) for off in (-radius, radius))
        return Slowdown(mean=math.expm1(mean), low=low, high=high, comparisons=count)


class InterferenceMeter:
    """Learns from each snapshot. One for all instances."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._read_at_s: dict[str, float] = {}
        self.slowdowns: Mapping[tuple[str, str], Slowdown] = {}
        """By (GPU, CPU)."""

    def observe(self, snapshot: Snapshot, specs: Mapping[str, InstanceSpec], estimates: Estimates) -> None:
        """Takes new readings into account; `estimates` are from before them."""
        loads = {name: load for name, load in snapshot.instances.items() if name in specs and not load.error}
        computing = {name: _computes(loads[name]) for name in loads if specs[name].role is Role.CPU}
        completed = False
        for name, load in loads.items():
            if specs[name].role is not Role.GPU or self._read_at_s.get(name) == load.read_at_s:
                continue
            self._read_at_s[name] = load.read_at_s
            second = _second(load, name, estimates)
            for cpu, computes in computing.items():
                pair = self._pairs.setdefault((name, cpu), _Pair())
                # What several CPUs do at once cannot be told apart.
                others_idle = all(state is False for other, state in computing.items() if other != cpu)
                if second is None or computes is None or not others_idle:
                    pair.skip()
                else:
                    completed |= pair.observe(second, computes=computes)
        if completed:
            self.slowdowns = {names: pair.slowdown for names, pair in self._pairs.items() if names[0] in specs}


def report(estimates: Estimates) -> tuple[Interference, ...]:
    """What is known, for operators."""
    found = []
    for gpu, cpu in sorted({*estimates.slowdowns, *estimates.interference}):
        ratio, seen = interference(estimates, gpu, cpu), estimates.slowdowns.get((gpu, cpu))
        if seen is None:
            found.append(Interference(gpu=gpu, cpu=cpu, ratio=ratio))
            continue
        is_sure = seen.comparisons >= LEAST
        found.append(
            Interference(
                gpu=gpu,
                cpu=cpu,
                ratio=ratio,
                is_learnt=ratio != assumed_interference(estimates, gpu, cpu),
                seen=seen.mean if is_sure else None,
                low=seen.low if is_sure else None,
                high=seen.high if is_sure else None,
                comparisons=seen.comparisons,
            )
        )
    return tuple(found)


def _second(load: InstanceLoad, name: str, estimates: Estimates) -> _Second | None:
    """A reading of a GPU; None: it does not compute as usual, or it is not known what is usual."""
    step = estimates.token_s.get(name)
    if step is None or load.token_s <= 0 or load.running < 1 or load.preempted:
        return None
    expected_s = step.at(load.running, load.kv_usage_ratio)
    prompt = estimates.prefill_s.get(name)
    prompts_ratio = load.prompt_tokens_per_s * (prompt.slope if prompt else 0.0)
    if expected_s <= 0 or prompts_ratio > _MOST_PROMPTS:
        return None
    return _Second(load.token_s * (1 - prompts_ratio) / expected_s, load.running, load.kv_usage_ratio, prompts_ratio)


def _computes(load: InstanceLoad) -> bool | None:
    """Whether a CPU computed over the whole interval of a reading, as far as can be told; None: over a part of it."""
    if load.running and load.generation_tokens_per_s > 0:
        return True
    return False if not load.running and load.generation_tokens_per_s <= 0 else None


def _are_alike(one: Sequence[_Second], other: Sequence[_Second]) -> bool:
    batches = [fmean(each.batch for each in side) for side in (one, other)]
    contexts = [fmean(each.context_ratio for each in side) for side in (one, other)]
    prompts = [fmean(each.prompts_ratio for each in side) for side in (one, other)]
    alike = (abs(its[0] - its[1]) <= _ALIKE for its in (contexts, prompts))
    return max(batches) <= (1 + _ALIKE) * min(batches) and all(alike)
