# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Metrics of the whole host under vLLM's own names: for dashboards, autoscalers and routers made for one vLLM.

Source: vllm/v1/metrics/loggers.py. Routers take one series of a gauge, so a model has one, with `engine="0"`. Counters
of the instances are one series each, with the instance's name as `engine`: an instance that restarts resets its own
counter only.
"""

from collections.abc import Callable, Iterator, Mapping
from statistics import fmean

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from syshaxd.core.loads import InstanceLoad
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import InstanceStatus, State
from syshaxd.observe.metric_sums import Histogram, PlacementSums

_LABELS = ("model_name", "engine")
_HOST = "0"
"""The label `engine` of what is summed over instances: that of a vLLM with one engine."""


def vllm_families(status: EngineStatus, placements: Mapping[str, PlacementSums]) -> Iterator[Metric]:
    """Returns the families. `placements` has the sums over the requests that have ended."""
    model_of = {instance.spec.name: instance.spec.served_model for instance in status.instances}
    instances: dict[str, list[InstanceStatus]] = {model: [] for model in model_of.values()}
    for instance in status.instances:
        instances[instance.spec.served_model].append(instance)
    yield from _gauges(status, instances)
    yield from _counters(status)
    sums = {model: PlacementSums() for model in instances}
    for placement, of_placement in placements.items():
        model = model_of.get(placement.partition("+")[0])
        if model is not None:
            sums[model].add(of_placement)
    success = CounterMetricFamily("vllm:request_success", "Requests that have ended well.", labels=_LABELS)
    for model, total in sums.items():
        success.add_metric((model, _HOST), total.succeeded)
    yield success
    for name, text, histogram_of in _HISTOGRAMS:
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for model, total in sums.items():
            histogram = histogram_of(total)
            family.add_metric((model, _HOST), histogram.buckets(), histogram.total)
        yield family


def _gauges(status: EngineStatus, instances: Mapping[str, list[InstanceStatus]]) -> Iterator[Metric]:
    running = GaugeMetricFamily("vllm:num_requests_running", "Requests that the instances run.", labels=_LABELS)
    waiting = GaugeMetricFamily(
        "vllm:num_requests_waiting", "Requests in the admission queue and in those of the instances.", labels=_LABELS
    )
    usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "KV-cache usage, 0..1.", labels=_LABELS)
    queued = _queued(status, instances)
    for model, group in instances.items():
        loads = {instance.spec.name: status.snapshot.load(instance.spec.name) for instance in group}
        # The daemon's own count is newer than a reading; a reading also has the requests of others.
        inside = {name: max(status.inflight.get(name, 0), load.running + load.waiting) for name, load in loads.items()}
        waiting_inside = sum(load.waiting for load in loads.values())
        running.add_metric((model, _HOST), sum(inside.values()) - waiting_inside)
        waiting.add_metric((model, _HOST), queued[model] + waiting_inside)
        ready = {instance.spec.name for instance in group if instance.state is State.READY}
        ratios = [load.kv_usage_ratio for name, load in loads.items() if name in ready and load.read_at_s]
        if ratios:
            usage.add_metric((model, _HOST), fmean(ratios))
    yield from (running, waiting, usage)


def _queued(status: EngineStatus, instances: Mapping[str, list[InstanceStatus]]) -> dict[str, int]:
    """Requests in the admission queue by model; those that name none, or an adapter, count for the first."""
    names = {name: model for model, group in instances.items() for each in group for name in each.spec.aliases}
    queued = dict.fromkeys(instances, 0)
    for asked, count in status.queued_models.items():
        model = asked if asked in queued else names.get(asked, next(iter(queued), None))
        if model is not None:
            queued[model] += count
    return queued


def _counters(status: EngineStatus) -> Iterator[Metric]:
    for name, text, count_of in _COUNTERS:
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for instance in status.instances:
            load = status.snapshot.instances.get(instance.spec.name)
            count = count_of(load) if load is not None and load.read_at_s else None
            if count is not None:
                family.add_metric((instance.spec.served_model, instance.spec.name), count)
        yield family


_COUNTERS: tuple[tuple[str, str, Callable[[InstanceLoad], int | None]], ...] = (
    ("vllm:prompt_tokens", "Prompt tokens.", lambda load: load.prompt_tokens),
    ("vllm:generation_tokens", "Generated tokens.", lambda load: load.generation_tokens),
    ("vllm:num_preemptions", "Preempted requests.", lambda load: load.preemptions),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[PlacementSums], Histogram]], ...] = (
    ("vllm:time_to_first_token_seconds", "Time to the first token of a stream.", lambda sums: sums.to_first_token),
    (
        "vllm:inter_token_latency_seconds",
        "Time between two tokens; each gap counts as the mean of its stream.",
        lambda sums: sums.gaps,
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "Mean time between the tokens of one stream.",
        lambda sums: sums.per_token,
    ),
    ("vllm:e2e_request_latency_seconds", "From a request's arrival to its end.", lambda sums: sums.duration),
    ("vllm:request_queue_time_seconds", "Time in the admission queue.", lambda sums: sums.queue),
)
