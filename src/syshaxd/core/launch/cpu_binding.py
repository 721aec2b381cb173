# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans (`cores: auto`) and checks the CPU bindings of all instances that syshaxd starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from syshaxd.core.config import AUTO, Config, ServiceConfig, enabled_services, on_demand_instances
from syshaxd.core.errors import ConfigError, ConfigFault, NoBindingError
from syshaxd.core.launch.container import cpuset_cpus
from syshaxd.core.loads import GpuLoad
from syshaxd.core.numa import (
    Binding,
    BindingSettings,
    Constraints,
    Dialect,
    Fault,
    NumaTopology,
    Weights,
    binding_of,
    check_binding,
    dialect_of,
    memory_needs,
    plan_binding,
    read_settings,
    reserve_cores,
    share_out,
)
from syshaxd.core.numa.binding import (
    AFFINITY,
    FUSED,
    KV_SPACE,
    NRC,
    OMP_BIND,
    QUANTIZE,
    RESERVED,
    THREADS,
)
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.numa.reading import CPUSET_CPUS, Cpus
from syshaxd.core.report.describe import gpu_owners
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind

_SHOWN = frozenset((AFFINITY, THREADS, FUSED, NRC, QUANTIZE, OMP_BIND, RESERVED, KV_SPACE))
"""Other variables may be secrets."""
_RANKS = ("tensor-parallel-size", "pipeline-parallel-size")


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


def bind_instances(
    config: Config,
    specs: Sequence[InstanceSpec],
    host: Host,
    weights: Mapping[str, Weights] | None = None,
    *,
    near: Mapping[str, Sequence[int]] | None = None,
) -> Bound:
    """Returns the instances with `cores: auto` planned, and the faults of all that syshaxd starts.

    An instance that names no CPUs shares the host with the others, as the kernel schedules it. With fewer
    cores than instances, all share.

    Args:
        config: The configuration.
        specs: Its instances.
        host: Where they are to run.
        weights: Of their models, by instance, as far as they are known.
        near: Nodes of each instance's own GPUs; instances without an entry get cores near any accelerator.

    Raises:
        ConfigError: No binding can be planned for an instance.
    """
    services, topology = enabled_services(config), host.topology
    launched = {spec.name: spec for spec in specs if spec.runtime is not RuntimeKind.EXTERNAL}
    settings = {name: _settings(spec, services[name]) for name, spec in launched.items()}
    alone = {
        name: replace(
            _surroundings(host, *_memory_needs(setting, services[name], (weights or {}).get(name))),
            gpu_nodes=tuple((near or {}).get(name, ())),
        )
        for name, setting in settings.items()
    }
    to_plan = {name for name in launched if services[name].cores == AUTO}
    claimed = {name: _claimed(setting, topology) for name, setting in settings.items() if name not in to_plan}
    taken = {name: cpus for name, cpus in claimed.items() if cpus}
    planned = _plan_all(
        {name: settings[name] for name in to_plan},
        {name: replace(alone[name], taken=taken) for name in to_plan},
        topology,
        config.numa.gpu_cores,
    )
    for name, binding in planned.items():
        launched[name] = _planned(launched[name], binding)
        settings[name] = _settings(launched[name], services[name])
        taken[name] = binding.cpuset
    must_share = _cores_to_be_had(host) < len(launched)
    constraints = {
        name: limits if must_share or name not in taken else replace(limits, taken=_beside(config, taken, name))
        for name, limits in alone.items()
    }
    faults = {name: check_binding(setting, topology, constraints[name]) for name, setting in settings.items()}
    readings = {name: read_settings(setting, topology, constraints[name]) for name, setting in settings.items()}
    bindings = {name: binding_of(reading, topology) for name, reading in readings.items()}
    return Bound(
        specs=tuple(launched.get(spec.name, spec) for spec in specs),
        topology=topology,
        faults={name: found for name, found in faults.items() if found},
        settings=settings,
        constraints=constraints,
        bindings={name: binding for name, binding in bindings.items() if binding.groups or binding.cpuset},
    )


def refusal(bound: Bound) -> ConfigError | None:
    """Returns an error with every blocking fault and its remedy; None: the instances may start."""
    faults = tuple(
        ConfigFault(f"services.{name}", describe_fault(fault))
        for name, found in bound.faults.items()
        for fault in found
        if fault.blocking
    )
    if not faults:
        return None
    hint = ConfigFault("numa.enforce", "`false` starts the instances anyway")
    return ConfigError((*faults, hint))


def describe_fault(fault: Fault) -> str:
    """Returns a fault and its remedy in one line."""
    proposal, text = fault.proposal, str(fault).replace(CPUSET_CPUS, "cores")
    if proposal is None:
        return f"{text}; no valid binding exists next to the other instances"
    valid = [f"cores={proposal.cpuset_cpus}"] if proposal.cpuset_cpus else []
    valid += [f"{key}={value}" for key, value in without_secrets(proposal).env.items()]
    valid += [f"tensor-parallel-size={proposal.ranks}"] if proposal.ranks > 1 else []
    return f"{text}; valid: {' '.join(valid) or 'name no CPUs'}"


def without_secrets(settings: BindingSettings) -> BindingSettings:
    """Returns settings that contain only the variables about CPUs and memory."""
    return replace(settings, env={key: value for key, value in settings.env.items() if key in _SHOWN})


def _settings(spec: InstanceSpec, service: ServiceConfig) -> BindingSettings:
    env = dict(spec.env)
    return BindingSettings(
        dialect=dialect_of(env, on_cpu=spec.device is Device.CPU),
        env=env,
        cpuset_cpus=cpuset_cpus(spec) if spec.container else format_cpulist(spec.cores),
        cpuset_mems=spec.container.cpuset_mems if spec.container else "",
        ranks=_ranks(service),
    )


def _ranks(service: ServiceConfig) -> int:
    """Processes that share the model."""
    ranks = 1
    for key, value in service.args.items():
        if key.replace("_", "-") in _RANKS and str(value).isdecimal():
            ranks *= max(1, int(str(value)))
    return ranks


def _planned(spec: InstanceSpec, binding: Binding) -> InstanceSpec:
    """The instance with a binding; configured memory nodes of a container are kept."""
    planned = binding.settings(dict(spec.env))
    container = spec.container
    if container is not None:
        container = replace(container, cpuset_mems=container.cpuset_mems or planned.cpuset_mems)
    return replace(spec, cores=binding.cpuset, env=tuple(planned.env.items()), container=container)


def _claimed(settings: BindingSettings, topology: NumaTopology) -> Cpus:
    """CPUs that settings name explicitly; vLLM's own choice does not count."""
    reading = read_settings(settings, topology)
    return tuple(sorted({*(reading.cpus if reading.listed else ()), *(reading.cpuset or ())}))


def _beside(config: Config, taken: Mapping[str, Cpus], name: str) -> dict[str, Cpus]:
    """The CPUs of the instances that run at the same time: of on-demand models, one makes room for another."""
    on_demand = on_demand_instances(config)
    model = on_demand.get(name)
    return {
        other: cpus
        for other, cpus in taken.items()
        if other != name and (model is None or on_demand.get(other, model) == model)
    }


def _memory_needs(settings: BindingSettings, service: ServiceConfig, weights: Weights | None) -> tuple[int, int]:
    """Bytes of the loaded weights and of each rank's KV cache; 0: unknown."""
    dtype = str(service.args.get("dtype", "auto"))
    return memory_needs(settings, 0 if weights is None else weights.loaded_bytes(dtype))


def _plan_all(
    settings: Mapping[str, BindingSettings],
    constraints: Mapping[str, Constraints],
    topology: NumaTopology,
    gpu_cores: int,
) -> dict[str, Binding]:
    """Plans one instance after the other, GPU instances first: they need few cores, but near ones.

    Those that may have any number of threads share out what is left when all others are planned.

    Raises:
        ConfigError: With each instance for which there is no binding.
    """
    planned: dict[str, Binding] = {}
    faults: list[ConfigFault] = []
    order = sorted(settings, key=lambda name: (settings[name].dialect is not Dialect.PLAIN, _is_open(settings[name])))
    for at, name in enumerate(order):
        taken = {**constraints[name].taken, **{other: binding.cpuset for other, binding in planned.items()}}
        try:
            if _is_open(settings[name]) and order[at + 1 :]:
                parts = share_out(topology, replace(constraints[name], taken=taken), len(order) - at)
                taken |= dict(zip(order[at + 1 :], parts[1:], strict=True))
            planned[name] = _plan(settings[name], replace(constraints[name], taken=taken), topology, gpu_cores)
        except NoBindingError as error:
            faults.append(ConfigFault(f"services.{name}.cores", f"{error}; set the cores of every instance"))
    if faults:
        raise ConfigError(tuple(faults))
    return planned


def _is_open(settings: BindingSettings) -> bool:
    """Whether an instance takes as many CPUs as it gets."""
    return settings.dialect is not Dialect.PLAIN and not settings.env.get(THREADS)


def _plan(settings: BindingSettings, constraints: Constraints, topology: NumaTopology, gpu_cores: int) -> Binding:
    if settings.dialect is Dialect.PLAIN:
        cpus = reserve_cores(topology, {"gpu": gpu_cores}, constraints)["gpu"]
        return Binding(dialect=Dialect.PLAIN, groups=(cpus,), cpuset=cpus)
    threads = settings.env.get(THREADS, "")
    return plan_binding(
        topology,
        dialect=settings.dialect,
        threads=int(threads) if threads.isascii() and threads.isdecimal() else None,
        ranks=settings.ranks,
        constraints=constraints,
    )


def _surroundings(host: Host, model_bytes: int, kv_cache_bytes: int) -> Constraints:
    """Without the other instances."""
    return Constraints(
        allowed_cpus=host.allowed_cpus,
        allowed_nodes=host.allowed_nodes,
        model_bytes=model_bytes,
        kv_cache_bytes=kv_cache_bytes,
    )


def _cores_to_be_had(host: Host) -> int:
    allowed = set(host.topology.online if host.allowed_cpus is None else host.allowed_cpus)
    return sum(not allowed.isdisjoint(core) for core in host.topology.cores)
