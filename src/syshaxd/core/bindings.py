# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The CPUs of all instances that syshaxd starts: planned where that is wished, and checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from syshaxd.core.config import AUTO, Config, ServiceConfig, enabled_services
from syshaxd.core.cpulist import format_cpulist
from syshaxd.core.errors import ConfigError, ConfigFault, NoBindingError
from syshaxd.core.topology import (
    Binding,
    Dialect,
    Fault,
    NumaTopology,
    Settings,
    Surroundings,
    check_binding,
    dialect_of,
    plan_binding,
    read_settings,
    reserve_cores,
)
from syshaxd.core.topology.binding import AFFINITY, FUSED, NRC, OMP_BIND, QUANTIZE, THREADS
from syshaxd.core.topology.reading import CPUSET_CPUS
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind

_SHOWN = frozenset((AFFINITY, THREADS, FUSED, NRC, QUANTIZE, OMP_BIND))
"""Any other variable may be a secret."""
_RANKS = ("tensor-parallel-size", "pipeline-parallel-size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where the instances are to run."""

    topology: NumaTopology
    allowed_cpus: tuple[int, ...] | None = None
    """CPUs that the daemon's control group and affinity let them use; None: all."""
    allowed_nodes: tuple[int, ...] | None = None
    """Nodes from which they may take memory; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Instances with their CPUs, and what is wrong with those."""

    specs: tuple[InstanceSpec, ...]
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    """By instance; those without any are left out. Advice is among them."""


def bind_instances(config: Config, specs: Iterable[InstanceSpec], host: Host) -> Bound:
    """Returns the instances with `cores: auto` planned, and the faults of all that syshaxd starts.

    An instance that names no CPUs shares the host with the others, as the operating system likes. Where there are fewer
    cores than instances, all share.

    Raises:
        ConfigError: No binding can be planned for an instance.
    """
    all_specs, services = tuple(specs), enabled_services(config)
    ours = [spec for spec in all_specs if spec.runtime is not RuntimeKind.EXTERNAL]
    settings = {spec.name: _settings(spec, services[spec.name]) for spec in ours}
    taken = {
        spec.name: claimed
        for spec in ours
        if services[spec.name].cores != AUTO and (claimed := _claimed(settings[spec.name], host))
    }
    faults: list[ConfigFault] = []
    # Those on a GPU first: they need few cores, but near ones.
    planned = [spec for spec in ours if services[spec.name].cores == AUTO]
    for spec in sorted(planned, key=lambda spec: settings[spec.name].dialect is not Dialect.PLAIN):
        try:
            binding = _plan(settings[spec.name], host, taken, config.numa.gpu_cores)
        except NoBindingError as error:
            faults.append(ConfigFault(f"services.{spec.name}.cores", f"{error}; give every instance its own cores"))
            continue
        settings[spec.name] = binding.settings(settings[spec.name].env)
        taken[spec.name] = binding.cpuset
    if faults:
        raise ConfigError(tuple(faults))
    must_share = _cores_to_be_had(host) < len(ours)
    found: dict[str, tuple[Fault, ...]] = {}
    for name, its in settings.items():
        others = {other: cpus for other, cpus in taken.items() if other != name}
        around = _surroundings(host, others if name in taken and not must_share else {})
        if its_faults := check_binding(its, host.topology, around):
            found[name] = its_faults
    planned_names = {spec.name for spec in planned}
    return Bound(
        specs=tuple(
            replace(spec, cores=taken[spec.name], env=tuple(settings[spec.name].env.items()))
            if spec.name in planned_names
            else spec
            for spec in all_specs
        ),
        faults=found,
    )


def refusal(bound: Bound) -> ConfigError | None:
    """Returns why these instances must not be started, with every blocking fault and what would be right; or None."""
    faults = tuple(
        ConfigFault(f"services.{name}", describe_fault(fault))
        for name, its_faults in bound.faults.items()
        for fault in its_faults
        if fault.blocking
    )
    if not faults:
        return None
    hint = ConfigFault("numa.enforce", "`false` starts the instances all the same")
    return ConfigError((*faults, hint))


def describe_fault(fault: Fault) -> str:
    """Returns a fault in one line, with what would be right."""
    its, text = fault.proposal, str(fault).replace(CPUSET_CPUS, "cores")
    if its is None:
        return f"{text}; beside the others no binding would be right"
    right = [f"cores={its.cpuset_cpus}"] if its.cpuset_cpus else []
    right += [f"{key}={value}" for key, value in its.env.items() if key in _SHOWN]
    right += [f"tensor-parallel-size={its.ranks}"] if its.ranks > 1 else []
    return f"{text}; right would be {' '.join(right) or 'to name no CPUs'}"


def _settings(spec: InstanceSpec, service: ServiceConfig) -> Settings:
    env = dict(spec.env)
    return Settings(
        dialect=dialect_of(env, on_cpu=spec.device is Device.CPU),
        env=env,
        cpuset_cpus=format_cpulist(spec.cores),
        ranks=_ranks(service),
    )


def _ranks(service: ServiceConfig) -> int:
    """Processes that share the model."""
    ranks = 1
    for key, value in service.args.items():
        if key.replace("_", "-") in _RANKS and str(value).isdecimal():
            ranks *= max(1, int(str(value)))
    return ranks


def _claimed(settings: Settings, host: Host) -> tuple[int, ...]:
    """CPUs that settings name; vLLM's own choice is not a claim."""
    reading = read_settings(settings, host.topology, _surroundings(host, {}))
    return tuple(sorted({*(reading.cpus if reading.listed else ()), *(reading.cpuset or ())}))


def _plan(settings: Settings, host: Host, taken: Mapping[str, tuple[int, ...]], gpu_cores: int) -> Binding:
    around = _surroundings(host, taken)
    if settings.dialect is Dialect.PLAIN:
        cpus = reserve_cores(host.topology, {"gpu": gpu_cores}, around)["gpu"]
        return Binding(dialect=Dialect.PLAIN, groups=(cpus,), cpuset=cpus)
    threads = settings.env.get(THREADS, "")
    return plan_binding(
        host.topology,
        dialect=settings.dialect,
        threads=int(threads) if threads.isascii() and threads.isdecimal() else None,
        ranks=settings.ranks,
        surroundings=around,
    )


def _surroundings(host: Host, taken: Mapping[str, tuple[int, ...]]) -> Surroundings:
    return Surroundings(taken=taken, allowed_cpus=host.allowed_cpus, allowed_nodes=host.allowed_nodes)


def _cores_to_be_had(host: Host) -> int:
    allowed = set(host.topology.online if host.allowed_cpus is None else host.allowed_cpus)
    return sum(not allowed.isdisjoint(core) for core in host.topology.cores)
