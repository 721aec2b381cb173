# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The keys of `services`: how instances are started and where they listen, and where the endpoint does."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    field_validator,
    model_validator,
)

from syshaxd.core.address import published_port
from syshaxd.core.config.section import Count, Host, Port, Section
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.types import Device, HandoverProtocol, Role, RuntimeKind
from syshaxd.core.weights import Quantize

ArgValue = bool | int | float | str
GpuCount = Annotated[int, Field(strict=True, ge=1, le=64)]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bkmgt])?b?", re.ASCII)
_VOLUME = re.compile(r"[^:]+:/[^:]*(?::(?:ro|rw))?")
_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+", re.ASCII)
AUTO = "auto"
"""As `cores` and `gpus`: plan them at start."""


def size_bytes(text: str) -> int:
    """A size such as `64g`, as Docker reads it: b, k, m, g or t, in powers of 1,024.

    Raises:
        ValueError: It is not a size.
    """
    found = _SIZE.fullmatch(text.lower())
    if found is None:
        raise ValueError("must be a size such as `64g` or `512m`")
    return int(float(found[1]) * 1024 ** "bkmgt".index(found[2] or "b"))


class ContainerConfig(Section):
    """The container around an inference server (runtime `docker`)."""

    image: str | None = Field(None, min_length=1, description="Image; pulled if it is missing.")
    pull: bool = Field(True, description="Pull a missing image from its registry.")
    name: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9][\w.-]+$",
        description="Name of the container; replicas add `-0`, `-1`, ... Unset: `vllm_` and the instance's name.",
    )
    command: list[str] = Field(
        ["vllm", "serve"],
        min_length=1,
        description="Program in the image; syshaxd appends the model and its arguments. It must not daemonize.",
    )
    ipc: str | None = Field(
        None,
        pattern=r"^(shareable|private|host|donor|container:[a-zA-Z0-9][\w.-]+)$",
        description="IPC namespace: `shareable`, `private`, `host`, `container:NAME` to join another container's, or "
        "`donor`: a separate small container keeps it across restarts. "
        "Unset: the GPU's is shareable and the CPU's joins it; `donor` if a model has several GPU containers.",
    )
    shm_size: str = Field("64g", description="Size of /dev/shm.")
    gpus: int | Literal["all"] | list[str | StrictInt] | None = Field(
        None,
        description="GPUs: `all`, a count, or a list of indices or UUIDs. Unset: all for a CUDA device, else none.",
    )
    container_port: Port | None = Field(None, description="Port inside the container. Unset: same as outside.")
    ports: list[str] = Field(
        [],
        description="Additional ports, as `[ADDRESS:]HOST_PORT:CONTAINER_PORT`; without an address, on loopback only.",
    )
    volumes: list[str] | None = Field(
        None,
        description="Mounts, as `SOURCE:TARGET[:ro]`. Unset: the weights' folder at the same path, read-only.",
    )
    working_dir: str | None = Field(None, description="Working directory.")
    privileged: bool = Field(
        False, description="Run it with all privileges of the host. Stock vLLM does not need this."
    )
    cap_add: list[str] | None = Field(
        None,
        description="Capabilities to add. Unset: SYS_NICE on a CPU, for memory on chosen NUMA nodes; none on a GPU.",
    )
    security_opt: list[str] = Field([], description="Security options, such as `seccomp=/etc/syshax/seccomp.json`.")
    cpuset_cpus: str | None = Field(
        None, description="CPUs that the container may use. Unset: those of `cores`, or all."
    )
    cpuset_mems: str | None = Field(
        None, description="NUMA nodes from which the container may allocate memory. Unset: all."
    )
    init: bool = Field(True, description="Run a minimal init process that forwards signals and reaps orphans.")

    @field_validator("shm_size")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        size_bytes(value)
        return value

    @field_validator("ports")
    @classmethod
    def _are_ports(cls, value: list[str]) -> list[str]:
        for text in value:
            published_port(text)
        return value

    @field_validator("volumes")
    @classmethod
    def _are_mounts(cls, value: list[str] | None) -> list[str] | None:
        for text in value or ():
            if not _VOLUME.fullmatch(text):
                raise ValueError(f"`{text}` is not SOURCE:TARGET[:ro] with an absolute TARGET")
        return value

    @field_validator("cpuset_cpus", "cpuset_mems")
    @classmethod
    def _is_a_cpulist(cls, value: str | None) -> str | None:
        if value is not None:
            parse_cpulist(value)
        return value


class ServiceConfig(Section):
    """One inference server, or several equal ones."""

    enabled: bool = Field(True, description="Use this instance.")
    role: Role = Field(description="The instance's role in placement.")
    replicas: int | None = Field(
        None,
        ge=1,
        le=64,
        strict=True,
        description="Number of equal instances, called `NAME-0`, `NAME-1`, ..., whose ports count up from `port`. "
        "Unset: one, called `NAME`.",
    )
    host: Host = Field("127.0.0.1", description="Address at which the instance listens.")
    port: Port = Field(description="Port at which the instance listens; with `replicas`, the first one.")
    runtime: RuntimeKind = Field(
        RuntimeKind.EXTERNAL,
        description="How the instance is started: `docker` (by syshaxd, as a container), `process` (by syshaxd, as a "
        "child process) or `external` (not by syshaxd).",
    )
    device: Device | None = Field(
        None, description="The device that computes: `cuda` or `cpu`. Unset: the one that the role is named after."
    )
    python: str | None = Field(None, description="Python interpreter of the environment with vLLM (runtime `process`).")
    model: str | None = Field(
        None,
        min_length=1,
        description="Key of the model under `models`, or the folder of other weights of the default model. "
        "Unset: the default model.",
    )
    quantize: Quantize = Field(
        Quantize.NONE,
        description="Weights of 8 bits (`q8_0`) or 4 bits (`q4_0`) instead of the model's own, on CPUs; syshaxd makes "
        "them once, from the model. `auto`: the fastest on this host, which syshaxd measures once.",
    )
    cores: str | None = Field(
        None,
        description="CPUs to bind the instance to, such as `0-39,80-119`; `auto`: the best for this host. Unset: all.",
    )
    gpus: Literal["auto"] | GpuCount | list[str | StrictInt] | None = Field(
        None,
        description="GPUs that the instance may use: `auto`, as many as its arguments ask for, near each other; "
        "their number, as a check; or a list of indices or UUIDs, which replicas share out evenly. "
        "Unset: all, unless `container.gpus` or `env.CUDA_VISIBLE_DEVICES` says otherwise.",
    )
    max_num_seqs: Count = Field(256, description="Requests that the instance runs concurrently (its slots).")
    protocol: HandoverProtocol | None = Field(
        None,
        description="How the instance hands KV caches over: `connector` (syshax_connector in vLLM), `syshax` "
        "(the images syshax-vllm-gpu and syshax-vllm-cpu 0.2.x) or `none`. Unset: "
        "`connector` if syshaxd starts all instances and it is certain to work, else `none`.",
    )
    args: dict[str, ArgValue | list[ArgValue] | None] = Field(
        default_factory=dict,
        description="Arguments of `vllm serve` without their dashes, such as `max-model-len: 8192`; "
        "`true` gives the bare flag, `false` or null leaves it out.",
    )
    env: dict[str, str | StrictInt | StrictFloat] = Field(
        default_factory=dict, description="Environment variables of the instance, such as `VLLM_CPU_KVCACHE_SPACE: 4`."
    )
    container: ContainerConfig = Field(default_factory=ContainerConfig, description="The container (runtime `docker`).")

    @field_validator("gpus")
    @classmethod
    def _are_gpus(cls, value: str | int | list[str | int] | None) -> str | int | list[str | int] | None:
        if isinstance(value, list) and not (value and all(_GPU.fullmatch(str(gpu)) for gpu in value)):
            raise ValueError("must be a list of indices or UUIDs, such as `[0, 1]`")
        return value

    @field_validator("cores")
    @classmethod
    def _cores_are_a_cpulist(cls, value: str | None) -> str | None:
        if value not in (None, AUTO):
            parse_cpulist(value)
        return value


class GpuServiceConfig(ServiceConfig):
    """The instance in the role `gpu`."""

    role: Literal[Role.GPU] = Field(Role.GPU, description="The instance's role in placement.")
    port: Port = Field(8001, description="Port at which the instance listens; with `replicas`, the first one.")


class CpuServiceConfig(ServiceConfig):
    """The instance in the role `cpu`."""

    role: Literal[Role.CPU] = Field(Role.CPU, description="The instance's role in placement.")
    port: Port = Field(8002, description="Port at which the instance listens; with `replicas`, the first one.")


class NamedServiceConfig(ServiceConfig):
    """An instance with a name of the user's choice."""


class ConductorConfig(Section):
    """The OpenAI endpoint."""

    host: Host = Field(
        "127.0.0.1",
        description="Address of the OpenAI endpoint; `0.0.0.0`: the network, which needs API keys.",
    )
    port: Port = Field(8010, description="Port of the OpenAI endpoint.")


class ServicesConfig(Section):
    """Addresses, and how the instances are started.

    With a service of another name, `gpu` and `cpu` are enabled only if they are there, too.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, NamedServiceConfig] = Field(init=False)

    gpu: GpuServiceConfig = Field(default_factory=GpuServiceConfig, description="The instance in the role `gpu`.")
    cpu: CpuServiceConfig = Field(default_factory=CpuServiceConfig, description="The instance in the role `cpu`.")
    conductor: ConductorConfig = Field(default_factory=ConductorConfig, description="The OpenAI endpoint.")

    @model_validator(mode="before")
    @classmethod
    def _disable_what_is_not_there(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        services = {name: value for name, value in data.items() if value is not None}
        if services.keys() <= cls.model_fields.keys():
            return services
        return {name: {"enabled": False} for name in ("gpu", "cpu")} | services
