# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""MetricsService: counts requests as they end, and renders all that the daemon knows as Prometheus text.

`sums` holds what is counted, `readings` renders what is known at a moment.
"""

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from syshaxd import __version__
from syshaxd.core.placement.records import Outcome, RequestRecord
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.observe.metric_aliases import old_families
from syshaxd.observe.metric_readings import (
    binding_families,
    carried_family,
    gauge,
    gauges,
    gpu_families,
    host_families,
    info,
    load_families,
    offload_families,
    on_demand_families,
    parity_families,
    state_families,
)
from syshaxd.observe.metric_sums import LAG_S, HandoverSums, Histogram, PlacementSums
from syshaxd.observe.metric_vllm import vllm_families

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


@dataclass(frozen=True, slots=True)
class ClientCounts:
    """What clients take of the endpoint."""

    connections: int = 0
    """Open at this moment."""
    refused: int = 0
    """Connections refused so far."""
    body_bytes: int = 0
    """Of the bodies that are held at this moment."""
    unauthorized: int = 0
    """Requests without a valid API key so far."""
    certificates_end_at_s: Mapping[str, float] = field(default_factory=dict)
    """When the endpoint's certificates end, in Unix time, by the key of gateway.tls."""
    limited: Mapping[str, int] = field(default_factory=dict)
    """Requests over a limit so far, by the limit."""


class MetricsService:
    """Counts requests and renders metrics. Lives in one event loop."""

    def __init__(
        self,
        *,
        task_failures: Mapping[str, int] = MappingProxyType({}),
        loop_lag: Histogram | None = None,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Has counted nothing yet.

        Args:
            task_failures: How often each background task has failed; read at each rendering.
            loop_lag: How late the event loop was; as above.
            now: Monotonic clock, in seconds.
            clock: Unix time.
        """
        self._task_failures = task_failures
        self._loop_lag = loop_lag or Histogram(LAG_S)
        self._now = now
        self._clock = clock
        self._requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._placements: defaultdict[str, PlacementSums] = defaultdict(PlacementSums)
        self._handovers = HandoverSums()
        self._carried: defaultdict[str, int] = defaultdict(int)

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
        sums.succeeded += rec.outcome is Outcome.OK
        sums.queue.observe(rec.queue_s)
        sums.duration.observe(rec.duration_s)
        if rec.carried_for:
            self._carried[rec.placement] += 1
        for handover in rec.handovers:
            self._handovers.add(handover)
        if rec.prediction is not None and rec.outcome is Outcome.OK:
            self._handovers.compare(rec.prediction, rec.duration_s - rec.queue_s)
        if rec.stream and rec.ttft_s is not None and rec.status == 200:
            sums.to_first_token.observe(rec.ttft_s)
            if rec.tokens_out > 1:
                gap_s = (rec.duration_s - rec.ttft_s) / (rec.tokens_out - 1)
                sums.per_token.observe(gap_s)
                sums.gaps.observe(gap_s, rec.tokens_out - 1)

    def render(self, status: EngineStatus, clients: ClientCounts = ClientCounts()) -> bytes:
        """Returns everything in Prometheus text format."""
        snapshot, now_s = status.snapshot, self._now()
        # Readings carry monotonic times; Prometheus expects Unix time.
        to_unix_s = self._clock() - now_s
        families = [
            info("syshax_build", "The daemon.", {"version": __version__, "python": platform.python_version()}),
            *self._request_families(),
            *_client_families(clients),
            *self._own_families(),
            *self._handovers.families(),
            gauge("syshax_requests_queued", "Requests in the admission queue.", status.queued),
            gauges("syshax_requests_inflight", "Requests now running, by instance.", "name", status.inflight),
            *state_families(status.instances, status.open_circuits),
            *on_demand_families(status.on_demand),
            carried_family(status),
            *load_families(snapshot.instances, to_unix_s),
            *parity_families(status.parity),
            *binding_families(status.bindings),
            *offload_families(status.offload),
            *gpu_families(snapshot, to_unix_s),
            *(host_families(snapshot.host) if snapshot.host else ()),
            *vllm_families(status, self._placements),
        ]
        return generate_latest(_Families([*families, *old_families(families, snapshot, now_s)]))

    def _own_families(self) -> Iterator[Metric]:
        failures = CounterMetricFamily("syshax_task_failures", "Failures of background tasks.", labels=("task",))
        for task, count in self._task_failures.items():
            failures.add_metric((task,), count)
        yield failures
        lag = HistogramMetricFamily("syshax_event_loop_lag_seconds", "How late the daemon's event loop runs callbacks.")
        lag.add_metric((), self._loop_lag.buckets(), self._loop_lag.total)
        yield lag

    def _request_families(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "syshax_requests", "Requests that have ended.", labels=("placement", "route", "outcome")
        )
        for (placement, route, outcome), count in self._requests.items():
            requests.add_metric((placement or NO_PLACEMENT, route, outcome), count)
        yield requests
        carried = CounterMetricFamily(
            "syshax_requests_carried",
            "Requests that CPUs got as no GPU of their model took any.",
            labels=("placement",),
        )
        for placement, count in self._carried.items():
            carried.add_metric((placement,), count)
        yield carried

        prompt = CounterMetricFamily("syshax_prompt_tokens", "Prompt tokens.", labels=("placement",))
        generation = CounterMetricFamily("syshax_generation_tokens", "Generated tokens.", labels=("placement",))
        retries = CounterMetricFamily("syshax_request_retries", "Retries on another instance.", labels=("placement",))
        for placement, sums in self._placements.items():
            prompt.add_metric((placement or NO_PLACEMENT,), sums.prompt_tokens)
            generation.add_metric((placement or NO_PLACEMENT,), sums.generation_tokens)
            retries.add_metric((placement or NO_PLACEMENT,), sums.retries)
        yield from (prompt, generation, retries)

        for name, text, histogram_of in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=("placement",))
            for placement, sums in self._placements.items():
                histogram = histogram_of(sums)
                family.add_metric((placement or NO_PLACEMENT,), histogram.buckets(), histogram.total)
            yield family


_HISTOGRAMS: tuple[tuple[str, str, Callable[[PlacementSums], Histogram]], ...] = (
    ("syshax_request_queue_time_seconds", "Time in the admission queue.", lambda sums: sums.queue),
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


class _Families:
    """What generate_latest takes: something that has families."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _client_families(clients: ClientCounts) -> Iterator[Metric]:
    yield gauge("syshax_client_connections", "Open client connections.", clients.connections)
    yield CounterMetricFamily(
        "syshax_client_connections_refused", "Client connections over a limit, which got 503.", value=clients.refused
    )
    yield gauge("syshax_request_bodies_held_bytes", "Bytes of request bodies in memory.", clients.body_bytes)
    yield CounterMetricFamily(
        "syshax_requests_unauthorized", "Requests without a valid API key, which got 401.", value=clients.unauthorized
    )
    limited = CounterMetricFamily(
        "syshax_requests_limited", "Requests over a limit of their key or of all, which got 429.", labels=("limit",)
    )
    for limit in ("concurrent", "requests", "tokens"):
        limited.add_metric((limit,), clients.limited.get(limit, 0))
    yield limited
    if clients.certificates_end_at_s:
        yield gauges(
            "syshax_tls_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file of gateway.tls ends.",
            "file",
            clients.certificates_end_at_s,
        )
