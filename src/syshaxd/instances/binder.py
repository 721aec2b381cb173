# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Binds the instances of a configuration to the CPUs of this host. Reads files: before the event loop runs."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from syshaxd.core.config import AUTO, Config, enabled_services
from syshaxd.core.errors import SyshaxError, TopologyError
from syshaxd.core.launch.container import with_connector
from syshaxd.core.launch.cpu_binding import Bound, Host, bind_instances, describe_fault, refusal
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.numa import Weights
from syshaxd.core.types import Device, InstanceSpec, RuntimeKind
from syshaxd.system import host
from syshaxd.system.enginefiles import connector_package, read_launch_host

_log = logging.getLogger(__name__)


def planned_specs(config: Config) -> tuple[InstanceSpec, ...]:
    """Returns what is to be started, before it is bound to CPUs.

    Raises:
        SyshaxError: Something in the configuration can't be passed on.
    """
    specs = instance_specs(config, read_launch_host(config))
    return tuple(with_connector(spec, os.fspath(connector_package())) if spec.container else spec for spec in specs)


def bind(config: Config) -> Bound:
    """Returns the instances that take part, with the CPUs on which they are to run; logs what could be better.

    Raises:
        SyshaxError: An instance's binding is wrong, unless `numa.enforce` is off, or can't be planned.
    """
    specs = planned_specs(config)
    try:
        here = this_host()
    except TopologyError as error:
        if any(service.cores == AUTO for service in enabled_services(config).values()):
            raise
        _log.warning("bindings to CPUs are not checked: %s", error)
        return Bound(specs=specs)
    bound = bind_instances(config, specs, here, weights(specs))
    if config.numa.enforce and (wrong := refusal(bound)):
        raise wrong
    for name, faults in bound.faults.items():
        for fault in faults:
            _log.warning("%s: binding to CPUs: %s", name, describe_fault(fault))
    return bound


def this_host() -> Host:
    """Returns this host, and what of it this process may use. Raises TopologyError if it can't be read."""
    allowed = host.allowed()
    return Host(topology=host.topology(), allowed_cpus=allowed.cpus, allowed_nodes=allowed.nodes)


def weights(specs: Sequence[InstanceSpec]) -> dict[str, Weights]:
    """Returns those of the instances that compute on CPUs; the rule on memory is not applied to others."""
    found: dict[str, Weights] = {}
    for spec in specs:
        if spec.runtime is not RuntimeKind.EXTERNAL and spec.device is Device.CPU:
            try:
                found[spec.name] = host.weights(Path(spec.model))
            except SyshaxError as error:
                _log.info("%s: whether its model fits into the memory of a node is not checked: %s", spec.name, error)
    return found
