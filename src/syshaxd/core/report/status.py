# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon's status as JSON: for `syshaxctl status -o json` and the dashboard."""

import math
from dataclasses import asdict
from typing import Any

from syshaxd.core.loads import InstanceLoad
from syshaxd.core.numa import BindingStatus, Unverified, Verification
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.parity import report_json
from syshaxd.core.report.describe import device_text, users_of
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import InstanceStatus


def status_json(status: EngineStatus, *, monotonic_s: float) -> dict[str, Any]:
    """The status as JSON. Keys never change. Times are Unix time; `age_s` is seconds since a reading."""
    snapshot = status.snapshot
    result = {
        "version": status.version,
        "endpoint": status.endpoint,
        "started_at_s": status.started_at_s,
        "queued": status.queued,
        "instances": [_instance_json(status, instance, monotonic_s) for instance in status.instances],
        "handovers": [
            {"source": source, "target": target, "possible": not refusal, "refusal": refusal}
            for (source, target), refusal in status.handover_refusals.items()
        ],
        "host": None if snapshot.host is None else asdict(snapshot.host),
        "gpus": [asdict(gpu) | {"instances": users_of(gpu, status)} for gpu in snapshot.gpus],
        "gpu_error": snapshot.gpu_error,
        "parity": [{**report_json(report), "prompts": len(report.prompts)} for report in status.parity],
        "open_circuits": dict(status.open_circuits),
        "faults": list(status.faults),
        "offload": asdict(status.offload),
        "on_demand": {model: asdict(demand) for model, demand in status.on_demand.items()},
        "calibration": asdict(status.calibration),
        "carried": {model: asdict(carried) for model, carried in status.carried.items()},
    }
    return dict(_without_odd_numbers(result))


def _without_odd_numbers(value: Any) -> Any:
    """The value with None for numbers that JSON lacks: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_odd_numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_odd_numbers(each) for each in value]
    return value


def _instance_json(status: EngineStatus, instance: InstanceStatus, monotonic_s: float) -> dict[str, Any]:
    spec, handle = instance.spec, instance.handle
    on_demand = status.on_demand.get(spec.served_model)
    load, binding = status.snapshot.instances.get(spec.name), status.bindings.get(spec.name)
    return {
        "name": spec.name,
        "role": spec.role,
        "device": spec.device,
        "device_text": device_text(spec, status.snapshot),
        "runtime": spec.runtime,
        "model": spec.model,
        "served_model": spec.served_model,
        "address": spec.address.authority,
        "cores": format_cpulist(spec.cores),
        "gpus": list(spec.gpus),
        "depends_on": spec.depends_on,
        "max_num_seqs": spec.max_num_seqs,
        "weights": spec.weights_text,
        "weights_reason": spec.weights_reason,
        "state": instance.state,
        "on_demand": "" if on_demand is None else on_demand.text,
        "wanted": instance.wanted,
        "reason": instance.reason,
        "since_s": instance.since_s,
        "launches": instance.generation,
        "failed_attempts": instance.attempts,
        "ident": None if handle is None else handle.ident,
        "launched_at_s": None if handle is None else handle.started_at_s,
        "inflight": status.inflight.get(spec.name, 0),
        "binding_faults": list(status.binding_faults.get(spec.name, ())),
        "binding": None if binding is None else _binding_json(binding),
        "load": None if load is None else _load_json(load, monotonic_s),
    }


def verification_json(found: Verification | Unverified) -> dict[str, Any]:
    """The result of verifying a binding as JSON. `memory_far_bytes` is the old name of `remote_memory_bytes`."""
    values = asdict(found)
    return values if isinstance(found, Unverified) else {**values, "memory_far_bytes": found.remote_memory_bytes}


def _binding_json(binding: BindingStatus) -> dict[str, Any]:
    return {**asdict(binding), "verification": verification_json(binding.verification)}


def _load_json(load: InstanceLoad, monotonic_s: float) -> dict[str, Any]:
    values = asdict(load)
    return {"age_s": round(monotonic_s - values.pop("read_at_s"), 3), **values}
