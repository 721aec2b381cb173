# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances with the CPUs and GPUs of the host that they are bound to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from syshaxd.core.loads import GpuLoad
from syshaxd.core.numa import Binding, BindingSettings, Constraints, Fault, NumaTopology
from syshaxd.core.numa.reading import Cpus
from syshaxd.core.report.describe import gpu_owners
from syshaxd.core.types import InstanceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The host, as far as this daemon may use it."""

    topology: NumaTopology
    allowed_cpus: tuple[int, ...] | None = None
    """CPUs that the daemon's cgroup and affinity allow; None: all."""
    allowed_nodes: tuple[int, ...] | None = None
    """Nodes from which memory may be allocated; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Instances with their CPU bindings and the faults of those."""

    specs: tuple[InstanceSpec, ...]
    topology: NumaTopology | None = None
    """The host at start; None: it could not be read, so nothing is bound."""
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    """By instance, advice included; instances without faults are absent."""
    settings: Mapping[str, BindingSettings] = field(default_factory=dict)
    """The CPU settings of each instance that syshaxd starts."""
    constraints: Mapping[str, Constraints] = field(default_factory=dict)
    """What limits each of them on the host."""
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    """The binding of each; unbound instances are absent."""
    gpus: tuple[GpuLoad, ...] = ()
    """The host's, as far as they could be read at start."""

    def owners(self) -> dict[str, Cpus]:
        """CPUs to which instances are bound, by name."""
        return {name: tuple(sorted({*binding.cpus, *binding.cpuset})) for name, binding in self.bindings.items()}

    def gpu_owners(self) -> dict[str, tuple[str, ...]]:
        """PCI addresses of the GPUs that instances may use, by name."""
        return gpu_owners(self.specs, self.gpus)
