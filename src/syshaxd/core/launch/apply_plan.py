# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The plan of `cores: auto`, as changes to a configuration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syshaxd.core.config import AUTO, ServiceConfig, enabled_services, parse, set_value, unset_value
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.launch.bound import Host
from syshaxd.core.launch.cpu_binding import bind_instances, refusal
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.numa import Weights
from syshaxd.core.numa.binding import AFFINITY, CPU_VARIABLES, FUSED, OMP_BIND, THREADS
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind

_RANKS = "tensor-parallel-size"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """The parameters of a plan."""

    instance: str
    threads: int | None = None
    """Total number of compute threads; None: as many as possible."""
    ranks: int | None = None
    """Processes that share the model; None: as configured."""
    stock: bool = False
    """It uses vLLM's own CPU backend, as does any instance that sets VLLM_CPU_OMP_THREADS_BIND."""
    gpu_cores: int | None = None
    """Cores for each instance in the role gpu, near the accelerators; None: unchanged."""


def plan_changes(
    content: Mapping[str, Any],
    request: PlanRequest,
    host: Host,
    weights: Mapping[str, Weights],
    near: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, str | None]:
    """Returns the keys to set so that the configuration states what `cores: auto` would choose; None: unset the key.

    Args:
        content: The configuration file's content.
        request: For the plan.
        host: For which to plan.
        weights: Of the instances' models, as far as they are known.
        near: Nodes of the instances' own GPUs.

    Raises:
        ConfigError: The configuration is not valid, syshaxd does not start the instance, or the host has no such
            binding.
    """
    specs = {spec.name: spec for spec in instance_specs(parse(content))}
    gpus = [name for name, spec in specs.items() if spec.role is Role.GPU and spec.runtime is not RuntimeKind.EXTERNAL]
    names = [request.instance, *((gpus or ["gpu"]) if request.gpu_cores else [])]
    if faults := tuple(_not_ours(names, specs)):
        raise ConfigError(faults)
    asked = _asked(request, specs[request.instance], names[1:])
    wanted: Any = dict(content)
    for key, value in asked.items():
        wanted = unset_value(wanted, key) if value is None else set_value(wanted, key, value)
    config = parse(wanted)
    bound = bind_instances(config, instance_specs(config), host, weights, near=near)
    if wrong := refusal(bound):
        raise wrong
    services = enabled_services(parse(content))
    changes: dict[str, str | None] = {}
    for spec in bound.specs:
        if spec.name in names:
            changes |= _differences(services[spec.name], spec)
    ranks = f"services.{request.instance}.args.{_RANKS}"
    if request.ranks is not None and services[request.instance].args.get(_RANKS, 1) != request.ranks:
        changes[ranks] = str(request.ranks)
    return changes


def _not_ours(names: list[str], specs: Mapping[str, InstanceSpec]) -> Iterator[ConfigFault]:
    for name in names:
        if name not in specs:
            yield ConfigFault(f"services.{name}", f"no such instance is enabled; available: {', '.join(specs)}")
        elif specs[name].runtime is RuntimeKind.EXTERNAL:
            problem = "`external`: syshaxd does not start this instance and so can't bind it"
            yield ConfigFault(f"{specs[name].key}.runtime", problem)
        elif specs[name].service:
            problem = f"{name} is a replica, which has no keys of its own; set `cores: auto`, which plans each replica"
            yield ConfigFault(f"{specs[name].key}.cores", problem)


def _asked(request: PlanRequest, spec: InstanceSpec, gpus: Sequence[str]) -> dict[str, Any]:
    """The configuration keys that request such a plan; None: unset the key."""
    prefix = f"services.{request.instance}"
    asked: dict[str, Any] = {f"{prefix}.cores": AUTO}
    if request.gpu_cores is not None:
        asked |= {f"services.{name}.cores": AUTO for name in gpus} | {"numa.gpu_cores": request.gpu_cores}
    if request.ranks is not None:
        asked[f"{prefix}.args.{_RANKS}"] = request.ranks
    if spec.device is Device.CPU:
        stock = request.stock or OMP_BIND in dict(spec.env)
        asked |= {
            f"{prefix}.env.{FUSED}": None if stock else "fused",
            f"{prefix}.env.{AFFINITY}": None,
            f"{prefix}.env.{THREADS}": request.threads,
        }
    return asked


def _differences(service: ServiceConfig, planned: InstanceSpec) -> dict[str, str | None]:
    prefix = f"services.{planned.name}"
    before = {f"{prefix}.env.{key}": str(value) for key, value in service.env.items() if key in CPU_VARIABLES}
    after = {f"{prefix}.env.{key}": value for key, value in planned.env if key in CPU_VARIABLES}
    before[f"{prefix}.cores"], after[f"{prefix}.cores"] = service.cores or "", format_cpulist(planned.cores)
    if planned.container is not None:
        before[f"{prefix}.container.cpuset_mems"] = service.container.cpuset_mems or ""
        after[f"{prefix}.container.cpuset_mems"] = planned.container.cpuset_mems
    changed: dict[str, str | None] = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | {key: None for key in before if key not in after}
