# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Builds the InstanceSpecs of all enabled services from the configuration."""

import re
from collections.abc import Mapping

from syshaxd.core.config import AUTO, ArgValue, Config, ServiceConfig, container_name, enabled_services
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.handover.connector import (
    KV_TRANSFER_FLAG,
    OFFLOADING_BACKEND_FLAG,
    OFFLOADING_FLAG,
    SINCE,
    EngineFiles,
    LaunchHost,
    PlannedWeights,
    connector_doubt,
    connector_flags,
    offloading_bytes,
    offloading_fault,
)
from syshaxd.core.launch.container import JOIN, container_spec, inner_host
from syshaxd.core.launch.quantised import image_env, quantise_faults, weights_of
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.types import Device, HandoverProtocol, InstanceSpec, Role, RuntimeKind

_DEVICES = {Role.GPU: Device.CUDA, Role.CPU: Device.CPU}
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_MAX_NUM_SEQS = "max-num-seqs"
_UNKNOWN_HOST = LaunchHost()
_MAX_ARENAS_RATIO = 0.5
"""Largest share of the shared memory that arenas take by default."""
_FLAG = re.compile(r"[A-Za-z0-9][\w.-]*")
_VARIABLE = re.compile(r"[^=\0]+")

Value = ArgValue | list[ArgValue] | None


def instance_specs(config: Config, host: LaunchHost = _UNKNOWN_HOST) -> tuple[InstanceSpec, ...]:
    """Returns the enabled instances, in start order; those with `cores: auto` are not bound yet.

    Args:
        config: The configuration.
        host: What is known of the host; hand-over is not enabled by default where too little is known.

    Raises:
        ConfigError: With every argument and variable that cannot be passed to vLLM, each under its dotted key.
    """
    faults: list[ConfigFault] = []
    doubts = _connector_doubts(config, host)
    unasked = HandoverProtocol.NONE if any(doubts.values()) else HandoverProtocol.CONNECTOR
    specs = tuple(
        _spec(config, name, service, faults, unasked=unasked, doubt=doubts[name], host=host)
        for name, service in enabled_services(config).items()
    )
    if faults:
        raise ConfigError(tuple(faults))
    return specs


def _connector_doubts(config: Config, host: LaunchHost) -> dict[str, str]:
    """For each service, why hand-over is not enabled by default, as a message; empty: it is enabled."""
    services = enabled_services(config)
    arenas_bytes = config.offload.arena_bytes * len(services)
    if not config.offload.enabled:
        common = "offload.enabled is false"
    elif len(services) < 2:
        common = "no other instance is enabled"
    elif host.arena_fault:
        common = host.arena_fault
    elif arenas_bytes > host.shm_total_bytes * _MAX_ARENAS_RATIO:
        common = f"{arenas_bytes} bytes of arenas exceed half of the shared memory; see offload.arena_bytes"
    else:
        common = ""
    return {
        name: common or _doubt(name, service, host.engines.get(name, EngineFiles()))
        for name, service in services.items()
    }


def _doubt(name: str, service: ServiceConfig, files: EngineFiles) -> str:
    if service.protocol is HandoverProtocol.CONNECTOR:
        return ""
    if service.runtime is RuntimeKind.EXTERNAL:
        return f"syshaxd does not start it: set services.{name}.protocol if it has the connector"
    if service.runtime is RuntimeKind.DOCKER and not files.version:
        return (
            f"the vLLM version in its image is unknown: set services.{name}.protocol to connector (vLLM from {SINCE}), "
            "or to syshax (images syshax-vllm-gpu and -cpu)"
        )
    return connector_doubt(name, files, _args(service), service.env)


def _args(service: ServiceConfig) -> dict[str, Value]:
    return {_flag_name(key): value for key, value in service.args.items()}


def _spec(
    config: Config,
    name: str,
    service: ServiceConfig,
    faults: list[ConfigFault],
    *,
    unasked: HandoverProtocol,
    doubt: str,
    host: LaunchHost,
) -> InstanceSpec:
    role = Role(name)
    files = host.engines.get(name, EngineFiles())
    source = service.model or config.models.path or ""
    faults += quantise_faults(name, service, files.weights)
    weights = weights_of(name, service, files.weights)
    model = files.weights.folder if isinstance(files.weights, PlannedWeights) else source
    in_container = service.runtime is RuntimeKind.DOCKER
    own: dict[str, Value] = {
        "model": model,
        "served-model-name": [config.models.default, *config.models.aliases],
        "host": inner_host(service) if in_container else service.host,
        "port": (service.container.container_port or service.port) if in_container else service.port,
        _MAX_NUM_SEQS: service.max_num_seqs,
    }
    protocol = unasked if service.protocol is None else service.protocol
    if protocol is HandoverProtocol.CONNECTOR:
        own |= connector_flags(
            engine_id=f"{name}-{service.port}",
            arena_dir=config.offload.arena_dir or host.arena_dir,
            arena_bytes=config.offload.arena_bytes,
            identity=files.identity,
            verify=config.offload.verify,
            offloading_bytes=offloading_bytes(_args(service)),
        )
    extra_flags = _extra_flags(name, service, own, faults)
    if in_container:  # `vllm serve` takes the model as a positional argument
        command = (*service.container.command, str(own.pop("model")))
    else:
        command = (service.python or "", "-m", _SERVER_MODULE)
    argv = (*command, *(part for flag, value in own.items() for part in _flag(flag, value)), *extra_flags)
    donor = _donor(config, name) if in_container else None
    faults += [
        ConfigFault(f"services.{name}.env.{key}", "not a valid name of an environment variable")
        for key in service.env
        if not _VARIABLE.fullmatch(key)
    ]
    return InstanceSpec(
        name=name,
        role=role,
        device=service.device or _DEVICES[role],
        runtime=service.runtime,
        model=model,
        served_model=config.models.default,
        aliases=tuple(config.models.aliases),
        host=service.host,
        port=service.port,
        argv=argv if service.runtime is not RuntimeKind.EXTERNAL else (),
        env=tuple((image_env(name, service) | {key: str(value) for key, value in service.env.items()}).items()),
        cores=parse_cpulist(service.cores) if service.cores and service.cores != AUTO else (),
        depends_on=donor,
        max_num_seqs=service.max_num_seqs,
        protocol=protocol,
        protocol_doubt=doubt if service.protocol is None else "",
        container=container_spec(role, service, model=model, joins=donor and _container(config, donor))
        if in_container
        else None,
        weights=weights,
    )


def _donor(config: Config, name: str) -> str | None:
    """The instance whose container's IPC namespace this one joins; this one depends on it."""
    ipc = enabled_services(config)[name].container.ipc
    for other, service in enabled_services(config).items():
        if (
            other == name
            or service.runtime is not RuntimeKind.DOCKER
            or service.container.ipc not in {None, "shareable"}
        ):
            continue
        joins = ipc == f"{JOIN}{_container(config, other)}"
        if joins or (ipc is None and Role(name) is Role.CPU):
            return other
    return None


def _container(config: Config, name: str) -> str:
    return container_name(name, enabled_services(config)[name])


def _extra_flags(name: str, service: ServiceConfig, own: Mapping[str, Value], faults: list[ConfigFault]) -> list[str]:
    """The flags of `args`, in the order of the file, without those that are in `own`."""
    flags: list[str] = []
    seen: dict[str, str] = {}
    for key, value in service.args.items():
        flag = _flag_name(key)
        fault = f"given twice, also as {seen[flag]}" if flag in seen else _fault(name, service, key, value)
        seen.setdefault(flag, key)
        if fault:
            faults.append(ConfigFault(f"services.{name}.args.{key}", fault))
        elif flag == KV_TRANSFER_FLAG and flag in own:
            faults.append(ConfigFault(f"services.{name}.args.{key}", f"set services.{name}.protocol to none instead"))
        elif flag in {OFFLOADING_FLAG, OFFLOADING_BACKEND_FLAG} and KV_TRANSFER_FLAG in own:
            # What our flags ask for with them, unless it can't be.
            if flag == OFFLOADING_FLAG and (fault := offloading_fault(_args(service), service.env)):
                text = f"{fault}; correct it, or set services.{name}.protocol to none"
                faults.append(ConfigFault(f"services.{name}.args.{key}", text))
        elif flag not in own:  # it names our connector
            flags += _flag(flag, value)
    return flags


def _fault(name: str, service: ServiceConfig, key: str, value: Value) -> str:
    """The fault of an entry of `args`; empty: none."""
    if not _FLAG.fullmatch(key):
        return "not an argument name; write it without leading dashes, such as `max-model-len`"
    flag = _flag_name(key)
    own = {
        "host": f"services.{name}.host",
        "port": f"services.{name}.port",
        "model": f"services.{name}.model",
        "served-model-name": "models.default and models.aliases",
    }
    if flag in own:
        return f"set {own[flag]} instead: syshaxd passes it on"
    if flag == _MAX_NUM_SEQS and value != service.max_num_seqs:
        return (
            f"differs from services.{name}.max_num_seqs ({service.max_num_seqs}): set it there, and leave it out here"
        )
    if isinstance(value, list) and (not value or any(isinstance(item, bool) for item in value)):
        return "a list needs one or more plain values"
    return ""


def _flag_name(key: str) -> str:
    """`max_model_len` and `max-model-len` are the same flag; text after a dot is a key of a JSON value."""
    head, dot, tail = key.partition(".")
    return head.replace("_", "-") + dot + tail


def _flag(flag: str, value: Value) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{flag}"]
    if isinstance(value, list):
        return [f"--{flag}", *map(str, value)]
    if str(value).startswith("-"):
        return [f"--{flag}={value}"]  # or it would be parsed as the next flag
    return [f"--{flag}", str(value)]
