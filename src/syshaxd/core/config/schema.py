# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The keys of the configuration: their types, defaults and meaning.

Keys that the seed or upstream sysHAX named keep their names, also where ours would carry a unit.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    field_validator,
    model_validator,
)

from syshaxd.core.address import checked_host, published_port
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.types import Device, Protocol, RuntimeKind

Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Host = Annotated[str, AfterValidator(checked_host)]
Seconds = Annotated[float, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Ratio = Annotated[float, Field(ge=0, le=1, strict=True)]
ArgValue = bool | int | float | str
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bkmgt])?b?", re.ASCII)
_VOLUME = re.compile(r"[^:]+:/[^:]*(?::(?:ro|rw))?")
AUTO = "auto"
"""As `cores`: planned at start."""


class Section(BaseModel):
    """A part of the file: unknown keys are faults, values never change, an empty part is as if it were left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        mappings = {name for name, field in cls.model_fields.items() if field.default_factory is not None}
        return {key: value for key, value in data.items() if value is not None or key not in mappings}


def size_bytes(text: str) -> int:
    """A size such as `64g`, as Docker reads it: b, k, m, g or t, in powers of 1,024.

    Raises:
        ValueError: It is not one.
    """
    found = _SIZE.fullmatch(text.lower())
    if found is None:
        raise ValueError("must be a size such as `64g` or `512m`")
    return int(float(found[1]) * 1024 ** "bkmgt".index(found[2] or "b"))


class ContainerConfig(Section):
    """The container around an inference server (runtime `docker`)."""

    image: str | None = Field(None, min_length=1, description="Image; fetched where it is missing.")
    pull: bool = Field(True, description="Whether a missing image is fetched from its registry.")
    name: str | None = Field(
        None, pattern=r"^[a-zA-Z0-9][\w.-]+$", description="The container's name. Unset: `vllm_gpu` or `vllm_cpu`."
    )
    command: list[str] = Field(
        ["vllm", "serve"],
        min_length=1,
        description="Program in the image, to which syshaxd adds the model and its arguments. It must not fork away.",
    )
    ipc: str | None = Field(
        None,
        pattern=r"^(shareable|private|host|donor|container:[a-zA-Z0-9][\w.-]+)$",
        description="IPC namespace: `shareable`, `private`, `host`, `container:NAME` to join another's, or `donor`: a "
        "small container of its own keeps it over restarts. Unset: the GPU's is shareable, and the CPU's joins it.",
    )
    shm_size: str = Field("64g", description="Size of /dev/shm.")
    gpus: int | Literal["all"] | list[str | StrictInt] | None = Field(
        None,
        description="GPUs: `all`, how many, or a list of indices or UUIDs. Unset: all for a CUDA device, else none.",
    )
    container_port: Port | None = Field(None, description="Port inside the container. Unset: the same as outside.")
    ports: list[str] = Field(
        [], description="Further ports, as `[ADDRESS:]HOST_PORT:CONTAINER_PORT`; without an address, of loopback only."
    )
    volumes: list[str] | None = Field(
        None,
        description="Mounts, as `SOURCE:TARGET[:ro]`. Unset: the folder of the weights, at the same path, read-only.",
    )
    working_dir: str | None = Field(None, description="Working directory.")
    privileged: bool = Field(False, description="Whether it may do all that the host may. Not needed by stock vLLM.")
    cap_add: list[str] | None = Field(
        None, description="Capabilities. Unset: SYS_NICE on a CPU, to place its memory on NUMA nodes; none on a GPU."
    )
    security_opt: list[str] = Field([], description="Security options, such as `seccomp=/etc/syshax/seccomp.json`.")
    cpuset_cpus: str | None = Field(None, description="CPUs that it may use. Unset: those of `cores`, or all.")
    cpuset_mems: str | None = Field(None, description="NUMA nodes whose memory it may use. Unset: all.")
    init: bool = Field(True, description="Whether a tiny first process passes signals on and reaps orphans.")

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
    """One inference server."""

    enabled: bool = Field(True, description="Whether this instance takes part at all.")
    host: Host = Field("127.0.0.1", description="Address at which the instance listens.")
    port: Port = Field(description="Port at which the instance listens.")
    runtime: RuntimeKind = Field(
        RuntimeKind.EXTERNAL,
        description="Who starts it: `docker` (syshaxd, as a container), `process` (syshaxd, as a child process) or "
        "`external` (somebody else).",
    )
    device: Device | None = Field(
        None, description="What really computes: `cuda` or `cpu`. Unset: the device that the instance is named after."
    )
    python: str | None = Field(
        None, description="Python interpreter of the environment in which vLLM is installed (runtime `process`)."
    )
    model: str | None = Field(None, description="Weights of the model: a folder. Unset: models.path.")
    cores: str | None = Field(
        None,
        description="CPUs to bind the instance to, such as `0-39,80-119`; `auto`: the best for this host. Unset: all.",
    )
    max_num_seqs: Count = Field(256, description="Requests that the instance runs at the same time.")
    protocol: Protocol | None = Field(
        None,
        description="How the instance hands KV caches over: `connector` (syshax_connector in vLLM), `syshax` "
        "(the images syshax-vllm-gpu and syshax-vllm-cpu 0.2.x) or `none`. Unset: "
        "`connector` if syshaxd starts all instances and it surely works, else `none`.",
    )
    args: dict[str, ArgValue | list[ArgValue] | None] = Field(
        default_factory=dict,
        description="Arguments of `vllm serve` without their dashes, such as `max-model-len: 8192`; "
        "`true` gives the bare flag, `false` or null leaves it out.",
    )
    env: dict[str, str | StrictInt | StrictFloat] = Field(
        default_factory=dict, description="Environment variables of the instance, such as `VLLM_CPU_KVCACHE_SPACE: 4`."
    )
    container: ContainerConfig = Field(
        default_factory=ContainerConfig, description="The container around it (runtime `docker`)."
    )

    @field_validator("cores")
    @classmethod
    def _cores_are_a_cpulist(cls, value: str | None) -> str | None:
        if value not in (None, AUTO):
            parse_cpulist(value)
        return value


class GpuServiceConfig(ServiceConfig):
    """The instance in the role `gpu`."""

    port: Port = Field(8001, description="Port at which the instance listens.")


class CpuServiceConfig(ServiceConfig):
    """The instance in the role `cpu`."""

    port: Port = Field(8002, description="Port at which the instance listens.")


class ConductorConfig(Section):
    """The OpenAI endpoint."""

    host: Host = Field("127.0.0.1", description="Address of the OpenAI endpoint; `0.0.0.0` opens it to the network.")
    port: Port = Field(8010, description="Port of the OpenAI endpoint.")


class ServicesConfig(Section):
    """Who listens where, and how the instances are started."""

    gpu: GpuServiceConfig = Field(default_factory=GpuServiceConfig, description="The instance in the role `gpu`.")
    cpu: CpuServiceConfig = Field(default_factory=CpuServiceConfig, description="The instance in the role `cpu`.")
    conductor: ConductorConfig = Field(default_factory=ConductorConfig, description="The OpenAI endpoint.")


class ModelParams(Section):
    """The connectivity test's request."""

    test_prompt: str = Field("What is the capital of France?", description="Prompt of the connectivity test.")
    test_tokens: Count = Field(16, description="Tokens that the connectivity test asks for.")
    temperature: float = Field(
        0.0, ge=0, le=2, strict=True, description="Sampling temperature of the connectivity test."
    )


class ModelsConfig(Section):
    """The model that is served."""

    default: str = Field("default", min_length=1, description="The model's name in the API (vLLM's served-model-name).")
    aliases: list[Annotated[str, Field(min_length=1)]] = Field([], description="Further names of it in the API.")
    path: str | None = Field(None, description="Folder of its weights, for instances that syshaxd starts.")
    params: ModelParams = Field(default_factory=ModelParams, description="The connectivity test's request.")


class SystemConfig(Section):
    """Limits of the whole."""

    max_queue_size: int = Field(
        1024, ge=0, strict=True, description="Requests that may wait for a place; one more is answered with 429."
    )
    max_queue_wait_s: Seconds = Field(
        60.0, description="Seconds that a request may wait for a place before it is answered with 503."
    )
    request_timeout: Seconds = Field(
        600.0, description="Seconds that an instance may stay silent on a request before it is given up (504)."
    )


class DeciderConfig(Section):
    """When requests go to the CPU. The GPU comes first; the CPU helps when the GPU is full."""

    gpu_cache_threshold: Ratio = Field(0.9, description="KV-cache usage (0..1) from which the GPU counts as full.")
    cpu_throughput_threshold: float = Field(
        0.0,
        ge=0,
        strict=True,
        description="Tokens per second under which a working CPU instance gets no further request (0: no such rule).",
    )


class OffloadConfig(Section):
    """When the GPU makes the first token of an answer and the CPU the rest, and when running answers move."""

    enabled: bool = Field(True, description="Whether instances that can hand KV caches over to each other do so.")
    min_prompt_tokens: int = Field(
        64, ge=0, strict=True, description="Shorter prompts are computed where they are decoded."
    )
    migrate: bool = Field(
        True, description="Whether running streams go on elsewhere when their instance stops, fails or is full."
    )
    arena_dir: str | None = Field(
        None,
        description="Folder in shared memory for KV caches on their way; all instances see it, one user has it. "
        "Unset: /dev/shm/syshax, with the user's number behind it for others than root.",
    )
    arena_bytes: Count = Field(
        1024 * 1024 * 1024,
        description="Shared memory that each instance takes at start for them, for each of its tensor-parallel ranks.",
    )
    verify: bool = Field(
        False,
        description="Whether KV caches get a checksum when they are saved, which is compared when they are loaded.",
    )


class DockerConfig(Section):
    """The container engine."""

    host: str | None = Field(
        None,
        pattern=r"^(unix|tcp|http|https|ssh)://.+",
        description="Its API, such as `unix:///run/podman/podman.sock`. Unset: DOCKER_HOST, else unix:///run/docker.sock.",
    )
    timeout_s: Seconds = Field(60.0, description="Seconds that it may take to answer.")


class ParityConfig(Section):
    """How alike the answers of two instances must be for requests to move between them."""

    enabled: bool = Field(
        True,
        description="Whether instances are compared once they are ready, and requests move only between those that "
        "are alike enough.",
    )
    noise_distance: Ratio = Field(
        0.03, description="Distance (0..1) of the probabilities of tokens up to which a difference counts as noise."
    )
    max_distance: Ratio = Field(0.1, description="Distance (0..1) over which no request moves between two instances.")
    timeout_s: Seconds = Field(
        300.0, description="Seconds that an instance gets to answer the prompts of a comparison."
    )


class NumaConfig(Section):
    """On which CPUs the instances compute."""

    enforce: bool = Field(
        True, description="Whether an instance with a wrong binding to CPUs keeps syshaxd from starting."
    )
    gpu_cores: Count = Field(
        4, description="Cores, near the accelerators, for an instance on a GPU whose `cores` are `auto`."
    )
    verify_interval_s: Seconds = Field(
        30.0, description="Seconds from one look at where a running instance's threads and memory are to the next."
    )


class MonitorConfig(Section):
    """How often loads are read."""

    interval: Seconds = Field(1.0, description="Seconds between two readings of devices and instances.")


class LifecycleConfig(Section):
    """When an instance is given up, started again, or left alone."""

    start_timeout_s: Seconds = Field(900.0, description="Seconds from launch to the first good health probe.")
    probe_interval_s: Seconds = Field(2.0, description="Seconds between two health probes.")
    probe_timeout_s: Seconds = Field(5.0, description="Seconds after which a probe counts as failed.")
    probe_failures: Count = Field(3, description="Failed probes in a row after which a sick instance is ended.")
    busy_timeout_s: Seconds = Field(
        300.0, description="Seconds that an instance may be at work without answering a probe, until it is ended."
    )
    backoff_base_s: Seconds = Field(1.0, description="Pause before the first new attempt; it doubles each time.")
    backoff_cap_s: Seconds = Field(60.0, description="Longest pause between two attempts.")
    max_attempts: Count = Field(8, description="Failed launches in a row after which the instance stays FAILED.")
    stable_s: Seconds = Field(60.0, description="Seconds of good health after which failed attempts are forgotten.")
    drain_timeout_s: Seconds = Field(30.0, description="Seconds that running requests get to end before a stop.")
    leave_running: bool = Field(
        False,
        description="Whether instances run on when syshaxd stops, for the next one to take them over (an upgrade).",
    )
    stop_grace_s: Seconds = Field(15.0, description="Seconds between asking an instance to end and forcing it.")


class GatewayConfig(Section):
    """What the OpenAI endpoint takes and shows."""

    dashboard: bool = Field(True, description="Whether GET /dashboard shows states and loads, to whoever can reach it.")
    max_body_bytes: Count = Field(32 * 1024 * 1024, description="Largest request body; a larger one gets 413.")
    max_bodies_bytes: Count = Field(
        512 * 1024 * 1024,
        description="Bytes of all bodies together that are held at a time; what would be more gets 503.",
    )
    max_header_bytes: Count = Field(
        32 * 1024, description="Longest target or header field of a request; a longer one gets 431."
    )
    max_connections: Count = Field(
        10_000,
        description="Clients' connections at a time; one more gets 503. Half of the files that the process may have "
        "open are a limit, too.",
    )
    max_connections_per_address: Count | None = Field(
        None, description="The same for each address of a client; this host's own is not limited. Unset: no such limit."
    )
    head_timeout_s: Seconds = Field(20.0, description="Seconds that the head of a request may take to come.")
    body_timeout_s: Seconds = Field(
        20.0, description="Seconds that the body of a request may stand still, or fall behind the slowest rate."
    )
    min_body_bytes_per_s: Count = Field(1024, description="The slowest rate of a request's body, after that time.")
    idle_timeout_s: Seconds = Field(
        75.0, description="Seconds that a connection may stay open without a request. Longer than the clients' own."
    )
    cors_origins: list[str] = Field(
        ["*"],
        description="Origins of browser applications that may use the endpoint (CORS), such as `https://chat.example`; "
        "`*`: all, as vLLM allows.",
    )
    allow_kv_transfer_params: bool = Field(
        False,
        description="Whether clients may set what routers set to hand KV caches over; else such requests get 400.",
    )


class TcpConfig(Section):
    """The control plane over TCP, for clients that prove who they are with a certificate (mutual TLS)."""

    host: Host = Field("127.0.0.1", description="Address of the control plane's TCP port.")
    port: Port | None = Field(None, description="TCP port of the control plane. Unset: the socket only.")
    cert: str | None = Field(None, description="The daemon's certificate with its chain: a PEM file.")
    key: str | None = Field(None, description="Its private key: a PEM file.")
    client_ca: str | None = Field(None, description="Who signs clients' certificates: a PEM file.")


class ControlConfig(Section):
    """The control plane."""

    socket: str | None = Field(
        None,
        description="Path of the admin socket. Unset: /run/syshax as a service, else in the user's runtime folder.",
    )
    tcp: TcpConfig = Field(default_factory=TcpConfig, description="The control plane over TCP, with mutual TLS.")


class Config(Section):
    """The whole configuration. Every default is usable as it is."""

    services: ServicesConfig = Field(default_factory=ServicesConfig, description="Who listens where.")
    models: ModelsConfig = Field(default_factory=ModelsConfig, description="The model that is served.")
    system: SystemConfig = Field(default_factory=SystemConfig, description="Limits of the whole.")
    decider: DeciderConfig = Field(default_factory=DeciderConfig, description="When requests go to the CPU.")
    offload: OffloadConfig = Field(default_factory=OffloadConfig, description="When answers are made by two instances.")
    docker: DockerConfig = Field(default_factory=DockerConfig, description="The container engine.")
    parity: ParityConfig = Field(
        default_factory=ParityConfig, description="How alike instances must be for requests to move between them."
    )
    numa: NumaConfig = Field(default_factory=NumaConfig, description="On which CPUs the instances compute.")
    monitor: MonitorConfig = Field(default_factory=MonitorConfig, description="How often loads are read.")
    lifecycle: LifecycleConfig = Field(default_factory=LifecycleConfig, description="When instances are restarted.")
    gateway: GatewayConfig = Field(
        default_factory=GatewayConfig, description="What the OpenAI endpoint takes and shows."
    )
    control: ControlConfig = Field(default_factory=ControlConfig, description="The control plane.")


def enabled_services(config: Config) -> dict[str, ServiceConfig]:
    """The instances that take part, by name, in their start order."""
    services: dict[str, ServiceConfig] = {"gpu": config.services.gpu, "cpu": config.services.cpu}
    return {name: service for name, service in services.items() if service.enabled}


def container_name(name: str, service: ServiceConfig) -> str:
    """The name of an instance's container: the seed's, unless the configuration says otherwise."""
    return service.container.name or f"vllm_{name}"
