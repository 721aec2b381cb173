# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The arguments of the SDK's `containers.create` for an instance, and for a program that runs once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount

from syshaxd.core.launch.container import ALL_GPUS, cpuset_cpus
from syshaxd.core.types import ContainerSpec, InstanceSpec

_LOG_CONFIG = LogConfig(type=LogConfig.types.JSON, config={"max-size": "16m", "max-file": "2"})
_GPU_CAPABILITIES = [["gpu"]]


def create_options(spec: InstanceSpec, container: ContainerSpec, ipc: str) -> dict[str, Any]:
    """All of them but the labels; `ipc` is the mode to ask for."""
    ports: dict[str, list[tuple[str, int]]] = {}
    for address, outer, inner in container.ports:
        ports.setdefault(f"{inner}/tcp", []).append((address, outer))
    options: dict[str, Any] = {
        "image": container.image,
        "name": container.name,
        "entrypoint": [spec.argv[0]],
        "command": list(spec.argv[1:]),
        "environment": dict(spec.env),
        "ipc_mode": ipc,
        "shm_size": container.shm_size_bytes,
        "ports": ports,
        "mounts": [_mount(text) for text in container.volumes],
        "working_dir": container.working_dir or None,
        "privileged": container.privileged,
        "cap_add": list(container.cap_add),
        "security_opt": list(container.security_opt),
        "cpuset_cpus": cpuset_cpus(spec) or None,
        "cpuset_mems": container.cpuset_mems or None,
        "init": container.init,
        "log_config": _LOG_CONFIG,
    }
    if container.gpus:
        options["device_requests"] = [
            DeviceRequest(device_ids=list(container.gpus), capabilities=_GPU_CAPABILITIES)
            if isinstance(container.gpus, tuple)
            else DeviceRequest(
                count=ALL_GPUS if container.gpus == ALL_GPUS else container.gpus, capabilities=_GPU_CAPABILITIES
            )
        ]
    return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What runs once in a container of an instance's image."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    volumes: tuple[str, ...]
    """`SOURCE:TARGET[:ro]`."""


def program_options(spec: InstanceSpec, container: ContainerSpec, program: Program) -> dict[str, Any]:
    """All of them but name, labels and `own_identity`. The program has no network; its standard input is open."""
    return {
        "image": container.image,
        "entrypoint": [program.argv[0]],
        "command": list(program.argv[1:]),
        "environment": dict(program.env),
        "mounts": [_mount(text) for text in program.volumes],
        "security_opt": list(container.security_opt),  # such as SELinux's label, or it could not use the mounts
        "network_mode": "none",
        "stdin_open": True,
        "cpuset_cpus": cpuset_cpus(spec) or None,
        "cpuset_mems": container.cpuset_mems or None,
        "init": container.init,
        "log_config": _LOG_CONFIG,
    }


def own_identity(engine: Mapping[str, Any], uid: int, gid: int) -> dict[str, Any]:
    """The options that let a program read and write files as this process does.

    Args:
        engine: What the container engine says of itself.
        uid: This process's user.
        gid: Its group.
    """
    says = {part for option in engine.get("SecurityOptions") or () for part in option.split(",")}
    if "name=rootless" in says or engine.get("Rootless"):  # Docker; podman
        return {"user": "0:0"}  # which is the engine's own user outside; the image may name another one
    identity = {"user": f"{uid}:{gid}"}
    return identity | {"userns_mode": "host"} if "name=userns" in says else identity


def _mount(text: str) -> Mount:
    """A bind mount fails where the folder is missing; `--volume` would make an empty one, and vLLM fail for it."""
    source, target, *mode = text.split(":")
    return Mount(target, source, type="bind" if source.startswith("/") else "volume", read_only=mode == ["ro"])
