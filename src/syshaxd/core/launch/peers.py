# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the instances of one model share: an IPC namespace, and how they hand KV caches over unless configured."""

from collections.abc import Mapping

from syshaxd.core.config import Config, ServiceConfig, container_name, enabled_services, flag_name, model_of, section_of
from syshaxd.core.handover.connector import SINCE, EngineFiles, LaunchHost, connector_doubt
from syshaxd.core.launch.container import DONOR, JOIN
from syshaxd.core.types import HandoverProtocol, Role, RuntimeKind

_MAX_ARENAS_RATIO = 0.5
"""Largest share of the shared memory that arenas take by default."""
_SHAREABLE = "shareable"


def groups(config: Config) -> dict[str, dict[str, ServiceConfig]]:
    """The enabled instances by name, by the name of the model that they serve."""
    found: dict[str, dict[str, ServiceConfig]] = {}
    for name, service in enabled_services(config).items():
        found.setdefault(model_of(config, service).name, {})[name] = service
    return found


def connector_doubts(config: Config, host: LaunchHost) -> dict[str, str]:
    """For each instance, why hand-over is not enabled by default, as a message; empty: it is enabled."""
    grouped = groups(config).values()
    arenas_bytes = config.offload.arena_bytes * sum(len(group) for group in grouped if len(group) > 1)
    if not config.offload.enabled:
        common = "offload.enabled is false"
    elif host.arena_fault:
        common = host.arena_fault
    elif arenas_bytes > host.shm_total_bytes * _MAX_ARENAS_RATIO:
        common = f"{arenas_bytes} bytes of arenas exceed half of the shared memory; see offload.arena_bytes"
    else:
        common = ""
    alone = "no other instance is enabled" if len(grouped) < 2 else "no other instance serves its model"
    return {
        name: (alone if len(group) < 2 and config.offload.enabled else common)
        or _doubt(f"services.{section_of(config, name)}", service, host.engines.get(name, EngineFiles()))
        for group in grouped
        for name, service in group.items()
    }


def default_protocols(config: Config, doubts: Mapping[str, str]) -> dict[str, HandoverProtocol]:
    """How each instance hands over unless configured: the connector if there is no doubt about any of its model."""
    return {
        name: HandoverProtocol.NONE if any(doubts[each] for each in group) else HandoverProtocol.CONNECTOR
        for group in groups(config).values()
        for name in group
    }


def _doubt(key: str, service: ServiceConfig, files: EngineFiles) -> str:
    if service.protocol is HandoverProtocol.CONNECTOR:
        return ""
    if service.runtime is RuntimeKind.EXTERNAL:
        return f"syshaxd does not start it: set {key}.protocol if it has the connector"
    if service.runtime is RuntimeKind.DOCKER and not files.version:
        return (
            f"the vLLM version in its image is unknown: set {key}.protocol to connector (vLLM from {SINCE}), "
            "or to syshax (images syshax-vllm-gpu and -cpu)"
        )
    return connector_doubt(key, files, {flag_name(arg): value for arg, value in service.args.items()}, service.env)


def ipc_donors(config: Config) -> dict[str, str]:
    """The instances whose containers join another instance's IPC namespace, by name; each depends on that other."""
    services = enabled_services(config)
    offered = {
        container_name(name, service): name
        for name, service in services.items()
        if service.runtime is RuntimeKind.DOCKER and service.container.ipc in {None, _SHAREABLE}
    }
    return {
        name: offered[joined]
        for name, ipc in default_ipc(config).items()
        if (joined := (services[name].container.ipc or ipc).removeprefix(JOIN)) in offered and offered[joined] != name
    }


def default_ipc(config: Config) -> dict[str, str]:
    """The IPC namespace of each container, unless configured.

    The CPUs join that of their model's one GPU. If a model has several GPU containers, or none, a separate container
    keeps the namespace, so that no instance depends on another.
    """
    found: dict[str, str] = {}
    for group in groups(config).values():
        containers = {name: service for name, service in group.items() if service.runtime is RuntimeKind.DOCKER}
        gpus = [name for name, service in containers.items() if service.role is Role.GPU]
        for name, service in containers.items():
            found[name] = _SHAREABLE
            if len(gpus) == 1 and service.role is Role.CPU:
                gpu = containers[gpus[0]]
                if gpu.container.ipc in {None, _SHAREABLE}:
                    found[name] = f"{JOIN}{container_name(gpus[0], gpu)}"
            elif len(gpus) != 1 and len(containers) > 1:
                found[name] = DONOR
    return found
