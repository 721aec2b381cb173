# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Values shared between the parts of the daemon. All are frozen: a change is a new value."""

from dataclasses import dataclass, field
from enum import StrEnum

from syshaxd.core.address import Address


class Role(StrEnum):
    """An instance's role in placement, independent of its device."""

    GPU = "gpu"
    CPU = "cpu"


class Device(StrEnum):
    """The device that computes."""

    CUDA = "cuda"
    CPU = "cpu"


class RuntimeKind(StrEnum):
    """How an instance is started."""

    PROCESS = "process"
    """By syshaxd, as a child process."""
    DOCKER = "docker"
    """By syshaxd, as a container."""
    EXTERNAL = "external"
    """Not by syshaxd, which only watches it and sends requests to it."""


class HandoverProtocol(StrEnum):
    """How an instance hands KV caches over."""

    NONE = "none"
    CONNECTOR = "connector"
    """Through syshax_connector, a plug-in of stock vLLM."""
    SYSHAX = "syshax"
    """As the patched images syshax-vllm-gpu and syshax-vllm-cpu 0.2.x do."""


class State(StrEnum):
    """The state of an instance. The exported names never change."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    STOPPING = "STOPPING"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """The container of an inference server: the `docker run` options besides the server's command line."""

    name: str
    image: str
    pull: bool = True
    """Pull the image if it is missing."""
    ipc: str = "private"
    """`private`, `shareable`, `host`, `container:NAME`, or `donor`: a separate container keeps the namespace."""
    shm_size_bytes: int = 64 << 20
    gpus: int | tuple[str, ...] = 0
    """A count (-1: all), or indices or UUIDs."""
    ports: tuple[tuple[str, int, int], ...] = ()
    """Host address and port, container port."""
    volumes: tuple[str, ...] = ()
    """`SOURCE:TARGET[:ro]`; the source is a host folder or a volume name."""
    working_dir: str = ""
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    init: bool = True
    """A minimal init process forwards signals and reaps orphans."""


FULL_WEIGHTS = "full"
"""The model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedWeights:
    """What an instance computes with instead of the model's full weights."""

    quantize: str
    """How many bits they have: `q8_0` or `q4_0`."""
    source: str = ""
    """The model's folder, from which syshaxd makes them before it launches the instance; empty: it does not."""
    python: str = ""
    """The interpreter that makes them; empty: one in a container of the instance's image."""
    loaded_bytes: int = 0
    """Their size in memory; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """The complete description of one inference server: equal specs start equal servers."""

    name: str
    role: Role
    device: Device
    runtime: RuntimeKind
    model: str
    """Path (or name) of the weights, as passed to the server."""
    served_model: str
    """The model's name in the API."""
    host: str
    port: int
    argv: tuple[str, ...] = ()
    """The server's command line; empty for an external instance."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables added to the server's environment."""
    cores: tuple[int, ...] = ()
    """CPUs that the server is bound to; empty: all."""
    gpus: tuple[str, ...] = ()
    """GPUs that the server is confined to, by index or UUID; empty: all, or it computes on CPUs."""
    depends_on: str | None = None
    """The instance that must be READY first, and whose end stops this one."""
    max_num_seqs: int = 256
    """Requests that the server runs concurrently (its slots); more wait inside it."""
    protocol: HandoverProtocol = HandoverProtocol.NONE
    """How it hands KV caches over."""
    protocol_doubt: str = field(default="", compare=False)
    """Why hand-over is not enabled by default, as a message; empty: enabled, or disabled explicitly."""
    container: ContainerSpec | None = None
    """Of an instance that runs in a container."""
    aliases: tuple[str, ...] = ()
    """Further names of the model in the API."""
    weights: QuantisedWeights | None = None
    """None: the model's own."""
    weights_reason: str = field(default="", compare=False)
    """Why they were chosen, for a person; empty: the configuration says so."""
    service: str = ""
    """The service that it is a replica of; empty: the one with its name."""

    @property
    def key(self) -> str:
        """The section of the configuration that describes it."""
        return f"services.{self.service or self.name}"

    @property
    def weights_text(self) -> str:
        """What it computes with: `full`, `q8_0` or `q4_0`."""
        return FULL_WEIGHTS if self.weights is None else self.weights.quantize

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Handle:
    """One launched generation of an instance, as its runtime knows it."""

    name: str
    generation: int
    ident: str
    """Process id or container id."""
    started_at_s: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a generation exited. `code` and `signal` are None if unknown, as for an adopted process."""

    code: int | None = None
    signal: int | None = None
    cause: str = ""
    """Cause and remedy, if known; else empty."""

    def __str__(self) -> str:
        if self.signal is not None:
            text = f"killed by signal {self.signal}"
        else:
            text = "exited with an unknown code" if self.code is None else f"exited with code {self.code}"
        return f"{text} ({self.cause})" if self.cause else text


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    """The supervisor's view of one instance."""

    spec: InstanceSpec
    state: State = State.STOPPED
    wanted: bool = False
    """It should run: the supervisor restarts it when it exits."""
    reason: str = ""
    """Why it is in this state, as a message; may be empty."""
    generation: int = 0
    """Count of launches."""
    attempts: int = 0
    """Launches that failed in a row."""
    since_s: float = 0.0
    """Unix time at which the state was entered."""
    handle: Handle | None = None
