# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The values that travel between the parts of the daemon. All frozen: a change is a new value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from syshaxd.core.address import Address
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingStatus, NumaTopology
from syshaxd.core.parity import ParityReport


class Role(StrEnum):
    """The part that an instance plays in placement, whatever device it really runs on."""

    GPU = "gpu"
    CPU = "cpu"


class Device(StrEnum):
    """What really computes."""

    CUDA = "cuda"
    CPU = "cpu"


class RuntimeKind(StrEnum):
    """Who starts an instance, and how."""

    PROCESS = "process"
    """syshaxd, as a child process."""
    DOCKER = "docker"
    """syshaxd, as a container."""
    EXTERNAL = "external"
    """Somebody else: syshaxd only watches it and sends requests to it."""


class Protocol(StrEnum):
    """How an instance hands KV caches over."""

    NONE = "none"
    CONNECTOR = "connector"
    """Through syshax_connector, a plug-in of stock vLLM."""
    SYSHAX = "syshax"
    """That of the patched images syshax-vllm-gpu and syshax-vllm-cpu 0.2.x."""


class State(StrEnum):
    """Where an instance stands. The exported names never change."""

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
    """The container around an inference server: what `docker run` takes beside the server's own command line."""

    name: str
    image: str
    pull: bool = True
    """Fetch the image where it is missing."""
    ipc: str = "private"
    """`private`, `shareable`, `host`, `container:NAME`, or `donor`: a container of its own keeps the namespace."""
    shm_size_bytes: int = 64 << 20
    gpus: int | tuple[str, ...] = 0
    """How many (-1: all), or which, by index or UUID."""
    ports: tuple[tuple[str, int, int], ...] = ()
    """Address and port of the host, port in the container."""
    volumes: tuple[str, ...] = ()
    """`SOURCE:TARGET[:ro]`; the source is a folder of the host, or a volume's name."""
    working_dir: str = ""
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    init: bool = True
    """A tiny first process passes signals on and reaps what is orphaned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One inference server, fully described: two equal specs start the same thing."""

    name: str
    role: Role
    device: Device
    runtime: RuntimeKind
    model: str
    """Path (or name) of the weights, as the server gets it."""
    served_model: str
    """The model's name in the API."""
    host: str
    port: int
    argv: tuple[str, ...] = ()
    """The server's whole command line; empty for an external instance."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables added to the server's environment."""
    cores: tuple[int, ...] = ()
    """CPUs that the server is bound to; empty: all."""
    depends_on: str | None = None
    """The instance that must be READY first, and whose loss stops this one."""
    max_num_seqs: int = 256
    """Requests that the server runs at the same time; more wait inside it."""
    protocol: Protocol = Protocol.NONE
    """How it hands KV caches over."""
    protocol_doubt: str = field(default="", compare=False)
    """Why it was given none unasked, for a person; empty: it was given one, or told to have none."""
    container: ContainerSpec | None = None
    """Of an instance that runs in one."""
    aliases: tuple[str, ...] = ()
    """Further names of the model in the API."""

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
    """How a generation ended. `code` and `signal` are None where unknown, as for an adopted process."""

    code: int | None = None
    signal: int | None = None
    cause: str = ""
    """What is known beyond that, and what helps; empty: nothing."""

    def __str__(self) -> str:
        if self.signal is not None:
            text = f"killed by signal {self.signal}"
        else:
            text = "exited with an unknown code" if self.code is None else f"exited with code {self.code}"
        return f"{text} ({self.cause})" if self.cause else text


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    """What the supervisor knows of one instance."""

    spec: InstanceSpec
    state: State = State.STOPPED
    wanted: bool = False
    """Somebody wants it up: it is started again when it ends."""
    reason: str = ""
    """Why it is in this state, for a person; empty when there is nothing to say."""
    generation: int = 0
    """Count of launches."""
    attempts: int = 0
    """Launches that failed in a row."""
    since_s: float = 0.0
    """Unix time at which the state was entered."""
    handle: Handle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTopology:
    """The host at one moment, and whose its CPUs are."""

    topology: NumaTopology
    owners: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """CPUs to which instances are bound, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The whole daemon at one moment, for `syshaxctl status`."""

    version: str
    started_at_s: float
    """Unix time."""
    endpoint: str
    """URL of the OpenAI endpoint; empty before it listens."""
    queued: int
    """Requests in the admission queue."""
    inflight: Mapping[str, int]
    """Requests now running on each instance, by the daemon's own count."""
    instances: tuple[InstanceStatus, ...]
    snapshot: Snapshot
    binding_faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What is wrong, or could be better, with the CPUs to which instances are bound, by instance, a line each."""
    handover_refusals: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Why one instance cannot hand over to another, by source and target; empty: it can."""
    faults: tuple[str, ...] = ()
    """What is wrong with the daemon itself, a line each."""
    parity: tuple[ParityReport, ...] = ()
    """How alike the present generations of instances are, for each pair that was compared."""
    bindings: Mapping[str, BindingStatus] = field(default_factory=dict)
    """How instances keep to their bindings; those that are bound to nothing, or were not read yet, are left out."""
