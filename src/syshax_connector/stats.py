# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Counts and times of hand-overs, on their way through vLLM to the engine's log and its /metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

PREFIX = "vllm:syshax_handover"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BYTES = tuple(2.0**power for power in range(14, 35, 2))
_TOKENS = (1.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)
_OBSERVED = ("save_seconds", "wait_seconds")
_PER_OP = ("bytes", "tokens", "copy_seconds")


@dataclass
class HandoverStats(KVConnectorStats):
    """Events since the last non-empty step.

    `data`: `events` is a list of `{op: save | load, result, reason, ...}`, with `tokens`, `bytes` and seconds of what
    succeeded; `reaped` counts files; `state` holds the latest arena_bytes, arena_used_bytes, waiting, oldest_seconds.
    """

    data: dict[str, Any]

    def reset(self) -> None:
        """Empties it."""
        self.data = {"events": [], "reaped": 0, "state": {}}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Adds what came later."""
        mine, later = self.data, other.data
        self.data = {
            "events": [*mine.get("events", ()), *later.get("events", ())],
            "reaped": mine.get("reaped", 0) + later.get("reaped", 0),
            "state": later.get("state") or mine.get("state", {}),
        }
        return self

    def reduce(self) -> dict[str, int | float]:
        """A line for vLLM's log."""
        totals: dict[str, int | float] = {}
        for event in self.data.get("events", ()):
            name = f"{event['op']} {event['result']}" + (f" ({event['reason']})" if event["reason"] else "")
            totals[name] = totals.get(name, 0) + 1
            for unit in (*_PER_OP, *_OBSERVED):
                if unit in event:
                    totals[f"{event['op']} {unit}"] = totals.get(f"{event['op']} {unit}", 0) + event[unit]
        return totals | ({"files reaped": self.data["reaped"]} if self.data.get("reaped") else {})

    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.data.get("events") or self.data.get("reaped") or self.data.get("state"))


class HandoverMetrics(KVConnectorPromMetrics):
    """The instance's `vllm:syshax_handover_*`; PROTOCOL.md lists them."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Mapping[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        results = [*labelnames, "op", "result", "reason"]
        per_op = [*labelnames, "op"]

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: list[str]) -> Any:
            return self._histogram_cls(name=f"{PREFIX}_{name}", documentation=text, labelnames=labels, buckets=buckets)

        def gauge(name: str, text: str) -> Any:
            return self._gauge_cls(
                name=f"{PREFIX}_{name}", documentation=text, labelnames=labelnames, multiprocess_mode="mostrecent"
            )

        self._results = self._counter_cls(
            name=f"{PREFIX}_results", documentation="Saves and loads by result.", labelnames=results
        )
        self._reaped = self._counter_cls(
            name=f"{PREFIX}_reaped_files", documentation="Abandoned files that were removed.", labelnames=labelnames
        )
        self._per_op = {
            "bytes": histogram("bytes", "Bytes of a hand-over, all ranks.", _BYTES, per_op),
            "tokens": histogram("tokens", "Tokens of a hand-over.", _TOKENS, per_op),
            "copy_seconds": histogram("copy_seconds", "Copying out of or into the KV cache.", _SECONDS, per_op),
        }
        self._seconds = {
            "save_seconds": histogram(
                "save_seconds", "From a request's end to its published hand-over.", _SECONDS, labelnames
            ),
            "wait_seconds": histogram(
                "wait_seconds", "A request's wait for its hand-over to appear.", _SECONDS, labelnames
            ),
        }
        self._state = {
            "arena_bytes": gauge("arena_bytes", "Size of each rank's arena."),
            "arena_used_bytes": gauge("arena_used_bytes", "Bytes taken in each rank's arena."),
            "waiting": gauge("waiting", "Hand-overs in the folder that have not been loaded yet."),
            "oldest_seconds": gauge("oldest_seconds", "Age of the oldest of them."),
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Records what one step told."""
        engine = self.per_engine_labelvalues[engine_idx]
        for event in transfer_stats_data.get("events", ()):
            op = event["op"]
            self._results.labels(*engine, op, event["result"], event["reason"]).inc()
            for name in _PER_OP:
                if name in event:
                    self._per_op[name].labels(*engine, op).observe(event[name])
            for name in _OBSERVED:
                if name in event:
                    self._seconds[name].labels(*engine).observe(event[name])
        if reaped := transfer_stats_data.get("reaped", 0):
            self._reaped.labels(*engine).inc(reaped)
        for name, value in transfer_stats_data.get("state", {}).items():
            self._state[name].labels(*engine).set(value)
