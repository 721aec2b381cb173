# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Counts of requests, by placement, and of hand-overs.

Counting is on the path of every request, so it uses plain counters here (a prometheus_client histogram with
labels costs 2 us, one of these 0.1 us); prometheus_client's families do the rendering.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from syshaxd.core.placement.decision import Prediction
from syshaxd.core.placement.records import HandoverRecord

# vLLM's own buckets (vllm/v1/metrics/loggers.py), so that its histograms and ours are comparable.
_TO_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
# Two more at the lower end: small models on fast GPUs stay below vLLM's first bucket, 10 ms.
_PER_TOKEN_S = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0),
    *(40.0, 80.0),
)
_WHOLE_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
# Most requests don't wait: the first bucket.
_QUEUE_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Lag of the event loop, sampled a few times a second."""


class Histogram:
    """Counts of observations by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Adds an observation, or several of the same value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def add(self, other: "Histogram") -> None:
        """Adds the observations of another histogram with the same buckets."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, in the form that Prometheus uses."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class PlacementSums:
    """The sums over the requests of one placement."""

    __slots__ = (
        *("duration", "gaps", "generation_tokens", "per_token", "prompt_tokens", "queue", "retries", "succeeded"),
        "to_first_token",
    )

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.retries = 0
        self.succeeded = 0
        self.queue = Histogram(_QUEUE_S)
        self.to_first_token = Histogram(_TO_FIRST_TOKEN_S)
        self.per_token = Histogram(_PER_TOKEN_S)
        self.gaps = Histogram(_PER_TOKEN_S)
        """Between two tokens: each gap counts as the mean of its stream."""
        self.duration = Histogram(_WHOLE_S)

    def add(self, other: "PlacementSums") -> None:
        """Adds the sums of another placement."""
        self.prompt_tokens += other.prompt_tokens
        self.generation_tokens += other.generation_tokens
        self.retries += other.retries
        self.succeeded += other.succeeded
        for name in ("queue", "to_first_token", "per_token", "gaps", "duration"):
            getattr(self, name).add(getattr(other, name))


# A hand-over takes milliseconds for a small model, seconds where a long prompt is computed again.
_GAP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


_OFFLOAD_SECONDS = {
    "predicted": "Predicted duration",
    "measured": "Measured duration",
    "predicted_wait": "Predicted duration if the request had waited for the GPU",
}


class HandoverSums:
    """The sums over all hand-overs."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.size_bytes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.gaps: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(_GAP_S))
        self.seconds = dict.fromkeys(_OFFLOAD_SECONDS, 0.0)

    def compare(self, prediction: Prediction, measured_s: float) -> None:
        """Counts the predicted and the measured duration of a request that the CPU helped with."""
        self.seconds["predicted"] += prediction.offload_s
        self.seconds["measured"] += measured_s
        self.seconds["predicted_wait"] += prediction.wait_s

    def add(self, handover: HandoverRecord) -> None:
        """Counts a hand-over."""
        pair = (handover.source, handover.target)
        self.counts[(*pair, handover.cause, handover.result)] += 1
        if handover.result == "loaded":
            self.tokens[pair] += handover.cached_tokens or 0
            self.size_bytes[pair] += handover.size_bytes
        if handover.gap_s is not None:
            self.gaps[handover.cause].observe(handover.gap_s)

    def families(self) -> Iterator[Metric]:
        """Returns the metric families."""
        total = CounterMetricFamily(
            "syshax_handovers",
            "Answers that continued on another instance.",
            labels=("source", "target", "cause", "result"),
        )
        for labels, count in self.counts.items():
            total.add_metric(labels, count)
        yield total
        for name, text, sums in (
            ("syshax_handover_tokens", "Tokens whose KV cache was handed over and used.", self.tokens),
            ("syshax_handover_bytes", "Bytes of KV cache that were handed over and used.", self.size_bytes),
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
        for kind, sum_s in self.seconds.items():
            text = (
                f"{_OFFLOAD_SECONDS[kind]}, summed over successful requests that the CPU helped with by a prediction."
            )
            yield CounterMetricFamily(f"syshax_offload_{kind}_seconds", text, value=sum_s)
