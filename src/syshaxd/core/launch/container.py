# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Container specs from the configuration, and the equivalent `docker run` command."""

import re
from dataclasses import replace

from syshaxd.core.address import Address, published_port
from syshaxd.core.config import ContainerConfig, ServiceConfig, container_name, device_of
from syshaxd.core.config.services import size_bytes
from syshaxd.core.handover.connector import PACKAGE
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.types import ContainerSpec, Device, HandoverProtocol, InstanceSpec

DONOR = "donor"
"""As `ipc`: a separate container keeps the namespace, and with it /dev/shm, across restarts of all others."""
DONOR_NAME = "syshax_ipc"
"""The name of that container."""
JOIN = "container:"
ALL_GPUS = -1
_CONNECTOR_PATH = "/opt/syshax-connector"
_BIND_ALL = "0.0.0.0"  # noqa: S104 - inside the container, whose ports are published one by one
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def inner_host(service: ServiceConfig) -> str:
    """Where a server in a container listens; its loopback could not be published."""
    return "::" if ":" in service.host else _BIND_ALL


def container_spec(name: str, service: ServiceConfig, *, model: str, ipc: str) -> ContainerSpec:
    """The container of an instance.

    Args:
        name: The instance's name.
        service: Its configuration.
        model: Its weights.
        ipc: Its IPC namespace, unless configured.
    """
    container: ContainerConfig = service.container
    on_gpu = device_of(service) is Device.CUDA
    gpus = container.gpus if container.gpus is not None else ("all" if on_gpu else 0)
    caps = container.cap_add if container.cap_add is not None else ([] if on_gpu else ["SYS_NICE"])
    volumes = (
        container.volumes
        if container.volumes is not None
        else ([f"{model}:{model}:ro"] if model.startswith("/") else [])
    )
    inner = container.container_port or service.port
    return ContainerSpec(
        name=container_name(name, service),
        image=container.image or "",
        pull=container.pull,
        ipc=container.ipc or ipc,
        shm_size_bytes=size_bytes(container.shm_size),
        gpus=ALL_GPUS if gpus == "all" else gpus if isinstance(gpus, int) else tuple(map(str, gpus)),
        ports=((service.host, service.port, inner), *map(published_port, container.ports)),
        volumes=tuple(volumes),
        working_dir=container.working_dir or "",
        privileged=container.privileged,
        cap_add=tuple(caps),
        security_opt=tuple(container.security_opt),
        cpuset_cpus=container.cpuset_cpus or "",
        cpuset_mems=container.cpuset_mems or "",
        init=container.init,
    )


def joined_container(container: ContainerSpec) -> str:
    """Name of the container whose IPC namespace it joins; empty: none."""
    if container.ipc == DONOR:
        return DONOR_NAME
    return container.ipc.removeprefix(JOIN) if container.ipc.startswith(JOIN) else ""


def cpuset_cpus(spec: InstanceSpec) -> str:
    """CPUs that the container may use, as a list such as `0-3,8`; empty: all."""
    assert spec.container is not None
    return spec.container.cpuset_cpus or format_cpulist(spec.cores)


def with_connector(spec: InstanceSpec, package: str) -> InstanceSpec:
    """The instance with `syshax_connector` mounted where its Python finds it, if it needs the connector."""
    container = spec.container
    if container is None or spec.protocol is not HandoverProtocol.CONNECTOR:
        return spec
    env = dict(spec.env)
    env["PYTHONPATH"] = ":".join(filter(None, (_CONNECTOR_PATH, env.get("PYTHONPATH"))))
    volume = f"{package}:{_CONNECTOR_PATH}/{PACKAGE}:ro"
    return replace(spec, env=tuple(env.items()), container=replace(container, volumes=(*container.volumes, volume)))


def docker_run(spec: InstanceSpec) -> list[str]:
    """The command line that starts the same container manually.

    Args:
        spec: An instance that runs in a container.
    """
    container = spec.container
    assert container is not None
    line = ["docker", "run", "--detach", "--name", container.name]
    line += ["--init"] if container.init else []
    line += [
        "--ipc",
        f"{JOIN}{joined}" if (joined := joined_container(container)) else container.ipc,
        "--shm-size",
        _size_text(container.shm_size_bytes),
    ]
    if isinstance(container.gpus, tuple):
        line += ["--gpus", f'"device={",".join(container.gpus)}"']
    elif container.gpus:
        line += ["--gpus", "all" if container.gpus == ALL_GPUS else str(container.gpus)]
    for address, outer, inner in container.ports:
        line += ["--publish", f"{Address(address, outer)}:{inner}"]
    for volume in container.volumes:
        line += ["--volume", volume]
    line += ["--workdir", container.working_dir] if container.working_dir else []
    line += ["--privileged"] if container.privileged else []
    for cap in container.cap_add:
        line += ["--cap-add", cap]
    for option in container.security_opt:
        line += ["--security-opt", option]
    line += ["--cpuset-cpus", cpus] if (cpus := cpuset_cpus(spec)) else []
    line += ["--cpuset-mems", container.cpuset_mems] if container.cpuset_mems else []
    for key, value in spec.env:
        line += ["--env", f"{key}={value}"]
    return [*line, "--entrypoint", spec.argv[0], container.image, *spec.argv[1:]]


def _size_text(size: int) -> str:
    for unit, shift in (("g", 30), ("m", 20), ("k", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return f"{size}b"


def shell_text(words: list[str]) -> str:
    """A command line for pasting into a shell, one option per line."""
    quoted = [word if _SAFE.fullmatch(word) else "'" + word.replace("'", "'\\''") + "'" for word in words]
    lines, entries = [], iter(quoted)
    current = [next(entries), next(entries)]
    for word in entries:
        if word.startswith("--"):
            lines.append(" ".join(current))
            current = []
        current.append(word)
    return " \\\n    ".join([*lines, " ".join(current)])
