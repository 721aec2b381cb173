# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Builds the InstanceSpecs of all enabled services from the configuration."""

import re
from collections.abc import Mapping

from syshaxd.core.config import (
    AUTO,
    ArgValue,
    Config,
    ServiceConfig,
    device_of,
    enabled_services,
    flag_name,
    model_of,
    section_of,
)
from syshaxd.core.config.gpus import gpus_of
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.handover.connector import (
    KV_TRANSFER_FLAG,
    OFFLOADING_BACKEND_FLAG,
    OFFLOADING_FLAG,
    EngineFiles,
    LaunchHost,
    PlannedWeights,
    connector_flags,
    is_part_of,
    offloading_bytes,
    offloading_fault,
)
from syshaxd.core.launch.container import container_spec, inner_host
from syshaxd.core.launch.gpu_binding import with_gpus
from syshaxd.core.launch.instance_key import KEY_VARIABLE
from syshaxd.core.launch.peers import connector_doubts, default_ipc, default_protocols, ipc_donors
from syshaxd.core.launch.quantised import image_env, quantise_faults, weights_of
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.types import Device, HandoverProtocol, InstanceSpec, RuntimeKind

_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_MAX_NUM_SEQS = "max-num-seqs"
_UNKNOWN_HOST = LaunchHost()
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
    doubts = connector_doubts(config, host)
    unasked = default_protocols(config, doubts)
    specs = tuple(
        _spec(config, name, service, faults, unasked=unasked[name], doubt=doubts[name], host=host)
        for name, service in enabled_services(config).items()
    )
    if faults:
        raise ConfigError(tuple(dict.fromkeys(faults)))
    return specs


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
    section = section_of(config, name)
    key, served = f"services.{section}", model_of(config, service)
    files = host.engines.get(name, EngineFiles())
    faults += quantise_faults(key, service, files.weights)
    model = files.weights.folder if isinstance(files.weights, PlannedWeights) else served.path or ""
    in_container = service.runtime is RuntimeKind.DOCKER
    own: dict[str, Value] = {
        "model": model,
        "served-model-name": list(served.names),
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
    extra_flags = _extra_flags(key, service, own, faults)
    if in_container:  # `vllm serve` takes the model as a positional argument
        command = (*service.container.command, str(own.pop("model")))
    else:
        command = (service.python or "", "-m", _SERVER_MODULE)
    argv = (*command, *(part for flag, value in own.items() for part in _flag(flag, value)), *extra_flags)
    faults += [
        ConfigFault(f"{key}.env.{variable}", "not a valid name of an environment variable")
        for variable in service.env
        if not _VARIABLE.fullmatch(variable)
    ]
    spec = InstanceSpec(
        name=name,
        role=service.role,
        device=device_of(service),
        runtime=service.runtime,
        model=model,
        served_model=served.name,
        aliases=served.aliases,
        host=service.host,
        port=service.port,
        argv=argv if service.runtime is not RuntimeKind.EXTERNAL else (),
        env=_env(service, host),
        cores=parse_cpulist(service.cores) if service.cores and service.cores != AUTO else (),
        depends_on=ipc_donors(config).get(name),
        max_num_seqs=service.max_num_seqs,
        protocol=protocol,
        protocol_doubt=doubt if service.protocol is None else "",
        container=container_spec(name, service, model=model, ipc=default_ipc(config)[name]) if in_container else None,
        weights=weights_of(service, files.weights),
        service="" if section == name else section,
        weights_reason=files.weights.reason if isinstance(files.weights, PlannedWeights) else "",
        gpus=gpus_of(service) if device_of(service) is Device.CUDA else (),
    )
    return with_gpus(spec, spec.gpus) if isinstance(service.gpus, list) else spec


def _env(service: ServiceConfig, host: LaunchHost) -> tuple[tuple[str, str], ...]:
    inherits_key = service.runtime is RuntimeKind.PROCESS and host.api_key
    inherited = {KEY_VARIABLE: host.api_key} if inherits_key else {}
    own = {key: str(it) for key, it in service.env.items()}
    return tuple((inherited | image_env(service) | own).items())


def _args(service: ServiceConfig) -> dict[str, Value]:
    return {flag_name(key): value for key, value in service.args.items()}


def _extra_flags(
    section: str, service: ServiceConfig, own: Mapping[str, Value], faults: list[ConfigFault]
) -> list[str]:
    """The flags of `args`, in the order of the file, without those that are in `own`."""
    flags: list[str] = []
    seen: dict[str, str] = {}
    for key, value in service.args.items():
        flag = flag_name(key)
        fault = f"given twice, also as {seen[flag]}" if flag in seen else _fault(section, service, key, value)
        seen.setdefault(flag, key)
        if fault:
            faults.append(ConfigFault(f"{section}.args.{key}", fault))
        elif is_part_of(flag, KV_TRANSFER_FLAG) and KV_TRANSFER_FLAG in own:
            faults.append(ConfigFault(f"{section}.args.{key}", f"set {section}.protocol to none instead"))
        elif flag in {OFFLOADING_FLAG, OFFLOADING_BACKEND_FLAG} and KV_TRANSFER_FLAG in own:
            # What our flags ask for with them, unless it can't be.
            if flag == OFFLOADING_FLAG and (fault := offloading_fault(_args(service), service.env)):
                text = f"{fault}; correct it, or set {section}.protocol to none"
                faults.append(ConfigFault(f"{section}.args.{key}", text))
        elif flag not in own:  # it names our connector
            flags += _flag(flag, value)
    return flags


def _fault(section: str, service: ServiceConfig, key: str, value: Value) -> str:
    """The fault of an entry of `args`; empty: none."""
    if not _FLAG.fullmatch(key):
        return "not an argument name; write it without leading dashes, such as `max-model-len`"
    flag = flag_name(key)
    own = {
        "host": f"{section}.host",
        "port": f"{section}.port",
        "model": f"{section}.model",
        "served-model-name": "models.default and models.aliases",
    }
    if flag in own:
        return f"set {own[flag]} instead: syshaxd passes it on"
    if flag == _MAX_NUM_SEQS and value != service.max_num_seqs:
        return f"differs from {section}.max_num_seqs ({service.max_num_seqs}): set it there, and leave it out here"
    if isinstance(value, list) and (not value or any(isinstance(item, bool) for item in value)):
        return "a list needs one or more plain values"
    return ""


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
