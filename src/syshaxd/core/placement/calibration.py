# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Calibration: which short runs measure the instances, and what the estimates learn from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.measured import Line
from syshaxd.core.placement.steps import StepTime
from syshaxd.core.types import InstanceSpec, Role

_BATCHES = (1, 4, 16)
_PROMPTS = (32, 256, 1024)
_SHORT_PROMPT = _PROMPTS[0]
_ANSWER_TOKENS = 16
_LEAST_INTERFERENCE = 0.01
"""Short runs cannot show less."""
_OBSERVATIONS = 2
"""Each run counts as this many readings, so that later readings soon outweigh it."""
_MIN_READINGS = 100
"""Readings after which the runs count for nothing."""
_STALE_TIMES = 2.0
"""A step takes so many times as long or as short: more than another instance beside it, or chance, can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Requests sent to one instance at once, alone or while another instance computes the same."""

    instance: str
    batch: int
    prompt_tokens: int
    answer_tokens: int = _ANSWER_TOKENS
    beside: str = ""
    """The instance that computes as many requests meanwhile; empty: none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The times of a run."""

    instance: str
    batch: int
    prompt_tokens: int
    """As the instance counted them."""
    beside: str = ""
    first_s: float
    """Mean seconds to the first token."""
    token_s: float
    """Mean seconds between two tokens of one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The times of all runs, and the hardware and software that they measured."""

    made_at_s: float
    """Unix time."""
    fingerprints: Mapping[str, str]
    """Of hardware, model, engine and weights, by instance."""
    results: Sequence[RunResult]

    def beside(self, older: "Calibration") -> "Calibration":
        """This one with what an older one knows of instances that this one has not measured."""
        kept = [result for result in older.results if result.instance not in self.fingerprints]
        fingerprints = {**older.fingerprints, **self.fingerprints}
        return Calibration(made_at_s=self.made_at_s, fingerprints=fingerprints, results=[*kept, *self.results])

    def is_stale(self, fingerprints: Mapping[str, str], name: str) -> bool:
        """Whether an instance has changed since it was measured."""
        return name not in self.fingerprints or self.fingerprints[name] != fingerprints.get(name)


def plan(specs: Sequence[InstanceSpec], max_model_len: int | None) -> Iterator[Run]:
    """The runs: prompts, then batches on each instance alone, then the largest batch of each GPU beside each CPU.

    Args:
        specs: The instances.
        max_model_len: Tokens that the smallest of them holds; None: not known.
    """
    longest = (max_model_len or 2 * _PROMPTS[-1]) - _ANSWER_TOKENS
    for spec in specs:
        for tokens in _PROMPTS:
            if tokens <= longest // 2:
                yield Run(instance=spec.name, batch=1, prompt_tokens=tokens)
        for batch in _batches(spec)[1:]:
            yield Run(instance=spec.name, batch=batch, prompt_tokens=_SHORT_PROMPT)
    for gpu in (spec for spec in specs if spec.role is Role.GPU):
        for cpu in (spec for spec in specs if spec.role is Role.CPU):
            for one, other in ((gpu, cpu), (cpu, gpu)):
                batch = _batches(one)[-1]
                yield Run(instance=one.name, batch=batch, prompt_tokens=_SHORT_PROMPT, beside=other.name)


def beside_batch(spec: InstanceSpec) -> int:
    """Requests that keep an instance busy while another one is measured."""
    return _batches(spec)[-1]


def _batches(spec: InstanceSpec) -> list[int]:
    return sorted({min(batch, spec.max_num_seqs) for batch in _BATCHES})


def seed(estimates: Estimates, results: Sequence[RunResult], name: str) -> Estimates:
    """Estimates that know what the runs on an instance alone took. What readings have taught already is kept."""
    token_s, prefill_s = dict(estimates.token_s), dict(estimates.prefill_s)
    step: StepTime | None = None
    prefill: Line | None = None
    for result in [result for result in results if result.instance == name and not result.beside] * _OBSERVATIONS:
        if result.token_s > 0:
            step = step.observe(result.batch, result.token_s) if step else StepTime.first(result.batch, result.token_s)
        if result.batch == 1 and result.first_s > 0:
            at = result.prompt_tokens, result.first_s
            prefill = prefill.observe(*at) if prefill else Line.first(*at)
    if step is not None:
        token_s.setdefault(name, step)
    if prefill is not None:
        prefill_s.setdefault(name, prefill)
    beside = {
        pair: max(_LEAST_INTERFERENCE, times - 1) for pair, times in interference(results).items() if name in pair
    }
    return replace(estimates, token_s=token_s, prefill_s=prefill_s, interference={**estimates.interference, **beside})


def drift(estimates: Estimates, results: Sequence[RunResult], name: str) -> float | None:
    """How many times as long as in the runs a step of an instance takes by its readings, if they contradict the runs.

    Both are compared at a batch that the runs had, without context.
    """
    then = seed(Estimates(), results, name).token_s.get(name)
    now = estimates.token_s.get(name)
    if then is None or now is None or not now.knows_context:
        return None
    if now.by_batch.count < then.by_batch.count + _MIN_READINGS:
        return None
    batch = min(now.by_batch.x, max(result.batch for result in results if result.instance == name))
    times = now.at(batch, 0.0) / then.at(batch)
    return None if 1 / _STALE_TIMES < times < _STALE_TIMES else times


def interference(results: Sequence[RunResult]) -> dict[tuple[str, str], float]:
    """How many times as long a token takes on an instance while another one computes: (the measured one, the other)."""
    alone = {(result.instance, result.batch): result.token_s for result in results if not result.beside}
    return {
        (result.instance, result.beside): result.token_s / alone[result.instance, result.batch]
        for result in results
        if result.beside and alone.get((result.instance, result.batch), 0.0) > 0
    }
