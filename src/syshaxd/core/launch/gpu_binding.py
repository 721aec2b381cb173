# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans (`gpus: auto`) and checks the GPUs of all instances that syshaxd starts."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from syshaxd.core.config import Config, ServiceConfig, enabled_services, on_demand_instances
from syshaxd.core.config.gpus import (
    VISIBLE,
    are_gpus_planned,
    beside,
    gpus_needed,
    memory_share,
    sharing_fault,
    uses_gpus,
)
from syshaxd.core.errors import ConfigFault
from syshaxd.core.loads import GpuLoad
from syshaxd.core.numa import ALWAYS, Gpu, GpuWish, NumaTopology, fits, plan_gpus
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.report.describe import is_named
from syshaxd.core.types import InstanceSpec, RuntimeKind

_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Without it CUDA counts GPUs in another order than NVML and nvidia-smi do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGpus:
    """The host's GPUs, as far as this daemon may use them."""

    gpus: tuple[GpuLoad, ...] = ()
    error: str = ""
    """Why some or all could not be read; empty: no fault, or no GPU."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES of the daemon; None: it is unset."""

    def find(self, name: str) -> GpuLoad | None:
        """The GPU with this index, UUID (or its beginning, as for CUDA), or part."""
        return next((gpu for gpu in self.gpus if is_named(gpu, name)), None)

    def usable(self) -> list[GpuLoad]:
        """Those that the daemon may use. As for CUDA, what follows an unknown name in the list does not count."""
        if self.visible is None:
            return list(self.gpus)
        found: list[GpuLoad] = []
        for name in self.visible.split(","):
            if (gpu := self.find(name.strip())) is None:
                break
            found.append(gpu)
        return [gpu for gpu in self.gpus if gpu in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confined:
    """Instances with their GPUs."""

    specs: tuple[InstanceSpec, ...]
    faults: tuple[ConfigFault, ...] = ()
    nodes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """NUMA nodes near each instance's GPUs; instances without GPUs of their own, or at an unknown place, are absent."""
    gpus: tuple[GpuLoad, ...] = ()
    """The host's."""


def with_gpus(spec: InstanceSpec, names: Sequence[str]) -> InstanceSpec:
    """The instance confined to these GPUs."""
    gpus = tuple(names)
    if spec.container is not None:
        return replace(spec, gpus=gpus, container=replace(spec.container, gpus=gpus))
    env = _ORDER | {VISIBLE: ",".join(gpus)} | dict(spec.env)
    return replace(spec, gpus=gpus, env=tuple(env.items()))


def confine_instances(
    config: Config,
    specs: Sequence[InstanceSpec],
    host: HostGpus,
    topology: NumaTopology | None = None,
    present: Mapping[str, Sequence[str]] | None = None,
) -> Confined:
    """Returns the instances with `gpus: auto` and counts planned, and what is wrong with GPUs that others name.

    Args:
        config: The configuration.
        specs: Its instances.
        host: The GPUs.
        topology: Tells what they are near to; None: unknown.
        present: The GPUs that instances have already, which they keep.
    """
    services = {name: service for name, service in enabled_services(config).items() if uses_gpus(service)}
    keys = {spec.name: spec.key for spec in specs}
    named = {spec.name: spec.gpus for spec in specs if spec.name in services and spec.gpus}
    homes = _nodes(host, topology)
    taken: dict[str, dict[str, float]] = {}
    on_demand = on_demand_instances(config)
    faults: list[ConfigFault] = []
    for name, gpus in named.items():
        faults += _faults_of_names(keys[name], services[name], gpus, host)
        for unit in dict.fromkeys(_unit(host, gpu) for gpu in gpus):
            owners = taken.setdefault(unit, {})
            others = beside(name, owners, on_demand)
            if services[name].gpus and others and not fits(sum(others.values()) + memory_share(services[name])):
                faults.append(sharing_fault(keys[name], unit, others))
            owners[name] = memory_share(services[name])
    wishes = {
        name: GpuWish(
            count=gpus_needed(service),
            share=memory_share(service),
            present=tuple((present or {}).get(name, ())),
            group=on_demand.get(name, ALWAYS),
        )
        for name, service in services.items()
        if are_gpus_planned(service)
    }
    free = [Gpu(name=name, node=node) for name, node in nodes_of_gpus(host, topology).items()]
    shares = {gpu: _by_group(owners, on_demand) for gpu, owners in taken.items()}
    plan = plan_gpus(free, wishes, shares, topology.distance if topology else lambda _one, _other: 0)
    for name, wish in wishes.items():
        if name not in plan:
            faults.append(ConfigFault(f"{keys[name]}.gpus", f"{name} {_why_too_few(wish, host, named | plan)}"))
    confined = tuple(_confined(spec, plan, host, services) for spec in specs)
    return Confined(
        specs=confined,
        faults=tuple(dict.fromkeys(faults)),
        gpus=host.gpus,
        nodes={spec.name: near for spec in confined if (near := _near(spec.gpus, host, homes))},
    )


def _by_group(owners: Mapping[str, float], on_demand: Mapping[str, str]) -> Mapping[str, float]:
    """Shares of a GPU by the on-demand model that has them."""
    found: dict[str, float] = defaultdict(float)
    for name, share in owners.items():
        found[on_demand.get(name, ALWAYS)] += share
    return found


def _confined(
    spec: InstanceSpec, plan: Mapping[str, Sequence[str]], host: HostGpus, services: Mapping[str, ServiceConfig]
) -> InstanceSpec:
    if spec.name in plan:
        return with_gpus(spec, plan[spec.name])
    inherits = spec.name in services and spec.runtime is RuntimeKind.PROCESS and VISIBLE not in dict(spec.env)
    if inherits and host.visible is not None and not spec.gpus:
        return replace(spec, gpus=tuple(str(gpu.index) for gpu in host.usable()))
    return spec


def _nodes(host: HostGpus, topology: NumaTopology | None) -> dict[int, int]:
    """The node of each GPU, by its index, as far as the firmware reports it."""
    nodes = {device.address: device.node for device in topology.accelerators} if topology else {}
    known = {node.id for node in topology.nodes} if topology else set()
    return {gpu.index: node for gpu in host.gpus if (node := nodes.get(gpu.address)) in known and node is not None}


def nodes_of_gpus(host: HostGpus, topology: NumaTopology | None) -> dict[str, int | None]:
    """The GPUs that can be planned, by index, and the node that each is near to; None: unknown."""
    homes = _nodes(host, topology)
    return {str(gpu.index): homes.get(gpu.index) for gpu in host.usable() if not gpu.parts}


def _near(gpus: Sequence[str], host: HostGpus, homes: Mapping[int, int]) -> tuple[int, ...]:
    found = [gpu for name in gpus if (gpu := host.find(name)) is not None]
    return tuple(sorted({homes[gpu.index] for gpu in found if gpu.index in homes}))


def _unit(host: HostGpus, name: str) -> str:
    """One name for each memory that instances use: a GPU's index, or the UUID of its part."""
    gpu = host.find(name)
    return name if gpu is None or name.startswith("MIG-") else str(gpu.index)


def _faults_of_names(key: str, service: ServiceConfig, names: Sequence[str], host: HostGpus) -> Iterator[ConfigFault]:
    if not service.gpus or not host.gpus or host.error:  # named in another way, or it is not known what there is
        return
    usable = host.usable()
    for name in names:
        gpu = host.find(name)
        if gpu is None:
            there = format_cpulist(each.index for each in host.gpus)
            yield ConfigFault(f"{key}.gpus", f"GPU {name}: this host has GPUs {there}")
        elif gpu not in usable:
            yield ConfigFault(f"{key}.gpus", f"GPU {name} is not in syshaxd's own {VISIBLE}={host.visible}")
        elif gpu.parts and not name.startswith("MIG-"):
            parts = ", ".join(gpu.parts)
            yield ConfigFault(f"{key}.gpus", f"GPU {name} is divided (MIG): name one of its parts, {parts}")
    units = [_unit(host, name) for name in names]
    if len(set(units)) < len(units):
        yield ConfigFault(f"{key}.gpus", "a GPU is named twice, by its index and its UUID")


def _why_too_few(wish: GpuWish, host: HostGpus, given: Mapping[str, Sequence[str]]) -> str:
    needs = f"needs {wish.count} GPU{'s' if wish.count > 1 else ''}"
    if not host.gpus:
        return f"{needs}, but {host.error or 'NVML shows none on this host'}"
    whole = [gpu.index for gpu in host.usable() if not gpu.parts]
    limit = "" if host.visible is None else f" in {VISIBLE}={host.visible}"
    has = f"this host has {format_cpulist(whole) or 'none that is whole'}{limit}"
    owners = "; ".join(f"{name} has {','.join(gpus)}" for name, gpus in given.items())
    return f"{needs} with {wish.share:.0%} of the memory free, but {has}" + (f", of which {owners}" if owners else "")
