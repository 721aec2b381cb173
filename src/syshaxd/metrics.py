# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""MetricsService: counts requests as they end, and renders all that the daemon knows as Prometheus text.

Counting stands on the path of every request, so it is done in plain counters here (a prometheus_client histogram with
labels costs 2 us, one of these 0.1 us); prometheus_client's families do the rendering.
"""

import platform
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from syshaxd import __version__
from syshaxd.core.parity import Agreement, Figures, ParityReport
from syshaxd.core.topology import BindingStatus, DriftKind
from syshaxd.core.types import (
    EngineStatus,
    GpuLoad,
    HandoverRecord,
    HostLoad,
    InstanceLoad,
    InstanceStatus,
    Outcome,
    Prediction,
    RequestRecord,
    State,
)

ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/pd_disagg",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/models",
        "/v1/responses",
        "/v1/rerank",
        "/v1/score",
    }
)
"""Routes that have a label value of their own. Clients can make up others without end: all those are `other`."""
OTHER_ROUTE = "other"
NO_PLACEMENT = "none"
"""The placement of a request that no instance got."""

# vLLM's own buckets (vllm/v1/metrics/loggers.py), so that its histograms and ours can be laid over each other.
_TO_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
# Two more at the lower end: small models on fast GPUs stay under vLLM's first bucket, 10 ms.
_PER_TOKEN_S = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0),
    *(40.0, 80.0),
)
_WHOLE_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
# Most requests don't wait at all: that is the first bucket.
_QUEUE_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class _Histogram:
    """Counts of observations by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, as Prometheus wants them."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class _Placement:
    """The sums over the requests of one placement."""

    __slots__ = ("duration", "generation_tokens", "per_token", "prompt_tokens", "queue", "retries", "to_first_token")

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.retries = 0
        self.queue = _Histogram(_QUEUE_S)
        self.to_first_token = _Histogram(_TO_FIRST_TOKEN_S)
        self.per_token = _Histogram(_PER_TOKEN_S)
        self.duration = _Histogram(_WHOLE_S)


# A hand-over takes milliseconds for a small model, seconds where a long prompt is computed again.
_GAP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class _Handovers:
    """The sums over all hand-overs."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.size_bytes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.gaps: defaultdict[str, _Histogram] = defaultdict(lambda: _Histogram(_GAP_S))
        self.seconds = dict.fromkeys(("predicted", "measured", "predicted_wait"), 0.0)

    def compare(self, prediction: Prediction, measured_s: float) -> None:
        """An offload, of which this was expected, has taken so long."""
        self.seconds["predicted"] += prediction.offload_s
        self.seconds["measured"] += measured_s
        self.seconds["predicted_wait"] += prediction.wait_s

    def add(self, handover: HandoverRecord) -> None:
        pair = (handover.source, handover.target)
        self.counts[(*pair, handover.cause, handover.result)] += 1
        if handover.result == "loaded":
            self.tokens[pair] += handover.cached_tokens or 0
            self.size_bytes[pair] += handover.size_bytes
        if handover.gap_s is not None:
            self.gaps[handover.cause].observe(handover.gap_s)

    def families(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "syshax_handovers",
            "Answers that went on elsewhere.",
            labels=("source", "target", "cause", "result"),
        )
        for labels, count in self.counts.items():
            total.add_metric(labels, count)
        yield total
        for name, text, sums in (
            ("syshax_handover_tokens", "Tokens whose KV was handed over and used.", self.tokens),
            ("syshax_handover_bytes", "KV that was handed over and used, where the source told.", self.size_bytes),
        ):
            family = CounterMetricFamily(name, text, labels=("source", "target"))
            for pair, value in sums.items():
                family.add_metric(pair, value)
            yield family
        gaps = HistogramMetricFamily(
            "syshax_handover_gap_seconds",
            "From the source's last token to the target's first.",
            labels=("cause",),
        )
        for cause, gap in self.gaps.items():
            gaps.add_metric((cause,), gap.buckets(), gap.total)
        yield gaps
        seconds = CounterMetricFamily(
            "syshax_offload_seconds", "Of offloads that were predicted and have ended well.", labels=("kind",)
        )
        for kind, sum_s in self.seconds.items():
            seconds.add_metric((kind,), sum_s)
        yield seconds


class MetricsService:
    """Counts requests and renders metrics. Lives in one event loop."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._placements: defaultdict[str, _Placement] = defaultdict(_Placement)
        self._handovers = _Handovers()

    def record(self, rec: RequestRecord) -> None:
        """Counts a request that has ended.

        Times to and between tokens are those of answered streams alone: any other answer comes in one piece.
        """
        route = rec.route if rec.route in ROUTES else OTHER_ROUTE
        self._requests[rec.placement, route, rec.outcome] += 1
        sums = self._placements[rec.placement]
        sums.prompt_tokens += rec.tokens_in
        sums.generation_tokens += rec.tokens_out
        sums.retries += rec.retries
        sums.queue.observe(rec.queue_s)
        sums.duration.observe(rec.duration_s)
        for handover in rec.handovers:
            self._handovers.add(handover)
        if rec.prediction is not None and rec.outcome is Outcome.OK:
            self._handovers.compare(rec.prediction, rec.duration_s - rec.queue_s)
        if rec.stream and rec.ttft_s is not None and rec.status == 200:
            sums.to_first_token.observe(rec.ttft_s)
            if rec.tokens_out > 1:
                sums.per_token.observe((rec.duration_s - rec.ttft_s) / (rec.tokens_out - 1))

    def render(self, status: EngineStatus) -> bytes:
        """Returns everything in Prometheus text format."""
        snapshot = status.snapshot
        families = [
            _info("syshax_build", "The daemon.", {"version": __version__, "python": platform.python_version()}),
            *self._request_families(),
            *self._handovers.families(),
            _gauge("syshax_requests_queued", "Requests in the admission queue.", status.queued),
            _gauges("syshax_requests_inflight", "Requests now running, by instance.", "name", status.inflight),
            *_state_families(status.instances),
            *_load_families(snapshot.instances, self._now()),
            *_parity_families(status.parity),
            *_binding_families(status.bindings),
            _gauge("syshax_gpu_reading_ok", "0 when a GPU could not be read the last time.", not snapshot.gpu_error),
            *_gpu_families(snapshot.gpus),
            *(_host_families(snapshot.host) if snapshot.host else ()),
        ]
        return generate_latest(_Families(families))

    def _request_families(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "syshax_requests", "Requests that have ended.", labels=("placement", "route", "outcome")
        )
        for (placement, route, outcome), count in self._requests.items():
            requests.add_metric((placement or NO_PLACEMENT, route, outcome), count)
        yield requests

        tokens = CounterMetricFamily("syshax_tokens", "Tokens, prompt and generated.", labels=("placement", "kind"))
        retries = CounterMetricFamily(
            "syshax_request_retries", "Times a request was tried again elsewhere.", labels=("placement",)
        )
        for placement, sums in self._placements.items():
            tokens.add_metric((placement or NO_PLACEMENT, "prompt"), sums.prompt_tokens)
            tokens.add_metric((placement or NO_PLACEMENT, "generation"), sums.generation_tokens)
            retries.add_metric((placement or NO_PLACEMENT,), sums.retries)
        yield tokens
        yield retries

        for name, text, histogram_of in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=("placement",))
            for placement, sums in self._placements.items():
                histogram = histogram_of(sums)
                family.add_metric((placement or NO_PLACEMENT,), histogram.buckets(), histogram.total)
            yield family


_HISTOGRAMS: tuple[tuple[str, str, Callable[[_Placement], _Histogram]], ...] = (
    ("syshax_queue_seconds", "Time in the admission queue.", lambda sums: sums.queue),
    (
        "syshax_time_to_first_token_seconds",
        "From a stream request's arrival to the first byte of its answer.",
        lambda sums: sums.to_first_token,
    ),
    (
        "syshax_time_per_output_token_seconds",
        "Mean time between the tokens of one stream.",
        lambda sums: sums.per_token,
    ),
    ("syshax_request_duration_seconds", "From a request's arrival to its end.", lambda sums: sums.duration),
)


def _state_families(statuses: Sequence[InstanceStatus]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "syshax_instance_state", "1 for the state that the instance is in.", labels=("name", "state")
    )
    launches = CounterMetricFamily("syshax_instance_launches", "Times it was launched.", labels=("name",))
    for status in statuses:
        for state in State:
            states.add_metric((status.spec.name, state), status.state is state)
        launches.add_metric((status.spec.name,), status.generation)
    yield states
    yield launches


def _load_families(loads: Mapping[str, InstanceLoad], now_s: float) -> Iterator[Metric]:
    yield _gauges(
        "syshax_instance_reading_ok",
        "Whether the instance's metrics could be read the last time.",
        "name",
        {name: not load.error for name, load in loads.items()},
    )
    loads = {name: load for name, load in loads.items() if load.read_at_s}
    for metric, text, value_of in _LOAD_GAUGES:
        yield _gauges(metric, text, "name", {name: value_of(load) for name, load in loads.items()})
    ages = {name: now_s - load.read_at_s for name, load in loads.items()}
    yield _gauges("syshax_instance_reading_age_seconds", "Age of these readings.", "name", ages)
    preemptions = CounterMetricFamily(
        "syshax_instance_preemptions", "Requests preempted inside the instance.", labels=("name",)
    )
    for name, load in loads.items():
        preemptions.add_metric((name,), load.preemptions)
    yield preemptions


_LOAD_GAUGES: tuple[tuple[str, str, Callable[[InstanceLoad], float]], ...] = (
    ("syshax_instance_running_requests", "Requests running inside the instance.", lambda load: load.running),
    ("syshax_instance_waiting_requests", "Requests waiting inside the instance.", lambda load: load.waiting),
    ("syshax_instance_kv_usage_ratio", "Used part of its KV cache, 0..1.", lambda load: load.kv_usage_ratio),
    (
        "syshax_instance_generation_tokens_per_second",
        "Generated over the last interval.",
        lambda load: load.generation_tokens_per_s,
    ),
    (
        "syshax_instance_prompt_tokens_per_second",
        "Prefilled over the last interval.",
        lambda load: load.prompt_tokens_per_s,
    ),
)


def _parity_families(reports: Sequence[ParityReport]) -> Iterator[Metric]:
    labels = ("name", "other")
    verdicts = GaugeMetricFamily("syshax_parity_verdict", "1 for how alike they are.", labels=(*labels, "verdict"))
    allowed = GaugeMetricFamily("syshax_parity_allowed", "Whether requests may move between them.", labels=labels)
    for report in reports:
        for agreement in Agreement:
            verdicts.add_metric((report.first, report.second, agreement), report.verdict.agreement is agreement)
        allowed.add_metric((report.first, report.second), report.verdict.allowed)
    yield verdicts
    yield allowed
    for metric, text, value_of in _PARITY_GAUGES:
        family = GaugeMetricFamily(metric, text, labels=labels)
        for report in reports:
            if report.figures.positions:
                family.add_metric((report.first, report.second), value_of(report.figures))
        yield family


_PARITY_GAUGES: tuple[tuple[str, str, Callable[[Figures], float]], ...] = (
    ("syshax_parity_prefill_distance", "Of the probabilities, prefilling.", lambda figures: figures.prefill_distance),
    ("syshax_parity_decode_distance", "Of the probabilities, decoding.", lambda figures: figures.decode_distance),
    (
        "syshax_parity_same_top_ratio",
        "Positions with the same likeliest token.",
        lambda figures: figures.same_top_ratio,
    ),
    ("syshax_parity_first_token_ratio", "Answers with the same first token.", lambda f: f.first_token_ratio),
    ("syshax_parity_greedy_ratio", "Answers that are the same to the end.", lambda figures: figures.greedy_ratio),
    ("syshax_parity_common_prefix_ratio", "Tokens before answers part.", lambda figures: figures.common_prefix_ratio),
)


def _binding_families(bindings: Mapping[str, BindingStatus]) -> Iterator[Metric]:
    drift = GaugeMetricFamily(
        "syshax_binding_drift", "1 while the instance does not keep to its binding to CPUs.", labels=("name", "kind")
    )
    memory = GaugeMetricFamily("syshax_binding_memory_bytes", "Its own memory, by node.", labels=("name", "node"))
    for name, status in bindings.items():
        kinds = {drift.kind for drift in status.drifts}
        for kind in DriftKind:
            drift.add_metric((name, kind), kind in kinds)
        for node, size in status.verification.memory_bytes.items():
            memory.add_metric((name, str(node)), size)
    yield drift
    for metric, text, value_of in _BINDING_GAUGES:
        yield _gauges(metric, text, "name", {name: value_of(status) for name, status in bindings.items()})
    yield memory


_BINDING_GAUGES: tuple[tuple[str, str, Callable[[BindingStatus], float]], ...] = (
    (
        "syshax_binding_cpus_planned",
        "CPUs on which a compute thread is to be bound.",
        lambda status: status.verification.cpus_planned,
    ),
    ("syshax_binding_cpus_bound", "CPUs of the plan on which one is.", lambda status: status.verification.cpus_bound),
    (
        "syshax_binding_threads_outside",
        "Threads that may run on other CPUs than the instance's.",
        lambda status: status.verification.threads_outside,
    ),
    (
        "syshax_binding_memory_far_bytes",
        "Memory on other nodes than planned.",
        lambda status: status.verification.memory_far_bytes,
    ),
    ("syshax_binding_read_timestamp_seconds", "When these were read.", lambda status: status.read_at_s),
)


def _gpu_families(gpus: Sequence[GpuLoad]) -> Iterator[Metric]:
    info = GaugeMetricFamily("syshax_gpu_info", "A GPU of the host.", labels=("gpu", "model", "uuid"))
    for gpu in gpus:
        info.add_metric((str(gpu.index), gpu.name, gpu.uuid), 1)
    yield info
    for metric, text, value_of in _GPU_GAUGES:
        values = {str(gpu.index): value_of(gpu) for gpu in gpus}
        yield _gauges(metric, text, "gpu", {gpu: value for gpu, value in values.items() if value is not None})


_GPU_GAUGES: tuple[tuple[str, str, Callable[[GpuLoad], float | None]], ...] = (
    ("syshax_gpu_busy_ratio", "Part of the time in which a kernel ran, 0..1.", lambda gpu: gpu.busy_ratio),
    ("syshax_gpu_memory_used_bytes", "Memory in use.", lambda gpu: gpu.memory_used_bytes),
    ("syshax_gpu_memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.memory_total_bytes),
    ("syshax_gpu_power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("syshax_gpu_temperature_celsius", "Temperature.", lambda gpu: gpu.temperature_c),
)


def _host_families(host: HostLoad) -> Iterator[Metric]:
    yield _gauge("syshax_host_cpus", "CPUs of the host.", host.cpu_count)
    yield _gauge("syshax_host_cpu_busy_ratio", "Busy part of all CPUs, 0..1.", host.cpu_busy_ratio)
    yield _gauge("syshax_host_memory_used_bytes", "Memory in use.", host.memory_used_bytes)
    yield _gauge("syshax_host_memory_total_bytes", "Memory of the host.", host.memory_total_bytes)
    yield _gauge("syshax_host_shm_used_bytes", "Shared memory (/dev/shm) in use.", host.shm_used_bytes)
    yield _gauge("syshax_host_shm_total_bytes", "Size of the shared memory.", host.shm_total_bytes)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(f"{name}_info", text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), 1)
    return family


class _Families:
    """What generate_latest takes: something that has families."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families
