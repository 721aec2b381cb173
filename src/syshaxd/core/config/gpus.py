# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which instance gets which GPUs, and what is wrong with that."""

from collections.abc import Iterator

from syshaxd.core.config.instances import device_of, enabled_services, flag_name, section_of
from syshaxd.core.config.schema import Config
from syshaxd.core.config.services import ServiceConfig
from syshaxd.core.errors import ConfigFault
from syshaxd.core.types import Device, RuntimeKind

VISIBLE = "CUDA_VISIBLE_DEVICES"
_RANKS = ("tensor-parallel-size", "pipeline-parallel-size")
_SHARE = "gpu-memory-utilization"
_DEFAULT_SHARE = 0.9
"""vLLM's, of a GPU's memory."""


def gpus_of(service: ServiceConfig) -> tuple[str, ...]:
    """The GPUs that a service names, by index or UUID; empty: it names none."""
    if service.gpus:
        return tuple(map(str, service.gpus))
    named = service.container.gpus
    if service.runtime is RuntimeKind.DOCKER:
        return tuple(map(str, named)) if isinstance(named, list) else ()
    return tuple(filter(None, str(service.env.get(VISIBLE, "")).split(",")))


def faults_of_gpus(config: Config) -> Iterator[ConfigFault]:
    """GPUs that are named in a wrong way, too few for an instance, or promised twice."""
    taken: dict[str, dict[str, float]] = {}
    by_key = {name for name, service in enabled_services(config).items() if service.gpus}
    for name, service in enabled_services(config).items():
        key = f"services.{section_of(config, name)}"
        if service.gpus:
            yield from _faults_of_key(key, service)
        if device_of(service) is not Device.CUDA or service.runtime is RuntimeKind.EXTERNAL:
            continue
        for gpu in dict.fromkeys(gpus_of(service)):
            others = taken.setdefault(gpu, {})
            if others and by_key & {name, *others} and sum(others.values()) + _share(service) > 1:
                yield ConfigFault(
                    f"{key}.gpus",
                    f"GPU {gpu} is promised to {' and '.join(others)}, too; name others, or give each a share of its "
                    f"memory (args.{_SHARE}), at most 1 together",
                )
            others[name] = _share(service)


def _faults_of_key(key: str, service: ServiceConfig) -> Iterator[ConfigFault]:
    gpus = gpus_of(service)
    if service.runtime is RuntimeKind.EXTERNAL:
        yield ConfigFault(f"{key}.gpus", "syshaxd does not start this instance (runtime external): leave it out")
        return
    if device_of(service) is not Device.CUDA:
        yield ConfigFault(f"{key}.gpus", f"the instance computes on the CPU: leave it out, or set {key}.device to cuda")
        return
    if len(set(gpus)) < len(gpus):
        yield ConfigFault(f"{key}.gpus", "a GPU is named twice")
        return
    if service.container.gpus is not None:
        yield ConfigFault(f"{key}.container.gpus", f"{key}.gpus is set, too: leave out one of the two")
    if VISIBLE in service.env:
        yield ConfigFault(f"{key}.env.{VISIBLE}", f"{key}.gpus is set, too: leave out one of the two")
    if (ranks := _ranks(service)) != len(gpus):
        needed = f"{ranks} are needed for each instance ({' times '.join(_RANKS)}), not {len(gpus)}"
        yield ConfigFault(f"{key}.gpus", needed)


def _ranks(service: ServiceConfig) -> int:
    ranks = 1
    for arg, value in service.args.items():
        if flag_name(arg) in _RANKS and str(value).isdecimal():
            ranks *= max(1, int(str(value)))
    return ranks


def _share(service: ServiceConfig) -> float:
    given = next((value for arg, value in service.args.items() if flag_name(arg) == _SHARE), None)
    try:
        return float(str(given)) if given is not None else _DEFAULT_SHARE
    except ValueError:
        return _DEFAULT_SHARE  # vLLM says what is wrong with it
