# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Binds the instances of a configuration to GPUs and CPUs of this host. Blocks, so it runs before the event loop."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from syshaxd.core.config import AUTO, Config, enabled_services
from syshaxd.core.config.gpus import uses_gpus
from syshaxd.core.errors import ConfigError, ConfigFault, SyshaxError, TopologyError
from syshaxd.core.launch.bound import Bound, Host
from syshaxd.core.launch.container import with_connector
from syshaxd.core.launch.cpu_binding import bind_instances, describe_fault, refusal
from syshaxd.core.launch.gpu_binding import Confined, HostGpus, confine_instances
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.numa import Weights
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind
from syshaxd.system import host, planned_gpus
from syshaxd.system.enginefiles import read_launch_host
from syshaxd.system.gpus import host_gpus
from syshaxd.system.importable import package_folder

_log = logging.getLogger(__name__)


def planned_specs(config: Config, *, measure: bool = False) -> tuple[InstanceSpec, ...]:
    """Returns the instances to start, not yet bound to CPUs.

    Args:
        config: The configuration.
        measure: Measure what `quantize: auto` needs, if this was not done yet.

    Raises:
        SyshaxError: Part of the configuration can't be passed to vLLM.
    """
    specs = instance_specs(config, read_launch_host(config, measure=measure))
    return tuple(with_connector(spec, os.fspath(package_folder())) if spec.container else spec for spec in specs)


def bind(config: Config, *, measure: bool = False) -> Bound:
    """Returns the enabled instances, bound to their GPUs and CPUs; logs what could be better.

    Args:
        config: The configuration.
        measure: Measure what `quantize: auto` needs, if this was not done yet.

    Raises:
        SyshaxError: An instance's binding is wrong, unless `numa.enforce` is off, or can't be planned.
    """
    specs = planned_specs(config, measure=measure)
    try:
        here: Host | None = this_host()
    except TopologyError as error:
        if any(service.cores == AUTO for service in enabled_services(config).values()):
            raise
        _log.warning("CPU bindings are not checked: %s", error)
        here = None
    confined = confine(config, specs, here)
    if here is None:
        _refuse(confined.faults)
        return Bound(specs=confined.specs, gpus=confined.gpus)
    try:
        bound = bind_instances(config, confined.specs, here, weights(specs), near=confined.nodes, gpus=confined.gpus)
    except ConfigError as error:
        raise ConfigError((*confined.faults, *error.faults)) from None
    wrong = refusal(bound) if config.numa.enforce else None
    _refuse((*confined.faults, *(wrong.faults if wrong else ())))
    for name, faults in bound.faults.items():
        for fault in faults:
            _log.warning("%s: CPU binding: %s", name, describe_fault(fault))
    return bound


def confine(config: Config, specs: Sequence[InstanceSpec], here: Host | None) -> Confined:
    """Returns the instances with their GPUs, which those that had some before keep."""
    its_gpus = host_gpus() if any(map(uses_gpus, enabled_services(config).values())) else HostGpus()
    present = planned_gpus.read(planned_gpus.default_path())
    return confine_instances(config, specs, its_gpus, None if here is None else here.topology, present)


def _refuse(faults: Sequence[ConfigFault]) -> None:
    if faults:
        raise ConfigError(tuple(faults))


def this_host() -> Host:
    """Returns this host and the part of it that this process may use. Raises TopologyError if it can't be read."""
    allowed = host.allowed()
    return Host(topology=host.topology(), allowed_cpus=allowed.cpus, allowed_nodes=allowed.nodes)


def weights(specs: Sequence[InstanceSpec]) -> dict[str, Weights]:
    """Returns the weights of the instances that compute on CPUs; the memory rule applies only to those."""
    found: dict[str, Weights] = {}
    for spec in specs:
        if spec.runtime is not RuntimeKind.EXTERNAL and spec.device is Device.CPU:
            if spec.weights is not None and spec.weights.loaded_bytes:
                found[spec.name] = Weights(stored_bytes=spec.weights.loaded_bytes)
                continue
            try:
                found[spec.name] = host.weights(Path(spec.model))
            except SyshaxError as error:
                _log.info("%s: not checking whether its model fits into a node's memory: %s", spec.name, error)
    return found
