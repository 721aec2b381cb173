from syshaxd.api.v1 import calibration_pb2 as _calibration_pb2
from syshaxd.api.v1 import batches_pb2 as _batches_pb2
from syshaxd.api.v1 import config_pb2 as _config_pb2
from syshaxd.api.v1 import keys_pb2 as _keys_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_GPU: _ClassVar[Role]
    ROLE_CPU: _ClassVar[Role]

class Device(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_UNSPECIFIED: _ClassVar[Device]
    DEVICE_CUDA: _ClassVar[Device]
    DEVICE_CPU: _ClassVar[Device]

class RuntimeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUNTIME_KIND_UNSPECIFIED: _ClassVar[RuntimeKind]
    RUNTIME_KIND_PROCESS: _ClassVar[RuntimeKind]
    RUNTIME_KIND_EXTERNAL: _ClassVar[RuntimeKind]
    RUNTIME_KIND_DOCKER: _ClassVar[RuntimeKind]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_STOPPED: _ClassVar[State]
    STATE_STARTING: _ClassVar[State]
    STATE_READY: _ClassVar[State]
    STATE_UNHEALTHY: _ClassVar[State]
    STATE_DRAINING: _ClassVar[State]
    STATE_STOPPING: _ClassVar[State]
    STATE_BACKOFF: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]

class Agreement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGREEMENT_UNSPECIFIED: _ClassVar[Agreement]
    AGREEMENT_AGREES: _ClassVar[Agreement]
    AGREEMENT_NOISE: _ClassVar[Agreement]
    AGREEMENT_DIFFERS: _ClassVar[Agreement]
    AGREEMENT_UNKNOWN: _ClassVar[Agreement]
    AGREEMENT_QUANTISED: _ClassVar[Agreement]

class ParityCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARITY_CAUSE_UNSPECIFIED: _ClassVar[ParityCause]
    PARITY_CAUSE_NONE: _ClassVar[ParityCause]
    PARITY_CAUSE_ROUNDING: _ClassVar[ParityCause]
    PARITY_CAUSE_PRECISION: _ClassVar[ParityCause]
    PARITY_CAUSE_WEIGHTS: _ClassVar[ParityCause]
    PARITY_CAUSE_TOKENIZER: _ClassVar[ParityCause]
    PARITY_CAUSE_KERNEL: _ClassVar[ParityCause]
ROLE_UNSPECIFIED: Role
ROLE_GPU: Role
ROLE_CPU: Role
DEVICE_UNSPECIFIED: Device
DEVICE_CUDA: Device
DEVICE_CPU: Device
RUNTIME_KIND_UNSPECIFIED: RuntimeKind
RUNTIME_KIND_PROCESS: RuntimeKind
RUNTIME_KIND_EXTERNAL: RuntimeKind
RUNTIME_KIND_DOCKER: RuntimeKind
STATE_UNSPECIFIED: State
STATE_STOPPED: State
STATE_STARTING: State
STATE_READY: State
STATE_UNHEALTHY: State
STATE_DRAINING: State
STATE_STOPPING: State
STATE_BACKOFF: State
STATE_FAILED: State
AGREEMENT_UNSPECIFIED: Agreement
AGREEMENT_AGREES: Agreement
AGREEMENT_NOISE: Agreement
AGREEMENT_DIFFERS: Agreement
AGREEMENT_UNKNOWN: Agreement
AGREEMENT_QUANTISED: Agreement
PARITY_CAUSE_UNSPECIFIED: ParityCause
PARITY_CAUSE_NONE: ParityCause
PARITY_CAUSE_ROUNDING: ParityCause
PARITY_CAUSE_PRECISION: ParityCause
PARITY_CAUSE_WEIGHTS: ParityCause
PARITY_CAUSE_TOKENIZER: ParityCause
PARITY_CAUSE_KERNEL: ParityCause

class GetVersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetVersionResponse(_message.Message):
    __slots__ = ("version", "pid")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("version", "started_at_s", "endpoint", "faults", "open_circuits", "queued", "inflight", "instances", "snapshot", "binding_faults", "bindings", "handover_pairs", "parity", "offload", "on_demand", "calibration", "carried")
    class OpenCircuitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class InflightEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class BindingFaultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: BindingFaults
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BindingFaults, _Mapping]] = ...) -> None: ...
    class BindingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: BindingStatus
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BindingStatus, _Mapping]] = ...) -> None: ...
    class OnDemandEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: OnDemandStatus
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[OnDemandStatus, _Mapping]] = ...) -> None: ...
    class CarriedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: CarriedModel
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[CarriedModel, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_CIRCUITS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BINDING_FAULTS_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_PAIRS_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    OFFLOAD_FIELD_NUMBER: _ClassVar[int]
    ON_DEMAND_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FIELD_NUMBER: _ClassVar[int]
    version: str
    started_at_s: float
    endpoint: str
    faults: _containers.RepeatedScalarFieldContainer[str]
    open_circuits: _containers.ScalarMap[str, str]
    queued: int
    inflight: _containers.ScalarMap[str, int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceStatus]
    snapshot: Snapshot
    binding_faults: _containers.MessageMap[str, BindingFaults]
    bindings: _containers.MessageMap[str, BindingStatus]
    handover_pairs: _containers.RepeatedCompositeFieldContainer[HandoverPair]
    parity: _containers.RepeatedCompositeFieldContainer[ParityReport]
    offload: OffloadTrial
    on_demand: _containers.MessageMap[str, OnDemandStatus]
    calibration: CalibrationStatus
    carried: _containers.MessageMap[str, CarriedModel]
    def __init__(self, version: _Optional[str] = ..., started_at_s: _Optional[float] = ..., endpoint: _Optional[str] = ..., faults: _Optional[_Iterable[str]] = ..., open_circuits: _Optional[_Mapping[str, str]] = ..., queued: _Optional[int] = ..., inflight: _Optional[_Mapping[str, int]] = ..., instances: _Optional[_Iterable[_Union[InstanceStatus, _Mapping]]] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., binding_faults: _Optional[_Mapping[str, BindingFaults]] = ..., bindings: _Optional[_Mapping[str, BindingStatus]] = ..., handover_pairs: _Optional[_Iterable[_Union[HandoverPair, _Mapping]]] = ..., parity: _Optional[_Iterable[_Union[ParityReport, _Mapping]]] = ..., offload: _Optional[_Union[OffloadTrial, _Mapping]] = ..., on_demand: _Optional[_Mapping[str, OnDemandStatus]] = ..., calibration: _Optional[_Union[CalibrationStatus, _Mapping]] = ..., carried: _Optional[_Mapping[str, CarriedModel]] = ...) -> None: ...

class CarriedModel(_message.Message):
    __slots__ = ("by", "instead_of")
    BY_FIELD_NUMBER: _ClassVar[int]
    INSTEAD_OF_FIELD_NUMBER: _ClassVar[int]
    by: _containers.RepeatedScalarFieldContainer[str]
    instead_of: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, by: _Optional[_Iterable[str]] = ..., instead_of: _Optional[_Iterable[str]] = ...) -> None: ...

class CalibrationStatus(_message.Message):
    __slots__ = ("done", "runs", "stale", "text")
    DONE_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    done: int
    runs: int
    stale: _containers.RepeatedScalarFieldContainer[str]
    text: str
    def __init__(self, done: _Optional[int] = ..., runs: _Optional[int] = ..., stale: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ...) -> None: ...

class OnDemandStatus(_message.Message):
    __slots__ = ("text", "queued", "starts", "failures", "stops")
    class StopsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    STOPS_FIELD_NUMBER: _ClassVar[int]
    text: str
    queued: int
    starts: int
    failures: int
    stops: _containers.ScalarMap[str, int]
    def __init__(self, text: _Optional[str] = ..., queued: _Optional[int] = ..., starts: _Optional[int] = ..., failures: _Optional[int] = ..., stops: _Optional[_Mapping[str, int]] = ...) -> None: ...

class OffloadTrial(_message.Message):
    __slots__ = ("on", "off_until_s", "text", "holdout", "held_out", "helped", "predicted_s", "measured_s", "low_s", "high_s", "all_held_out", "times_off", "interference")
    ON_FIELD_NUMBER: _ClassVar[int]
    OFF_UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    HELPED_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_S_FIELD_NUMBER: _ClassVar[int]
    MEASURED_S_FIELD_NUMBER: _ClassVar[int]
    LOW_S_FIELD_NUMBER: _ClassVar[int]
    HIGH_S_FIELD_NUMBER: _ClassVar[int]
    ALL_HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    TIMES_OFF_FIELD_NUMBER: _ClassVar[int]
    INTERFERENCE_FIELD_NUMBER: _ClassVar[int]
    on: bool
    off_until_s: float
    text: str
    holdout: float
    held_out: int
    helped: int
    predicted_s: float
    measured_s: float
    low_s: float
    high_s: float
    all_held_out: int
    times_off: int
    interference: _containers.RepeatedCompositeFieldContainer[Interference]
    def __init__(self, on: bool = ..., off_until_s: _Optional[float] = ..., text: _Optional[str] = ..., holdout: _Optional[float] = ..., held_out: _Optional[int] = ..., helped: _Optional[int] = ..., predicted_s: _Optional[float] = ..., measured_s: _Optional[float] = ..., low_s: _Optional[float] = ..., high_s: _Optional[float] = ..., all_held_out: _Optional[int] = ..., times_off: _Optional[int] = ..., interference: _Optional[_Iterable[_Union[Interference, _Mapping]]] = ...) -> None: ...

class Interference(_message.Message):
    __slots__ = ("gpu", "cpu", "ratio", "is_learnt", "seen", "low", "high", "comparisons")
    GPU_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    IS_LEARNT_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    gpu: str
    cpu: str
    ratio: float
    is_learnt: bool
    seen: float
    low: float
    high: float
    comparisons: int
    def __init__(self, gpu: _Optional[str] = ..., cpu: _Optional[str] = ..., ratio: _Optional[float] = ..., is_learnt: bool = ..., seen: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., comparisons: _Optional[int] = ...) -> None: ...

class HandoverPair(_message.Message):
    __slots__ = ("source", "target", "refusal")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    refusal: str
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., refusal: _Optional[str] = ...) -> None: ...

class BindingFaults(_message.Message):
    __slots__ = ("faults",)
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, faults: _Optional[_Iterable[str]] = ...) -> None: ...

class StartInstanceRequest(_message.Message):
    __slots__ = ("name", "wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    wait: bool
    def __init__(self, name: _Optional[str] = ..., wait: bool = ...) -> None: ...

class StartInstanceResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: InstanceStatus
    def __init__(self, status: _Optional[_Union[InstanceStatus, _Mapping]] = ...) -> None: ...

class StopInstanceRequest(_message.Message):
    __slots__ = ("name", "drain", "wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    drain: bool
    wait: bool
    def __init__(self, name: _Optional[str] = ..., drain: bool = ..., wait: bool = ...) -> None: ...

class StopInstanceResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: InstanceStatus
    def __init__(self, status: _Optional[_Union[InstanceStatus, _Mapping]] = ...) -> None: ...

class RestartInstanceRequest(_message.Message):
    __slots__ = ("name", "drain", "wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    drain: bool
    wait: bool
    def __init__(self, name: _Optional[str] = ..., drain: bool = ..., wait: bool = ...) -> None: ...

class RestartInstanceResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: InstanceStatus
    def __init__(self, status: _Optional[_Union[InstanceStatus, _Mapping]] = ...) -> None: ...

class RolloutInstancesRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RolloutInstancesResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: RolloutStep
    def __init__(self, step: _Optional[_Union[RolloutStep, _Mapping]] = ...) -> None: ...

class RolloutStep(_message.Message):
    __slots__ = ("instance", "number", "count", "carried_by")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CARRIED_BY_FIELD_NUMBER: _ClassVar[int]
    instance: str
    number: int
    count: int
    carried_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, instance: _Optional[str] = ..., number: _Optional[int] = ..., count: _Optional[int] = ..., carried_by: _Optional[_Iterable[str]] = ...) -> None: ...

class StreamLogsRequest(_message.Message):
    __slots__ = ("name", "tail", "follow")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    tail: int
    follow: bool
    def __init__(self, name: _Optional[str] = ..., tail: _Optional[int] = ..., follow: bool = ...) -> None: ...

class StreamLogsResponse(_message.Message):
    __slots__ = ("line",)
    LINE_FIELD_NUMBER: _ClassVar[int]
    line: str
    def __init__(self, line: _Optional[str] = ...) -> None: ...

class InstanceSpec(_message.Message):
    __slots__ = ("name", "role", "device", "runtime", "model", "served_model", "host", "port", "cores", "depends_on", "max_num_seqs", "weights", "weights_reason", "gpus")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERVED_MODEL_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_REASON_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: Role
    device: Device
    runtime: RuntimeKind
    model: str
    served_model: str
    host: str
    port: int
    cores: _containers.RepeatedScalarFieldContainer[int]
    depends_on: str
    max_num_seqs: int
    weights: QuantisedWeights
    weights_reason: str
    gpus: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., device: _Optional[_Union[Device, str]] = ..., runtime: _Optional[_Union[RuntimeKind, str]] = ..., model: _Optional[str] = ..., served_model: _Optional[str] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., cores: _Optional[_Iterable[int]] = ..., depends_on: _Optional[str] = ..., max_num_seqs: _Optional[int] = ..., weights: _Optional[_Union[QuantisedWeights, _Mapping]] = ..., weights_reason: _Optional[str] = ..., gpus: _Optional[_Iterable[str]] = ...) -> None: ...

class QuantisedWeights(_message.Message):
    __slots__ = ("quantize", "source", "loaded_bytes")
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LOADED_BYTES_FIELD_NUMBER: _ClassVar[int]
    quantize: str
    source: str
    loaded_bytes: int
    def __init__(self, quantize: _Optional[str] = ..., source: _Optional[str] = ..., loaded_bytes: _Optional[int] = ...) -> None: ...

class InstanceStatus(_message.Message):
    __slots__ = ("spec", "state", "wanted", "reason", "generation", "attempts", "since_s", "handle")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    spec: InstanceSpec
    state: State
    wanted: bool
    reason: str
    generation: int
    attempts: int
    since_s: float
    handle: Handle
    def __init__(self, spec: _Optional[_Union[InstanceSpec, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., wanted: bool = ..., reason: _Optional[str] = ..., generation: _Optional[int] = ..., attempts: _Optional[int] = ..., since_s: _Optional[float] = ..., handle: _Optional[_Union[Handle, _Mapping]] = ...) -> None: ...

class Handle(_message.Message):
    __slots__ = ("generation", "ident", "started_at_s")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IDENT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    generation: int
    ident: str
    started_at_s: float
    def __init__(self, generation: _Optional[int] = ..., ident: _Optional[str] = ..., started_at_s: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("age_s", "instances", "gpus", "gpu_error", "host")
    class InstancesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: InstanceLoad
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[InstanceLoad, _Mapping]] = ...) -> None: ...
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_ERROR_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    age_s: float
    instances: _containers.MessageMap[str, InstanceLoad]
    gpus: _containers.RepeatedCompositeFieldContainer[GpuLoad]
    gpu_error: str
    host: HostLoad
    def __init__(self, age_s: _Optional[float] = ..., instances: _Optional[_Mapping[str, InstanceLoad]] = ..., gpus: _Optional[_Iterable[_Union[GpuLoad, _Mapping]]] = ..., gpu_error: _Optional[str] = ..., host: _Optional[_Union[HostLoad, _Mapping]] = ...) -> None: ...

class InstanceLoad(_message.Message):
    __slots__ = ("age_s", "running", "waiting", "kv_usage_ratio", "generation_tokens_per_s", "prompt_tokens_per_s", "preemptions", "error", "prompt_tokens", "generation_tokens")
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_USAGE_RATIO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    age_s: float
    running: int
    waiting: int
    kv_usage_ratio: float
    generation_tokens_per_s: float
    prompt_tokens_per_s: float
    preemptions: int
    error: str
    prompt_tokens: int
    generation_tokens: int
    def __init__(self, age_s: _Optional[float] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_usage_ratio: _Optional[float] = ..., generation_tokens_per_s: _Optional[float] = ..., prompt_tokens_per_s: _Optional[float] = ..., preemptions: _Optional[int] = ..., error: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., generation_tokens: _Optional[int] = ...) -> None: ...

class GpuLoad(_message.Message):
    __slots__ = ("index", "name", "uuid", "busy_ratio", "memory_used_bytes", "memory_total_bytes", "power_w", "temperature_c", "address", "parts")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    BUSY_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    uuid: str
    busy_ratio: float
    memory_used_bytes: int
    memory_total_bytes: int
    power_w: float
    temperature_c: float
    address: str
    parts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., uuid: _Optional[str] = ..., busy_ratio: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., power_w: _Optional[float] = ..., temperature_c: _Optional[float] = ..., address: _Optional[str] = ..., parts: _Optional[_Iterable[str]] = ...) -> None: ...

class HostLoad(_message.Message):
    __slots__ = ("cpu_count", "cpu_busy_ratio", "memory_used_bytes", "memory_total_bytes", "shm_used_bytes", "shm_total_bytes")
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    CPU_BUSY_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHM_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHM_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    cpu_count: int
    cpu_busy_ratio: float
    memory_used_bytes: int
    memory_total_bytes: int
    shm_used_bytes: int
    shm_total_bytes: int
    def __init__(self, cpu_count: _Optional[int] = ..., cpu_busy_ratio: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., shm_used_bytes: _Optional[int] = ..., shm_total_bytes: _Optional[int] = ...) -> None: ...

class GetTopologyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTopologyResponse(_message.Message):
    __slots__ = ("nodes", "cores", "sockets", "offline", "accelerators", "owners", "gpu_owners")
    class OwnersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: CpuGroup
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[CpuGroup, _Mapping]] = ...) -> None: ...
    class GpuOwnersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: GpuGroup
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[GpuGroup, _Mapping]] = ...) -> None: ...
    NODES_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    GPU_OWNERS_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    cores: _containers.RepeatedCompositeFieldContainer[CpuGroup]
    sockets: _containers.RepeatedCompositeFieldContainer[CpuGroup]
    offline: _containers.RepeatedScalarFieldContainer[int]
    accelerators: _containers.RepeatedCompositeFieldContainer[Accelerator]
    owners: _containers.MessageMap[str, CpuGroup]
    gpu_owners: _containers.MessageMap[str, GpuGroup]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., cores: _Optional[_Iterable[_Union[CpuGroup, _Mapping]]] = ..., sockets: _Optional[_Iterable[_Union[CpuGroup, _Mapping]]] = ..., offline: _Optional[_Iterable[int]] = ..., accelerators: _Optional[_Iterable[_Union[Accelerator, _Mapping]]] = ..., owners: _Optional[_Mapping[str, CpuGroup]] = ..., gpu_owners: _Optional[_Mapping[str, GpuGroup]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "cpus", "memory_bytes", "distances")
    ID_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    id: int
    cpus: _containers.RepeatedScalarFieldContainer[int]
    memory_bytes: int
    distances: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., cpus: _Optional[_Iterable[int]] = ..., memory_bytes: _Optional[int] = ..., distances: _Optional[_Iterable[int]] = ...) -> None: ...

class GpuGroup(_message.Message):
    __slots__ = ("addresses",)
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class CpuGroup(_message.Message):
    __slots__ = ("cpus",)
    CPUS_FIELD_NUMBER: _ClassVar[int]
    cpus: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, cpus: _Optional[_Iterable[int]] = ...) -> None: ...

class Accelerator(_message.Message):
    __slots__ = ("kind", "address", "vendor", "node")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VENDOR_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    address: str
    vendor: str
    node: int
    def __init__(self, kind: _Optional[str] = ..., address: _Optional[str] = ..., vendor: _Optional[str] = ..., node: _Optional[int] = ...) -> None: ...

class BindingSettings(_message.Message):
    __slots__ = ("env", "cpuset_cpus", "cpuset_mems", "ranks")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENV_FIELD_NUMBER: _ClassVar[int]
    CPUSET_CPUS_FIELD_NUMBER: _ClassVar[int]
    CPUSET_MEMS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    env: _containers.ScalarMap[str, str]
    cpuset_cpus: str
    cpuset_mems: str
    ranks: int
    def __init__(self, env: _Optional[_Mapping[str, str]] = ..., cpuset_cpus: _Optional[str] = ..., cpuset_mems: _Optional[str] = ..., ranks: _Optional[int] = ...) -> None: ...

class CheckBindingRequest(_message.Message):
    __slots__ = ("name", "settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: BindingSettings
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[BindingSettings, _Mapping]] = ...) -> None: ...

class CheckBindingResponse(_message.Message):
    __slots__ = ("faults", "proposal")
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedCompositeFieldContainer[BindingFault]
    proposal: BindingSettings
    def __init__(self, faults: _Optional[_Iterable[_Union[BindingFault, _Mapping]]] = ..., proposal: _Optional[_Union[BindingSettings, _Mapping]] = ...) -> None: ...

class BindingFault(_message.Message):
    __slots__ = ("rule", "part", "detail", "blocking")
    RULE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    BLOCKING_FIELD_NUMBER: _ClassVar[int]
    rule: str
    part: str
    detail: str
    blocking: bool
    def __init__(self, rule: _Optional[str] = ..., part: _Optional[str] = ..., detail: _Optional[str] = ..., blocking: bool = ...) -> None: ...

class VerifyBindingRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class VerifyBindingResponse(_message.Message):
    __slots__ = ("verifications", "unverified")
    class VerificationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Verification
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Verification, _Mapping]] = ...) -> None: ...
    class UnverifiedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    UNVERIFIED_FIELD_NUMBER: _ClassVar[int]
    verifications: _containers.MessageMap[str, Verification]
    unverified: _containers.ScalarMap[str, str]
    def __init__(self, verifications: _Optional[_Mapping[str, Verification]] = ..., unverified: _Optional[_Mapping[str, str]] = ...) -> None: ...

class BindingStatus(_message.Message):
    __slots__ = ("verification", "read_at_s", "drifts", "drifted_at_s")
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    READ_AT_S_FIELD_NUMBER: _ClassVar[int]
    DRIFTS_FIELD_NUMBER: _ClassVar[int]
    DRIFTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    verification: Verification
    read_at_s: float
    drifts: _containers.RepeatedCompositeFieldContainer[Drift]
    drifted_at_s: float
    def __init__(self, verification: _Optional[_Union[Verification, _Mapping]] = ..., read_at_s: _Optional[float] = ..., drifts: _Optional[_Iterable[_Union[Drift, _Mapping]]] = ..., drifted_at_s: _Optional[float] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("drifts", "threads", "threads_outside", "cpus_planned", "cpus_bound", "memory_bytes", "remote_memory_bytes", "unreadable", "walk_s")
    class MemoryBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    DRIFTS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    THREADS_OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    CPUS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    CPUS_BOUND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REMOTE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    WALK_S_FIELD_NUMBER: _ClassVar[int]
    drifts: _containers.RepeatedCompositeFieldContainer[Drift]
    threads: int
    threads_outside: int
    cpus_planned: int
    cpus_bound: int
    memory_bytes: _containers.ScalarMap[int, int]
    remote_memory_bytes: int
    unreadable: _containers.RepeatedScalarFieldContainer[str]
    walk_s: float
    def __init__(self, drifts: _Optional[_Iterable[_Union[Drift, _Mapping]]] = ..., threads: _Optional[int] = ..., threads_outside: _Optional[int] = ..., cpus_planned: _Optional[int] = ..., cpus_bound: _Optional[int] = ..., memory_bytes: _Optional[_Mapping[int, int]] = ..., remote_memory_bytes: _Optional[int] = ..., unreadable: _Optional[_Iterable[str]] = ..., walk_s: _Optional[float] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("kind", "detail", "tids", "cpus", "nodes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TIDS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    detail: str
    tids: _containers.RepeatedScalarFieldContainer[int]
    cpus: _containers.RepeatedScalarFieldContainer[int]
    nodes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[str] = ..., detail: _Optional[str] = ..., tids: _Optional[_Iterable[int]] = ..., cpus: _Optional[_Iterable[int]] = ..., nodes: _Optional[_Iterable[int]] = ...) -> None: ...

class CompareInstancesRequest(_message.Message):
    __slots__ = ("first", "second")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ...) -> None: ...

class CompareInstancesResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: ParityReport
    def __init__(self, report: _Optional[_Union[ParityReport, _Mapping]] = ...) -> None: ...

class ParityReport(_message.Message):
    __slots__ = ("first", "second", "agreement", "cause", "reasons", "allowed", "figures", "prompts", "compared_at_s")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    COMPARED_AT_S_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    agreement: Agreement
    cause: ParityCause
    reasons: _containers.RepeatedScalarFieldContainer[str]
    allowed: bool
    figures: ParityFigures
    prompts: _containers.RepeatedCompositeFieldContainer[PromptReport]
    compared_at_s: float
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ..., agreement: _Optional[_Union[Agreement, str]] = ..., cause: _Optional[_Union[ParityCause, str]] = ..., reasons: _Optional[_Iterable[str]] = ..., allowed: bool = ..., figures: _Optional[_Union[ParityFigures, _Mapping]] = ..., prompts: _Optional[_Iterable[_Union[PromptReport, _Mapping]]] = ..., compared_at_s: _Optional[float] = ...) -> None: ...

class ParityFigures(_message.Message):
    __slots__ = ("positions", "same_top_ratio", "near_tie_ratio", "clear_flip_ratio", "prefill_distance", "decode_distance", "first_token_ratio", "greedy_ratio", "common_prefix_ratio")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    SAME_TOP_RATIO_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIE_RATIO_FIELD_NUMBER: _ClassVar[int]
    CLEAR_FLIP_RATIO_FIELD_NUMBER: _ClassVar[int]
    PREFILL_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    DECODE_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_RATIO_FIELD_NUMBER: _ClassVar[int]
    GREEDY_RATIO_FIELD_NUMBER: _ClassVar[int]
    COMMON_PREFIX_RATIO_FIELD_NUMBER: _ClassVar[int]
    positions: int
    same_top_ratio: float
    near_tie_ratio: float
    clear_flip_ratio: float
    prefill_distance: float
    decode_distance: float
    first_token_ratio: float
    greedy_ratio: float
    common_prefix_ratio: float
    def __init__(self, positions: _Optional[int] = ..., same_top_ratio: _Optional[float] = ..., near_tie_ratio: _Optional[float] = ..., clear_flip_ratio: _Optional[float] = ..., prefill_distance: _Optional[float] = ..., decode_distance: _Optional[float] = ..., first_token_ratio: _Optional[float] = ..., greedy_ratio: _Optional[float] = ..., common_prefix_ratio: _Optional[float] = ...) -> None: ...

class PromptReport(_message.Message):
    __slots__ = ("prompt", "same_tokens", "prefill_positions", "decode_positions", "same_top", "near_ties", "prefill_distance", "decode_distance", "generated_tokens", "common_tokens", "difference")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAME_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    DECODE_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    SAME_TOP_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIES_FIELD_NUMBER: _ClassVar[int]
    PREFILL_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    DECODE_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMMON_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    same_tokens: bool
    prefill_positions: int
    decode_positions: int
    same_top: int
    near_ties: int
    prefill_distance: float
    decode_distance: float
    generated_tokens: int
    common_tokens: int
    difference: Difference
    def __init__(self, prompt: _Optional[str] = ..., same_tokens: bool = ..., prefill_positions: _Optional[int] = ..., decode_positions: _Optional[int] = ..., same_top: _Optional[int] = ..., near_ties: _Optional[int] = ..., prefill_distance: _Optional[float] = ..., decode_distance: _Optional[float] = ..., generated_tokens: _Optional[int] = ..., common_tokens: _Optional[int] = ..., difference: _Optional[_Union[Difference, _Mapping]] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("index", "first_margin_nats", "second_margin_nats", "near_tie")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_MARGIN_NATS_FIELD_NUMBER: _ClassVar[int]
    SECOND_MARGIN_NATS_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIE_FIELD_NUMBER: _ClassVar[int]
    index: int
    first_margin_nats: float
    second_margin_nats: float
    near_tie: bool
    def __init__(self, index: _Optional[int] = ..., first_margin_nats: _Optional[float] = ..., second_margin_nats: _Optional[float] = ..., near_tie: bool = ...) -> None: ...
