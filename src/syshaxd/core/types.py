# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The values that travel between the parts of the daemon. All frozen: a change is a new value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from syshaxd.core.parity import ParityReport
from syshaxd.core.topology import BindingStatus, NumaTopology


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
    container: ContainerSpec | None = None
    """Of an instance that runs in one."""

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"


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
class InstanceLoad:
    """What an instance's own /metrics said last. Rates are over the last polling interval."""

    read_at_s: float
    """Monotonic time of the reading."""
    running: int = 0
    waiting: int = 0
    kv_usage_ratio: float = 0.0
    """0..1."""
    generation_tokens_per_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    prompt_token_s: float = 0.0
    """Seconds for a token of a prompt, of requests that ended over the interval; 0: none did that could tell."""
    preemptions: int = 0
    """Since the server started."""
    preempted: int = 0
    """Over the interval."""
    error: str = ""
    """Why the last reading failed; the other fields are then those of the last good one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """One GPU, read through NVML."""

    index: int
    name: str
    uuid: str
    busy_ratio: float | None
    """0..1; None where the driver does not tell, as for a GPU in MIG mode."""
    memory_used_bytes: int
    memory_total_bytes: int
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """The host, read through psutil."""

    cpu_count: int
    cpu_busy_ratio: float
    """0..1 over all CPUs, over the last interval."""
    memory_used_bytes: int
    memory_total_bytes: int
    shm_used_bytes: int
    shm_total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The latest readings of everything. Parts may be older than the whole: each carries its own time."""

    taken_at_s: float = 0.0
    """Monotonic time; 0 before the first reading."""
    instances: Mapping[str, InstanceLoad] = field(default_factory=dict)
    gpus: tuple[GpuLoad, ...] = ()
    """Those that could be read."""
    gpu_error: str = ""
    """Why GPUs, or some of them, could not be read; empty when all is well, or when there is none."""
    host: HostLoad | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """What placement needs to know of a request."""

    request_id: str
    model: str
    """Empty: any."""
    stream: bool
    method: str = "POST"
    path: str = "/v1/chat/completions"
    """The route that an instance must serve."""
    pinned: str | None = None
    """The instance that the client insists on."""
    offload: bool = False
    """The client insists on prefill and decode in different places."""
    prompt_tokens: int = 0
    """Roughly; 0: not looked at."""
    max_tokens: int | None = None
    """Limit of the answer; None: not told."""
    whole_because: str = "no two instances can hand over"
    """Why it must stay on one instance; empty: it can go on elsewhere."""
    movable: bool = False
    """Its answer may move while it is made."""


@dataclass(frozen=True, slots=True)
class RunOn:
    """Prefill and decode on one instance."""

    instance: str
    reasons: tuple[str, ...] = ()
    turn_at: str = ""
    """The instance at which it keeps its turn: its answer goes on there as soon as it would have begun there."""

    @property
    def places(self) -> tuple[str, ...]:
        """The instances on which it takes a place; the last one makes the answer."""
        return (self.instance,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was expected of an offload, or of a CPU that does all of a request, when it was decided."""

    offload_s: float
    """Seconds to the end of the answer."""
    wait_s: float
    """The same had the request waited for the GPU."""

    @property
    def benefit_s(self) -> float:
        """Seconds that the offload was expected to gain."""
        return self.wait_s - self.offload_s


@dataclass(frozen=True, slots=True)
class Offload:
    """Prefill on one instance, decode on another: the KV cache is handed over."""

    prefill: str
    decode: str
    reasons: tuple[str, ...] = ()
    prediction: Prediction | None = None
    """None: the client asked for it, or too little is known yet."""
    turn_at: str = ""
    """As in RunOn."""

    @property
    def places(self) -> tuple[str, ...]:
        """The instances on which it takes a place; the last one makes the answer."""
        return (self.prefill, self.decode)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing has room now: stay in the admission queue and be decided again when capacity frees."""

    reasons: tuple[str, ...] = ()
    cpu_has_room: bool = False
    """A CPU could take it, but it is expected to end sooner if it waits."""


@dataclass(frozen=True, slots=True)
class Reject:
    """No instance can serve this for the time being."""

    reason: str
    retry_after_s: float


Placement = RunOn | Offload
Decision = Placement | Wait | Reject


class Outcome(StrEnum):
    """How a request ended. The exported names never change."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    """Answered with a 4xx other than 429."""
    CLIENT_GONE = "client_gone"
    CANCELLED = "cancelled"
    """By an operator."""
    REJECTED = "rejected"
    """429 or 503: no room, or no instance."""
    FAILED = "failed"
    """The instance failed it."""


_MAX_COMPUTED_TOKENS = 16


class Cause(StrEnum):
    """Why an answer went on elsewhere. The exported names never change."""

    OFFLOAD = "offload"
    """It was planned so: prefill here, decode there."""
    DRAIN = "drain"
    """The instance is to stop."""
    PRESSURE = "pressure"
    """The instance is full."""
    ROOM = "room"
    """The better instance has room again."""
    FAILURE = "failure"
    """The instance failed."""


@dataclass(slots=True, kw_only=True)
class HandoverRecord:
    """One change of instance in the middle of an answer."""

    source: str
    target: str
    cause: Cause
    known_tokens: int
    """Prompt and answer so far."""
    asked: bool = False
    """KV was saved, and was to be loaded; else all was to be recomputed."""
    cached_tokens: int | None = None
    """Tokens that the target did not compute; None: it did not tell."""
    size_bytes: int = 0
    """Of the KV cache that was handed over; 0: not told."""
    gap_s: float | None = None
    """From the last token of the source to the first of the target; None: none came."""

    @property
    def result(self) -> str:
        """`loaded`, `recomputed`, or `unknown` if the target did not tell."""
        if self.cached_tokens is None:
            return "recomputed" if not self.asked else "unknown"
        # The last token has no KV yet. A prefix cache finds whole blocks only, which may leave out some more.
        loaded = self.asked and self.known_tokens - self.cached_tokens <= _MAX_COMPUTED_TOKENS
        return "loaded" if loaded else "recomputed"

    @property
    def failed(self) -> bool:
        """A KV cache was to be loaded, and was not."""
        return self.asked and self.result == "recomputed"

    def __str__(self) -> str:
        what = f"{self.known_tokens} tokens from {self.source} to {self.target}"
        return f"{what} ({self.cause}), KV cache {self.result}"


@dataclass(slots=True)
class RequestRecord:
    """The measurements of one request. Filled while it runs, read-only once handed to MetricsService."""

    request_id: str
    route: str
    stream: bool = False
    placement: str = ""
    """Instance name; empty if it was never placed."""
    status: int = 0
    """HTTP status sent to the client; 0 if none was."""
    outcome: Outcome = Outcome.OK
    started_at_s: float = 0.0
    """Monotonic."""
    queue_s: float = 0.0
    """In the admission queue."""
    ttft_s: float | None = None
    """From the request's arrival to the first byte of the answer's body."""
    duration_s: float = 0.0
    tokens_in: int = 0
    """0 where the instance did not tell."""
    tokens_out: int = 0
    retries: int = 0
    handovers: list[HandoverRecord] = field(default_factory=list)
    prediction: Prediction | None = None
    """Of an offload."""


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
    parity: tuple[ParityReport, ...] = ()
    """How alike the present generations of instances are, for each pair that was compared."""
    bindings: Mapping[str, BindingStatus] = field(default_factory=dict)
    """How instances keep to their bindings; those that are bound to nothing, or were not read yet, are left out."""
