# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Metrics under the names of the previous release, exported next to the new ones until the next release."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric

from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import DriftKind


@dataclass(frozen=True, slots=True)
class Renamed:
    """A family that has a new name. Names of counters are without `_total`."""

    old: str
    new: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that told apart what are separate families now."""


RENAMED = (
    Renamed("syshax_tokens", "syshax_prompt_tokens", {"kind": "prompt"}),
    Renamed("syshax_tokens", "syshax_generation_tokens", {"kind": "generation"}),
    Renamed("syshax_queue_seconds", "syshax_request_queue_time_seconds"),
    Renamed("syshax_request_body_bytes", "syshax_request_bodies_held_bytes"),
    Renamed("syshax_offload_seconds", "syshax_offload_predicted_seconds", {"kind": "predicted"}),
    Renamed("syshax_offload_seconds", "syshax_offload_measured_seconds", {"kind": "measured"}),
    Renamed("syshax_offload_seconds", "syshax_offload_predicted_wait_seconds", {"kind": "predicted_wait"}),
    Renamed("syshax_binding_memory_far_bytes", "syshax_binding_remote_memory_bytes"),
    Renamed("syshax_binding_read_timestamp_seconds", "syshax_binding_last_success_timestamp_seconds"),
    Renamed("syshax_gpu_busy_ratio", "syshax_gpu_utilization_ratio"),
    Renamed("syshax_host_cpu_busy_ratio", "syshax_host_cpu_utilization_ratio"),
)
REPLACED = {
    "syshax_instance_reading_ok": "syshax_instance_last_success_timestamp_seconds",
    "syshax_instance_reading_age_seconds": "syshax_instance_last_success_timestamp_seconds",
    "syshax_instance_generation_tokens_per_second": "syshax_instance_generation_tokens",
    "syshax_instance_prompt_tokens_per_second": "syshax_instance_prompt_tokens",
    "syshax_gpu_reading_ok": "syshax_gpu_last_success_timestamp_seconds",
}
"""Families whose values are computed from other ones now."""
OLD_DRIFT_KINDS = {"memory-far": DriftKind.REMOTE_MEMORY}
"""Old values of the label `kind` of `syshax_binding_drift`."""


def old_families(families: Sequence[Metric], snapshot: Snapshot, now_s: float) -> Iterator[Metric]:
    """Returns the families of the previous release that have other names now.

    Args:
        families: All families under their new names.
        snapshot: The latest readings.
        now_s: Monotonic time.
    """
    by_name = {family.name: family for family in families}
    renamed: dict[str, Metric] = {}
    for alias in RENAMED:
        if (family := by_name.get(alias.new)) is None:
            continue
        old = renamed.setdefault(alias.old, Metric(alias.old, _help(alias.new), family.type))
        for sample in family.samples:
            name = alias.old + sample.name.removeprefix(alias.new)
            old.add_sample(name, {**sample.labels, **alias.labels}, sample.value)
    yield from renamed.values()
    yield from _replaced(snapshot, now_s)


def _replaced(snapshot: Snapshot, now_s: float) -> Iterator[Metric]:
    loads = {name: load for name, load in snapshot.instances.items() if load.read_at_s}
    values: dict[str, dict[str, float]] = {
        "syshax_instance_reading_ok": {name: not load.error for name, load in snapshot.instances.items()},
        "syshax_instance_reading_age_seconds": {name: now_s - load.read_at_s for name, load in loads.items()},
        "syshax_instance_generation_tokens_per_second": {
            name: load.generation_tokens_per_s for name, load in loads.items()
        },
        "syshax_instance_prompt_tokens_per_second": {name: load.prompt_tokens_per_s for name, load in loads.items()},
    }
    for name, by_instance in values.items():
        family = GaugeMetricFamily(name, _help(REPLACED[name]), labels=("name",))
        for instance, value in by_instance.items():
            family.add_metric((instance,), value)
        yield family
    gpu = "syshax_gpu_reading_ok"
    yield GaugeMetricFamily(gpu, _help(REPLACED[gpu]), value=not snapshot.gpu_error)


def _help(new: str) -> str:
    return f"Deprecated: use {new}."
