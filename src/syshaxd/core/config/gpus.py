# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which instance asks for which GPUs, and what is wrong with that."""

from collections.abc import Iterable, Iterator, Mapping

from syshaxd.core.config.instances import device_of, enabled_services, flag_name, on_demand_instances, section_of
from syshaxd.core.config.schema import Config
from syshaxd.core.config.services import ServiceConfig
from syshaxd.core.errors import ConfigFault
from syshaxd.core.numa import fits
from syshaxd.core.types import Device, RuntimeKind

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PARALLEL_SIZES = (
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "prefill-context-parallel-size",
    "data-parallel-size",
)
_LOCAL_SIZE = "data-parallel-size-local"
"""Of the data-parallel ranks, those on this host."""
_SHARE = "gpu-memory-utilization"
_DEFAULT_SHARE = 0.9
"""vLLM's, of a GPU's memory."""


def uses_gpus(service: ServiceConfig) -> bool:
    """Whether syshaxd starts instances on GPUs for it."""
    return device_of(service) is Device.CUDA and service.runtime is not RuntimeKind.EXTERNAL


def gpus_of(service: ServiceConfig) -> tuple[str, ...]:
    """The GPUs that a service names, by index or UUID; empty: it names none."""
    if isinstance(service.gpus, list):
        return tuple(map(str, service.gpus))
    named = service.container.gpus
    if service.runtime is RuntimeKind.DOCKER:
        return tuple(map(str, named)) if isinstance(named, list) else ()
    return tuple(filter(None, str(service.env.get(VISIBLE, "")).split(",")))


def are_gpus_planned(service: ServiceConfig) -> bool:
    """Whether syshaxd chooses the GPUs: `gpus` is `auto` or a count."""
    return service.gpus is not None and not isinstance(service.gpus, list)


def gpus_needed(service: ServiceConfig) -> int:
    """How many GPUs each instance computes on, by its arguments."""
    sizes = {flag_name(arg): int(str(value)) for arg, value in service.args.items() if str(value).isdecimal()}
    if _LOCAL_SIZE in sizes:
        sizes["data-parallel-size"] = sizes[_LOCAL_SIZE]
    needed = 1
    for flag in _PARALLEL_SIZES:
        needed *= max(1, sizes.get(flag, 1))
    return needed


def memory_share(service: ServiceConfig) -> float:
    """The share of its GPUs' memory that each instance takes, 0 to 1."""
    given = next((value for arg, value in service.args.items() if flag_name(arg) == _SHARE), None)
    try:
        return float(str(given)) if given is not None else _DEFAULT_SHARE
    except ValueError:
        return _DEFAULT_SHARE  # vLLM says what is wrong with it


def sharing_fault(key: str, gpu: str, others: Iterable[str]) -> ConfigFault:
    """The fault that a GPU is also given to others, which need more of its memory than is left."""
    return ConfigFault(
        f"{key}.gpus",
        f"GPU {gpu} is given to {' and '.join(others)}, too; name others, or give each a share of its "
        f"memory (args.{_SHARE}), at most 1 together",
    )


def faults_of_gpus(config: Config) -> Iterator[ConfigFault]:
    """GPUs that are named in a wrong way, too few or too many for an instance, or given out twice."""
    services = enabled_services(config)
    taken: dict[str, dict[str, float]] = {}
    on_demand = on_demand_instances(config)
    by_key = {name for name, service in services.items() if service.gpus}
    planned = [name for name, service in services.items() if are_gpus_planned(service)]
    for name, service in services.items():
        key = f"services.{section_of(config, name)}"
        if service.gpus:
            yield from _faults_of_key(key, service)
        if not uses_gpus(service):
            continue
        if planned and _may_use_all(service):
            yield ConfigFault(
                f"{key}.gpus",
                f"it is unset, so the instance may use all GPUs, also those that are planned for {planned[0]}: set it "
                "to auto or to a list",
            )
        for gpu in dict.fromkeys(gpus_of(service)):
            owners = taken.setdefault(gpu, {})
            others = beside(name, owners, on_demand)
            shares = sum(others.values()) + memory_share(service)
            if others and by_key & {name, *others} and not fits(shares):
                yield sharing_fault(key, gpu, others)
            owners[name] = memory_share(service)


def _may_use_all(service: ServiceConfig) -> bool:
    if service.gpus is not None or gpus_of(service):
        return False
    return service.container.gpus != 0 if service.runtime is RuntimeKind.DOCKER else VISIBLE not in service.env


def beside(name: str, owners: Mapping[str, float], on_demand: Mapping[str, str]) -> dict[str, float]:
    """The owners of a GPU that may run at the same time as an instance: of on-demand models, one makes room."""
    always = {owner: share for owner, share in owners.items() if owner not in on_demand}
    groups: dict[str, dict[str, float]] = {}
    for owner in owners.keys() - always.keys():
        groups.setdefault(on_demand[owner], {})[owner] = owners[owner]
    if name in on_demand:
        return always | groups.get(on_demand[name], {})
    return always | max(groups.values(), key=lambda group: sum(group.values()), default={})


def _faults_of_key(key: str, service: ServiceConfig) -> Iterator[ConfigFault]:
    gpus = gpus_of(service)
    if service.runtime is RuntimeKind.EXTERNAL:
        yield ConfigFault(f"{key}.gpus", "syshaxd does not start this instance (runtime external): leave it out")
        return
    if device_of(service) is not Device.CUDA:
        yield ConfigFault(f"{key}.gpus", f"the instance computes on the CPU: leave it out, or set {key}.device to cuda")
        return
    if isinstance(service.gpus, list) and len(set(gpus)) < len(gpus):
        yield ConfigFault(f"{key}.gpus", "a GPU is named twice")
        return
    if service.container.gpus is not None:
        yield ConfigFault(f"{key}.container.gpus", f"{key}.gpus is set, too: leave out one of the two")
    if VISIBLE in service.env:
        yield ConfigFault(f"{key}.env.{VISIBLE}", f"{key}.gpus is set, too: leave out one of the two")
    count = service.gpus if isinstance(service.gpus, int) else len(gpus)
    if service.gpus != "auto" and (needed := gpus_needed(service)) != count:
        sizes = " times ".join(_PARALLEL_SIZES[:2]) + ", and so on"
        yield ConfigFault(f"{key}.gpus", f"{needed} are needed for each instance ({sizes}), not {count}")
