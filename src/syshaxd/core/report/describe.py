# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Short texts for people: the device of an instance, and quotes of its output."""

from collections.abc import Iterable, Iterator, Sequence

from syshaxd.core.loads import GpuLoad, Snapshot
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.report.engine_status import CalibrationStatus, EngineStatus
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind


def device_text(spec: InstanceSpec, snapshot: Snapshot) -> str:
    """The device that computes: `NVIDIA A100 0`, `CPU 0-39`, or `CPU 0, as gpu` if the role differs."""
    if spec.device is Device.CUDA:
        gpus = gpus_in_use(spec, snapshot.gpus)
        names = sorted({gpu.name for gpu in gpus})
        numbers = format_cpulist(gpu.index for gpu in gpus) or ",".join(spec.gpus)
        part = " (MIG)" if any(gpu.startswith("MIG-") for gpu in spec.gpus) else ""
        return f"{', '.join(names) or 'GPU'} {numbers}{part}".strip()
    cores = format_cpulist(spec.cores)
    text = f"CPU {cores}" if cores else "CPU" if spec.runtime is not RuntimeKind.EXTERNAL else "CPU (external)"
    return text if spec.role == str(spec.device) else f"{text}, as {spec.role}"


def status_notes(status: EngineStatus) -> Iterator[tuple[str, str]]:
    """What is to be told besides figures and faults: the subject and a text of each note."""
    for model, carried in status.carried.items():
        yield model, f"answered by {carried}"
    for each in status.offload.interference:
        if each.is_learnt:
            text = f"its work lengthens the steps of {each.gpu} by {each.ratio:.0%}, so it helps less"
            yield each.cpu, f"{text}; see `syshaxctl offload`"
    if text := _calibration_text(status.calibration):
        yield "calibration", text


def _calibration_text(calibration: CalibrationStatus) -> str:
    parts = [f"{calibration.done} of {calibration.runs} runs done"] if calibration.runs else []
    parts += [calibration.text] if calibration.text else []
    if calibration.stale:
        parts.append(f"stale for {', '.join(calibration.stale)}; `syshaxctl calibrate` measures again")
    return "; ".join(parts)


def gpus_in_use(spec: InstanceSpec, gpus: Sequence[GpuLoad]) -> list[GpuLoad]:
    """Those of the host's GPUs that an instance may use, as far as they are known."""
    if spec.device is not Device.CUDA:
        return []
    return [gpu for gpu in gpus if not spec.gpus or any(is_named(gpu, name) for name in spec.gpus)]


def users_of(gpu: GpuLoad, status: EngineStatus) -> list[str]:
    """The instances that may use a GPU."""
    gpus = status.snapshot.gpus
    return [each.spec.name for each in status.instances if gpu in gpus_in_use(each.spec, gpus)]


def is_named(gpu: GpuLoad, name: str) -> bool:
    """Whether a name is the GPU's index, its UUID or the beginning of that, as CUDA takes it, or one of its parts."""
    if name.startswith(("GPU-", "MIG-")):
        return any(uuid.startswith(name) for uuid in (gpu.uuid, *gpu.parts))
    return name == str(gpu.index)


def gpu_owners(specs: Iterable[InstanceSpec], gpus: Sequence[GpuLoad]) -> dict[str, tuple[str, ...]]:
    """PCI addresses of the GPUs that instances may use, by name; those that use none are absent."""
    found = {spec.name: tuple(gpu.address for gpu in gpus_in_use(spec, gpus) if gpu.address) for spec in specs}
    return {name: addresses for name, addresses in found.items() if addresses}


def excerpt(said: bytes | str, *, limit: int = 200) -> str:
    """The beginning of foreign text, escaped for a line of our log: no control characters."""
    text = said[:limit].decode(errors="replace") if isinstance(said, bytes) else said[:limit]
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text.strip())
    return f"{shown}..." if len(said) > limit else shown
