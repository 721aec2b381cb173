# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Short texts for people: the device of an instance, and quotes of its output."""

from collections.abc import Sequence

from syshaxd.core.loads import GpuLoad, Snapshot
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind


def device_text(spec: InstanceSpec, snapshot: Snapshot) -> str:
    """The device that computes: `NVIDIA A100 0`, `CPU 0-39`, or `CPU 0, as gpu` if the role differs."""
    if spec.device is Device.CUDA:
        gpus = _gpus(spec, snapshot)
        names = sorted({gpu.name for gpu in gpus})
        return f"{', '.join(names) or 'GPU'} {format_cpulist(gpu.index for gpu in gpus)}".strip()
    cores = format_cpulist(spec.cores)
    text = f"CPU {cores}" if cores else "CPU" if spec.runtime is not RuntimeKind.EXTERNAL else "CPU (external)"
    return text if spec.role == str(spec.device) else f"{text}, as {spec.role}"


def _gpus(spec: InstanceSpec, snapshot: Snapshot) -> list[GpuLoad]:
    """The GPUs that the instance may use: those it is confined to, or all, as far as they are known."""
    container = spec.container
    visible = dict(spec.env).get("CUDA_VISIBLE_DEVICES") if container is None else None
    named = visible.split(",") if visible else container.gpus if container is not None else ()
    if not isinstance(named, Sequence) or not named:
        return list(snapshot.gpus)
    found = [gpu for gpu in snapshot.gpus if str(gpu.index) in named or gpu.uuid in named]
    return found or list(snapshot.gpus)


def excerpt(said: bytes | str, *, limit: int = 200) -> str:
    """The beginning of foreign text, escaped for a line of our log: no control characters."""
    text = said[:limit].decode(errors="replace") if isinstance(said, bytes) else said[:limit]
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text.strip())
    return f"{shown}..." if len(said) > limit else shown
