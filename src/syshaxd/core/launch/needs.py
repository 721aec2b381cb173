# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the instances of on-demand models need of the host, and what there is for them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from syshaxd.core.config import Config, device_of, enabled_services, on_demand_instances
from syshaxd.core.config.gpus import memory_share
from syshaxd.core.launch.bound import Bound
from syshaxd.core.report.describe import is_named
from syshaxd.core.types import Device, RuntimeKind

MEMORY = "GiB of memory"
_GPU = "GPU"
_GIB = 2**30
_MARGIN = 1e-9
"""For sums of decimal fractions such as 0.7 + 0.3."""


def on_demand_needs(config: Config, bound: Bound) -> tuple[dict[str, Mapping[str, float]], dict[str, float]]:
    """What each on-demand model needs of each resource, and what the instances that always run leave of it.

    A GPU counts by the share of its memory, a CPU as a whole, and the host's memory for models on CPUs, as far as the
    size of their weights is known. What always-running instances take without naming it is left out: it does not keep
    a model down.
    """
    services, on_demand = enabled_services(config), on_demand_instances(config)
    gpus = {spec.name: _gpu_names(spec.gpus, bound) for spec in bound.specs}
    named = {gpu for names in gpus.values() for gpu in names}
    needs: dict[str, Counter[str]] = {model: Counter() for model in on_demand.values()}
    taken = Counter[str]()
    for name, service in services.items():
        if service.runtime is RuntimeKind.EXTERNAL:
            continue
        needed = needs[on_demand[name]] if name in on_demand else taken
        needed.update(_memory(name, bound))
        if device_of(service) is Device.CUDA and gpus[name]:
            needed.update(dict.fromkeys(gpus[name], memory_share(service)))
        if name not in on_demand:
            continue
        if device_of(service) is Device.CUDA and not gpus[name]:  # it may be on any of those that others name
            needed |= Counter(dict.fromkeys((_GPU, *named), memory_share(service)))
        needed |= Counter({f"CPU {cpu}": 1.0 for cpu in bound.owners().get(name, ())})
    capacity = {resource: 1.0 for needed in needs.values() for resource in needed if resource != MEMORY}
    if bound.topology is not None and (size := sum(node.memory_bytes or 0 for node in bound.topology.nodes)):
        capacity[MEMORY] = size / _GIB
    left = {resource: size - taken.get(resource, 0.0) for resource, size in capacity.items()}
    return {model: dict(needed) for model, needed in needs.items()}, left


def turn_groups(needs: Mapping[str, Mapping[str, float]], capacity: Mapping[str, float]) -> dict[str, int]:
    """Returns the group of each on-demand model: no two models of a group fit side by side.

    Args:
        needs: Of each model, as `on_demand_needs` returns them.
        capacity: What there is of each resource.
    """
    groups: list[list[str]] = []
    for model, needed in needs.items():
        rivals = (group for group in groups if all(not _fit(needed, needs[other], capacity) for other in group))
        if (group := next(rivals, None)) is None:
            groups.append(group := [])
        group.append(model)
    return {model: number for number, group in enumerate(groups) for model in group}


def _fit(one: Mapping[str, float], other: Mapping[str, float], capacity: Mapping[str, float]) -> bool:
    """Whether two models can run at the same time."""
    both = one.keys() & other.keys() & capacity.keys()
    return all(one[resource] + other[resource] <= capacity[resource] + _MARGIN for resource in both)


def _gpu_names(names: Sequence[str], bound: Bound) -> tuple[str, ...]:
    """One name for each GPU, or part of one, however it is named."""
    known = [next((gpu for gpu in bound.gpus if is_named(gpu, name)), None) for name in names]
    whole = [gpu is not None and not name.startswith("MIG-") for gpu, name in zip(known, names, strict=True)]
    return tuple(
        f"{_GPU} {gpu.index if gpu is not None and is_whole else name}"
        for gpu, name, is_whole in zip(known, names, whole, strict=True)
    )


def _memory(name: str, bound: Bound) -> dict[str, float]:
    limits, settings = bound.constraints.get(name), bound.settings.get(name)
    if limits is None or settings is None or not limits.model_bytes:
        return {}
    return {MEMORY: (limits.model_bytes + limits.kv_cache_bytes * settings.ranks) / _GIB}
