# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What was read last of instances, GPUs and the host."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLoad:
    """What an instance's own /metrics said last. Rates are over the last polling interval."""

    read_at_s: float
    """Monotonic time of the reading."""
    running: int = 0
    waiting: int = 0
    kv_usage_ratio: float = 0.0
    """0..1."""
    generation_tokens_per_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    prompt_token_s: float = 0.0
    """Seconds for a token of a prompt, of requests that ended over the interval; 0: none did that could tell."""
    preemptions: int = 0
    """Since the server started."""
    preempted: int = 0
    """Over the interval."""
    error: str = ""
    """Why the last reading failed, and the other fields are those of the last good one; or what of it could not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """One GPU, read through NVML."""

    index: int
    name: str
    uuid: str
    busy_ratio: float | None
    """0..1; None where the driver does not tell, as for a GPU in MIG mode."""
    memory_used_bytes: int
    memory_total_bytes: int
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
"""Of an instance of which nothing is known: then only the daemon's own counts hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The latest readings of everything. Parts may be older than the whole: each carries its own time."""

    taken_at_s: float = 0.0
    """Monotonic time; 0 before the first reading."""
    instances: Mapping[str, InstanceLoad] = field(default_factory=dict)
    gpus: tuple[GpuLoad, ...] = ()
    """Those that could be read."""
    gpu_error: str = ""
    """Why GPUs, or some of them, could not be read; empty when all is well, or when there is none."""
    host: HostLoad | None = None
    max_age_s: float = math.inf
    """Age from which what an instance told does not count any more."""

    def load(self, name: str) -> InstanceLoad:
        """What an instance told, unless it has told nothing or that is too old: it says nothing of the present then."""
        load = self.instances.get(name, NO_LOAD)
        return load if self.taken_at_s - load.read_at_s <= self.max_age_s else NO_LOAD
