# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Values of core/ as messages. `client.py` does the reverse."""

from dataclasses import asdict

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.control import bindings
from syshaxd.control.messages import make
from syshaxd.core.loads import GpuLoad, HostLoad, InstanceLoad, Snapshot
from syshaxd.core.parity import ParityReport, PromptReport
from syshaxd.core.types import EngineStatus, Handle, InstanceSpec, InstanceStatus


def status(status: EngineStatus, *, now_s: float) -> api.GetStatusResponse:
    """The whole daemon. `now_s` is monotonic: it turns the times of readings into ages."""
    return make(
        api.GetStatusResponse,
        version=status.version,
        started_at_s=status.started_at_s,
        endpoint=status.endpoint,
        queued=status.queued,
        inflight=status.inflight,
        instances=[instance_status(instance) for instance in status.instances],
        snapshot=_snapshot(status.snapshot, now_s),
        binding_faults={name: make(api.BindingFaults, faults=faults) for name, faults in status.binding_faults.items()},
        handover_pairs=[
            make(api.HandoverPair, source=source, target=target, refusal=refusal)
            for (source, target), refusal in status.handover_refusals.items()
        ],
        parity=[parity(report) for report in status.parity],
        faults=status.faults,
        bindings={name: bindings.binding_status(its) for name, its in status.bindings.items()},
    )


def parity(report: ParityReport) -> api.ParityReport:
    """A comparison of two instances."""
    verdict = report.verdict
    return make(
        api.ParityReport,
        first=report.first,
        second=report.second,
        agreement=f"AGREEMENT_{verdict.agreement.name}",
        cause=f"PARITY_CAUSE_{verdict.cause.name}",
        reasons=verdict.reasons,
        allowed=verdict.allowed,
        figures=make(api.ParityFigures, **asdict(report.figures)),
        prompts=[_prompt(prompt) for prompt in report.prompts],
        compared_at_s=report.compared_at_s,
    )


def _prompt(prompt: PromptReport) -> api.PromptReport:
    values = asdict(prompt)
    difference = values.pop("difference")
    parting = None if difference is None else make(api.Difference, **difference)
    return make(api.PromptReport, **values, difference=parting)


def instance_status(status: InstanceStatus) -> api.InstanceStatus:
    """One instance."""
    return make(
        api.InstanceStatus,
        spec=_spec(status.spec),
        state=f"STATE_{status.state.name}",
        wanted=status.wanted,
        reason=status.reason,
        generation=status.generation,
        attempts=status.attempts,
        since_s=status.since_s,
        handle=None if status.handle is None else _handle(status.handle),
    )


def _handle(handle: Handle) -> api.Handle:
    return make(api.Handle, generation=handle.generation, ident=handle.ident, started_at_s=handle.started_at_s)


def _spec(spec: InstanceSpec) -> api.InstanceSpec:
    return make(
        api.InstanceSpec,
        name=spec.name,
        role=f"ROLE_{spec.role.name}",
        device=f"DEVICE_{spec.device.name}",
        runtime=f"RUNTIME_KIND_{spec.runtime.name}",
        model=spec.model,
        served_model=spec.served_model,
        host=spec.host,
        port=spec.port,
        cores=spec.cores,
        depends_on=spec.depends_on or "",
        max_num_seqs=spec.max_num_seqs,
    )


def _snapshot(snapshot: Snapshot, now_s: float) -> api.Snapshot:
    return make(
        api.Snapshot,
        age_s=now_s - snapshot.taken_at_s if snapshot.taken_at_s else None,
        instances={name: _load(load, now_s) for name, load in snapshot.instances.items()},
        gpus=[_gpu(gpu) for gpu in snapshot.gpus],
        gpu_error=snapshot.gpu_error,
        host=None if snapshot.host is None else _host(snapshot.host),
    )


def _load(load: InstanceLoad, now_s: float) -> api.InstanceLoad:
    return make(
        api.InstanceLoad,
        age_s=now_s - load.read_at_s,
        running=load.running,
        waiting=load.waiting,
        kv_usage_ratio=load.kv_usage_ratio,
        generation_tokens_per_s=load.generation_tokens_per_s,
        prompt_tokens_per_s=load.prompt_tokens_per_s,
        preemptions=load.preemptions,
        error=load.error,
    )


def _gpu(gpu: GpuLoad) -> api.GpuLoad:
    return make(
        api.GpuLoad,
        index=gpu.index,
        name=gpu.name,
        uuid=gpu.uuid,
        busy_ratio=gpu.busy_ratio,
        memory_used_bytes=gpu.memory_used_bytes,
        memory_total_bytes=gpu.memory_total_bytes,
        power_w=gpu.power_w,
        temperature_c=gpu.temperature_c,
    )


def _host(host: HostLoad) -> api.HostLoad:
    return make(
        api.HostLoad,
        cpu_count=host.cpu_count,
        cpu_busy_ratio=host.cpu_busy_ratio,
        memory_used_bytes=host.memory_used_bytes,
        memory_total_bytes=host.memory_total_bytes,
        shm_used_bytes=host.shm_used_bytes,
        shm_total_bytes=host.shm_total_bytes,
    )
