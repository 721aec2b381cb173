# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans (`cores: auto`) and checks the CPU bindings of all instances that syshaxd starts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from syshaxd.core.config import AUTO, Config, ServiceConfig, enabled_services, on_demand_instances
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.launch.bound import Bound, Host
from syshaxd.core.launch.container import cpuset_cpus
from syshaxd.core.launch.core_plan import Turn, plan_cores
from syshaxd.core.launch.needs import on_demand_needs, turn_groups
from syshaxd.core.loads import GpuLoad
from syshaxd.core.numa import (
    Binding,
    BindingSettings,
    Constraints,
    Fault,
    NumaTopology,
    Weights,
    binding_of,
    check_binding,
    dialect_of,
    memory_needs,
    read_settings,
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
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind

_SHOWN = frozenset((AFFINITY, THREADS, FUSED, NRC, QUANTIZE, OMP_BIND, RESERVED, KV_SPACE))
"""Other variables may be secrets."""
_RANKS = ("tensor-parallel-size", "pipeline-parallel-size")


def bind_instances(
    config: Config,
    specs: Sequence[InstanceSpec],
    host: Host,
    weights: Mapping[str, Weights] | None = None,
    *,
    near: Mapping[str, Sequence[int]] | None = None,
    gpus: Sequence[GpuLoad] = (),
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
        gpus: The host's, as far as they could be read.

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
    planned = _plan(
        config,
        {name: settings[name] for name in launched if name in to_plan},
        {name: replace(alone[name], taken=taken) for name in to_plan},
        Bound(specs=tuple(specs), topology=topology, settings=settings, constraints=alone, gpus=tuple(gpus)),
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
        gpus=tuple(gpus),
    )


def _plan(
    config: Config,
    settings: Mapping[str, BindingSettings],
    constraints: Mapping[str, Constraints],
    unplanned: Bound,
) -> dict[str, Binding]:
    """The bindings of those with `cores: auto`.

    On-demand models that do not fit side by side share cores, too. If there are too few cores otherwise, all on-demand
    models share them.
    """
    assert unplanned.topology is not None
    plan = partial(plan_cores, settings, constraints, unplanned.topology, gpu_cores=config.numa.gpu_cores)
    on_demand = on_demand_instances(config)
    groups = turn_groups(*on_demand_needs(config, unplanned))
    try:
        return plan(turns={name: Turn(groups[model], model) for name, model in on_demand.items()})
    except ConfigError:
        if len(groups) < 2:
            raise
        return plan(turns={name: Turn(0, model) for name, model in on_demand.items()})


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
