# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Parses an instance's Prometheus text into the few samples in use, and computes its load from two readings.

Source: the names of vLLM V1 are those of vllm/v1/metrics/loggers.py, the older ones those of vllm/engine/metrics.py.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from prometheus_client.parser import text_string_to_metric_families

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.loads import InstanceLoad

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_SWAPPED = "vllm:num_requests_swapped"
_KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "vllm:cpu_cache_usage_perc")
"""New name first. Before V1 the CPU backend also reported its cache as `gpu`; `cpu` was the swap space."""
_PREEMPTIONS = "vllm:num_preemptions_total"
_PROMPT_TOKENS = "vllm:prompt_tokens_total"
_PROMPT_TOKENS_PER_S = "vllm:avg_prompt_throughput_toks_per_s"
_GENERATION_TOKENS = "vllm:generation_tokens_total"
_GENERATION_TOKENS_PER_S = "vllm:avg_generation_throughput_toks_per_s"
_PREFILL_S = "vllm:request_prefill_time_seconds_sum"
_PREFILL_TOKENS = "vllm:request_prefill_kv_computed_tokens_sum"
_PREFILLS = "vllm:request_prefill_kv_computed_tokens_count"
_GAPS_S = "vllm:inter_token_latency_seconds_sum"
_GAPS = "vllm:inter_token_latency_seconds_count"

_NAMES = (
    *(_RUNNING, _WAITING, _SWAPPED, *_KV_USAGE, _PREEMPTIONS),
    *(_PROMPT_TOKENS, _PROMPT_TOKENS_PER_S),
    *(_GENERATION_TOKENS, _GENERATION_TOKENS_PER_S),
    *(_PREFILL_S, _PREFILL_TOKENS, _PREFILLS, _GAPS_S, _GAPS),
)
_MOST_OF_ANY = 1e15
_MOST = {_RUNNING: 1e6, _WAITING: 1e6, _SWAPPED: 1e6, **dict.fromkeys(_KV_USAGE, 1.0 + 1e-6)}
"""Largest plausible value of a sample; a larger one is invalid."""
# A whole exposition has hundreds of lines (50 KB), mostly histogram buckets: only the lines of these names are parsed.
_LINES = re.compile(rf"^vllm:(?:{'|'.join(name.removeprefix('vllm:') for name in _NAMES)})[{{ \t].*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Tokens processed by an instance. Either field is known: old servers export only a rate."""

    total: float | None = None
    """Since the server started."""
    per_s: float | None = None
    """By the server's own estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsReading:
    """One reading of an instance's metrics, summed over its engines."""

    at_s: float
    """Monotonic time."""
    running: int
    waiting: int
    """Includes swapped-out requests (before V1), which wait too."""
    kv_usage_ratio: float
    """0..1, the mean over the engines."""
    prompt_tokens: TokenCount
    generation_tokens: TokenCount
    preemptions: int = 0
    """Since the server started; 0 if not exported."""
    prefill_s: float = 0.0
    """Prefill time of all finished requests; this and the next two are 0 if not exported."""
    prefill_tokens: float = 0.0
    """Prompt tokens of these requests, without cached or loaded ones."""
    prefills: float = 0.0
    """The number of these requests."""
    token_s: float = 0.0
    """Sum of the times between two tokens of one stream; this and the next 0 where it does not tell."""
    token_gaps: float = 0.0
    """How many these were."""
    faults: tuple[str, ...] = ()
    """Invalid samples: they count as 0, and the rest of the reading is valid."""


def read(text: str, *, model: str, at_s: float) -> MetricsReading:
    """Parses `text`, the body of an instance's /metrics.

    Args:
        text: Prometheus text format.
        model: The model whose samples count where the text has several.
        at_s: Monotonic time of the answer.

    Raises:
        InstanceFailedError: A required sample is missing.
    """
    samples = _Samples(text, model)
    return MetricsReading(
        at_s=at_s,
        running=int(samples.total(_RUNNING)),
        waiting=int(samples.total(_WAITING) + samples.total(_SWAPPED, missing=0)),
        kv_usage_ratio=samples.mean(_KV_USAGE),
        prompt_tokens=samples.flow(_PROMPT_TOKENS, _PROMPT_TOKENS_PER_S),
        generation_tokens=samples.flow(_GENERATION_TOKENS, _GENERATION_TOKENS_PER_S),
        preemptions=int(samples.total(_PREEMPTIONS, missing=0)),
        prefill_s=samples.total(_PREFILL_S, missing=0.0),
        prefill_tokens=samples.total(_PREFILL_TOKENS, missing=0.0),
        prefills=samples.total(_PREFILLS, missing=0.0),
        token_s=samples.total(_GAPS_S, missing=0.0),
        token_gaps=samples.total(_GAPS, missing=0.0),
        faults=samples.faults,
    )


def load(now: MetricsReading, before: MetricsReading | None) -> InstanceLoad:
    """Returns the load at `now`, with rates since `before`; they are 0 for a first reading that exports none."""
    before = before or now
    elapsed_s = now.at_s - before.at_s
    prefills = now.prefills - before.prefills
    return InstanceLoad(
        read_at_s=now.at_s,
        running=now.running,
        waiting=now.waiting,
        kv_usage_ratio=now.kv_usage_ratio,
        generation_tokens_per_s=_per_s(now.generation_tokens, before.generation_tokens, elapsed_s),
        prompt_tokens_per_s=_per_s(now.prompt_tokens, before.prompt_tokens, elapsed_s),
        preemptions=now.preemptions,
        prompt_tokens=_count(now.prompt_tokens),
        generation_tokens=_count(now.generation_tokens),
        preempted=max(0, now.preemptions - before.preemptions),
        token_s=_mean(now.token_s - before.token_s, now.token_gaps - before.token_gaps),
        prefill_tokens=_mean(now.prefill_tokens - before.prefill_tokens, prefills),
        prefill_s=_mean(now.prefill_s - before.prefill_s, prefills),
        error="; ".join(now.faults),
    )


def rate(before: float, after: float, elapsed_s: float) -> float:
    """Returns a counter's increase per second.

    A counter that fell was reset by a restart: it counts from there, so the result is never negative.

    Args:
        before: The counter's value at the earlier reading.
        after: Its value now.
        elapsed_s: Seconds between the two, above 0.
    """
    return (after - before if after >= before else after) / elapsed_s


def _mean(total: float, count: float) -> float:
    """0: the counters were reset in between, or nothing has happened."""
    return total / count if total > 0 and count > 0 else 0.0


def _per_s(now: TokenCount, before: TokenCount, elapsed_s: float) -> float:
    if now.per_s is not None:
        return now.per_s
    if now.total is None or before.total is None or elapsed_s <= 0:
        return 0.0
    return rate(before.total, now.total, elapsed_s)


def _count(flow: TokenCount) -> int | None:
    return None if flow.total is None else int(flow.total)


class _Samples:
    """The samples of one text, by metric name, of one model."""

    def __init__(self, text: str, model: str) -> None:
        self._faults: dict[str, str] = {}
        found = [sample for line in _LINES.findall(text) for sample in self._parsed(line)]
        models = {labels["model_name"] for _, labels, _ in found if "model_name" in labels}
        if len(models) > 1 and model not in models:
            raise InstanceFailedError(f"/metrics has the models {', '.join(sorted(models))}, but not {model}")
        self._by_name: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in found:
            if len(models) > 1 and labels.get("model_name", model) != model:
                continue
            if not 0 <= value <= _MOST.get(name, _MOST_OF_ANY):  # NaN is never between
                self._faults[name] = f"/metrics: {name} has the invalid value {value:g}"
                continue
            self._by_name.setdefault(name, []).append((labels, value))

    @property
    def faults(self) -> tuple[str, ...]:
        """Invalid samples, one line per name."""
        return tuple(self._faults.values())

    def _parsed(self, line: str) -> list[tuple[str, dict[str, str], float]]:
        try:
            return [
                (sample.name, sample.labels, float(sample.value))
                for family in text_string_to_metric_families(line)
                for sample in family.samples
            ]
        except Exception as error:  # noqa: BLE001 - the text is anybody's, and the parser is not made for that
            name = re.split(r"[{ \t]", line, maxsplit=1)[0]
            self._faults[name] = f"/metrics: {name} is not in Prometheus text format: {str(error)[:100]}"
            return []

    def total(self, name: str, *, missing: float | None = None) -> float:
        if name not in self._by_name and missing is not None:
            return missing
        return math.fsum(self._values((name,)))

    def mean(self, names: Iterable[str]) -> float:
        values = self._values(names)
        return fmean(values) if values else 0.0

    def flow(self, total: str, per_s: str) -> TokenCount:
        if total in self._by_name:
            return TokenCount(total=self.total(total))
        if per_s in self._by_name:
            return TokenCount(per_s=self.total(per_s))
        if total in self._faults or per_s in self._faults:
            return TokenCount()
        raise _missing(total)

    def _values(self, names: Iterable[str]) -> list[float]:
        """The values of the first present name; none if all its values are invalid."""
        names = tuple(names)
        for name in names:
            if name in self._by_name:
                return [value for _, value in self._by_name[name]]
            if name in self._faults:
                return []
        raise _missing(names[0])


def _missing(name: str) -> InstanceFailedError:
    return InstanceFailedError(f"/metrics has no {name}: is this a vLLM server with statistics enabled?")
