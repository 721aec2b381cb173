# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The latest readings of instances, GPUs and the host."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLoad:
    """The latest reading of an instance's own /metrics. Rates are over the last polling interval."""

    read_at_s: float
    """Monotonic time of the reading."""
    running: int = 0
    waiting: int = 0
    kv_usage_ratio: float = 0.0
    """0..1."""
    generation_tokens_per_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    token_s: float = 0.0
    """Mean seconds between two tokens of one stream over the interval; 0: none were made, or it does not tell."""
    prefill_tokens: float = 0.0
    """Mean tokens computed of a prompt, of the requests that ended over the interval; 0: none did that could tell."""
    prefill_s: float = 0.0
    """Mean seconds that these prompts took."""
    preemptions: int = 0
    """Since the server started."""
    prompt_tokens: int | None = None
    """Since the server started; None: it exports only a rate."""
    generation_tokens: int | None = None
    """Since the server started; None: it exports only a rate."""
    preempted: int = 0
    """Over the interval."""
    error: str = ""
    """Why the last reading failed (the other fields are then of the last good one), or which samples were invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """One GPU, read through NVML."""

    index: int
    name: str
    uuid: str
    busy_ratio: float | None
    """0..1; None if the driver does not report it, as for a GPU in MIG mode."""
    memory_used_bytes: int
    memory_total_bytes: int
    address: str = ""
    """On the PCI bus, such as `0000:17:00.0`; empty: unknown."""
    parts: tuple[str, ...] = ()
    """UUIDs of the MIG devices that it is divided into; empty: it is whole."""
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """The host, read through psutil."""

    cpu_count: int
    cpu_busy_ratio: float
    """0..1 over all CPUs, over the last interval."""
    memory_used_bytes: int
    memory_total_bytes: int
    shm_used_bytes: int
    shm_total_bytes: int


NO_LOAD = InstanceLoad(read_at_s=0.0)
"""The load of an instance without readings: only the daemon's own counts apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The latest readings of everything. Each part carries its own time."""

    taken_at_s: float = 0.0
    """Monotonic time; 0 before the first reading."""
    instances: Mapping[str, InstanceLoad] = field(default_factory=dict)
    gpus: tuple[GpuLoad, ...] = ()
    """The readable GPUs."""
    gpu_error: str = ""
    """Why some or all GPUs could not be read; empty: no fault, or no GPU."""
    gpus_read_at_s: float = 0.0
    """Monotonic time of the last reading of all GPUs; 0: none."""
    host: HostLoad | None = None
    max_age_s: float = math.inf
    """Age from which an instance's reading no longer counts."""

    def load(self, name: str) -> InstanceLoad:
        """An instance's reading, or NO_LOAD if there is none or it is too old."""
        load = self.instances.get(name, NO_LOAD)
        return load if self.taken_at_s - load.read_at_s <= self.max_age_s else NO_LOAD
