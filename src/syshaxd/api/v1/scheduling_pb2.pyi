from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecisionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_KIND_UNSPECIFIED: _ClassVar[DecisionKind]
    DECISION_KIND_RUN_ON: _ClassVar[DecisionKind]
    DECISION_KIND_OFFLOAD: _ClassVar[DecisionKind]
    DECISION_KIND_WAIT: _ClassVar[DecisionKind]
    DECISION_KIND_REJECT: _ClassVar[DecisionKind]
DECISION_KIND_UNSPECIFIED: DecisionKind
DECISION_KIND_RUN_ON: DecisionKind
DECISION_KIND_OFFLOAD: DecisionKind
DECISION_KIND_WAIT: DecisionKind
DECISION_KIND_REJECT: DecisionKind

class PlacementQuery(_message.Message):
    __slots__ = ("model", "path", "prompt_tokens", "max_tokens", "stream", "pinned", "full_weights")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    FULL_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    path: str
    prompt_tokens: int
    max_tokens: int
    stream: bool
    pinned: str
    full_weights: bool
    def __init__(self, model: _Optional[str] = ..., path: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., stream: bool = ..., pinned: _Optional[str] = ..., full_weights: bool = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("kind", "prefill", "decode", "prefill_address", "decode_address", "reasons", "retry_after_s", "prediction")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DECODE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    kind: DecisionKind
    prefill: str
    decode: str
    prefill_address: str
    decode_address: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    retry_after_s: float
    prediction: Prediction
    def __init__(self, kind: _Optional[_Union[DecisionKind, str]] = ..., prefill: _Optional[str] = ..., decode: _Optional[str] = ..., prefill_address: _Optional[str] = ..., decode_address: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., retry_after_s: _Optional[float] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("offload_s", "wait_s", "offload_first_s", "wait_first_s", "others_s", "least_s")
    OFFLOAD_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    OFFLOAD_FIRST_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIRST_S_FIELD_NUMBER: _ClassVar[int]
    OTHERS_S_FIELD_NUMBER: _ClassVar[int]
    LEAST_S_FIELD_NUMBER: _ClassVar[int]
    offload_s: float
    wait_s: float
    offload_first_s: float
    wait_first_s: float
    others_s: float
    least_s: float
    def __init__(self, offload_s: _Optional[float] = ..., wait_s: _Optional[float] = ..., offload_first_s: _Optional[float] = ..., wait_first_s: _Optional[float] = ..., others_s: _Optional[float] = ..., least_s: _Optional[float] = ...) -> None: ...

class PlaceRequestRequest(_message.Message):
    __slots__ = ("query", "request_id", "ttl_s")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    query: PlacementQuery
    request_id: str
    ttl_s: float
    def __init__(self, query: _Optional[_Union[PlacementQuery, _Mapping]] = ..., request_id: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class PlaceRequestResponse(_message.Message):
    __slots__ = ("decision", "lease_id", "ttl_s", "request_id")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    lease_id: str
    ttl_s: float
    request_id: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., lease_id: _Optional[str] = ..., ttl_s: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "ttl_s")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    ttl_s: float
    def __init__(self, lease_id: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("ttl_s",)
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    ttl_s: float
    def __init__(self, ttl_s: _Optional[float] = ...) -> None: ...

class ReportEndRequest(_message.Message):
    __slots__ = ("lease_id", "failed", "tokens_in", "tokens_out")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_IN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_OUT_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    failed: bool
    tokens_in: int
    tokens_out: int
    def __init__(self, lease_id: _Optional[str] = ..., failed: bool = ..., tokens_in: _Optional[int] = ..., tokens_out: _Optional[int] = ...) -> None: ...

class ReportEndResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DryRunRequest(_message.Message):
    __slots__ = ("query", "loads")
    class LoadsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AssumedLoad
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AssumedLoad, _Mapping]] = ...) -> None: ...
    QUERY_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    query: PlacementQuery
    loads: _containers.MessageMap[str, AssumedLoad]
    def __init__(self, query: _Optional[_Union[PlacementQuery, _Mapping]] = ..., loads: _Optional[_Mapping[str, AssumedLoad]] = ...) -> None: ...

class AssumedLoad(_message.Message):
    __slots__ = ("running", "waiting", "kv_usage_ratio", "generation_tokens_per_s")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_USAGE_RATIO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    kv_usage_ratio: float
    generation_tokens_per_s: float
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_usage_ratio: _Optional[float] = ..., generation_tokens_per_s: _Optional[float] = ...) -> None: ...

class DryRunResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class DecisionEntry(_message.Message):
    __slots__ = ("at_s", "request_id", "path", "model", "decision", "candidates", "queued", "alternatives", "prompt_tokens", "max_tokens", "expected_tokens", "policy", "expected_median_tokens", "expected_long_tokens", "expected_from", "full_weights")
    AT_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_MEDIAN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LONG_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FROM_FIELD_NUMBER: _ClassVar[int]
    FULL_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    at_s: float
    request_id: str
    path: str
    model: str
    decision: Decision
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    queued: int
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternative]
    prompt_tokens: int
    max_tokens: int
    expected_tokens: float
    policy: str
    expected_median_tokens: int
    expected_long_tokens: int
    expected_from: str
    full_weights: bool
    def __init__(self, at_s: _Optional[float] = ..., request_id: _Optional[str] = ..., path: _Optional[str] = ..., model: _Optional[str] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., queued: _Optional[int] = ..., alternatives: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ..., prompt_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., expected_tokens: _Optional[float] = ..., policy: _Optional[str] = ..., expected_median_tokens: _Optional[int] = ..., expected_long_tokens: _Optional[int] = ..., expected_from: _Optional[str] = ..., full_weights: bool = ...) -> None: ...

class Alternative(_message.Message):
    __slots__ = ("places", "chosen", "first_s", "whole_s", "others_s", "least_s")
    PLACES_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    FIRST_S_FIELD_NUMBER: _ClassVar[int]
    WHOLE_S_FIELD_NUMBER: _ClassVar[int]
    OTHERS_S_FIELD_NUMBER: _ClassVar[int]
    LEAST_S_FIELD_NUMBER: _ClassVar[int]
    places: _containers.RepeatedScalarFieldContainer[str]
    chosen: bool
    first_s: float
    whole_s: float
    others_s: float
    least_s: float
    def __init__(self, places: _Optional[_Iterable[str]] = ..., chosen: bool = ..., first_s: _Optional[float] = ..., whole_s: _Optional[float] = ..., others_s: _Optional[float] = ..., least_s: _Optional[float] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("name", "inflight", "running", "waiting", "kv_usage_ratio", "generation_tokens_per_s", "weights")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_USAGE_RATIO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    inflight: int
    running: int
    waiting: int
    kv_usage_ratio: float
    generation_tokens_per_s: float
    weights: str
    def __init__(self, name: _Optional[str] = ..., inflight: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_usage_ratio: _Optional[float] = ..., generation_tokens_per_s: _Optional[float] = ..., weights: _Optional[str] = ...) -> None: ...

class ExplainDecisionRequest(_message.Message):
    __slots__ = ("request_id", "model")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ExplainDecisionResponse(_message.Message):
    __slots__ = ("decisions", "ends")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[DecisionEntry]
    ends: _containers.RepeatedCompositeFieldContainer[RequestEnd]
    def __init__(self, decisions: _Optional[_Iterable[_Union[DecisionEntry, _Mapping]]] = ..., ends: _Optional[_Iterable[_Union[RequestEnd, _Mapping]]] = ...) -> None: ...

class RequestEnd(_message.Message):
    __slots__ = ("outcome", "status", "placement", "queue_s", "ttft_s", "duration_s", "tokens_in", "tokens_out", "retries", "handovers", "request_id", "arrived_at_s", "path", "model", "prompt_tokens", "max_tokens", "prediction", "held_out", "carried_for")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_IN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_OUT_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    HANDOVERS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_AT_S_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FOR_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    status: int
    placement: str
    queue_s: float
    ttft_s: float
    duration_s: float
    tokens_in: int
    tokens_out: int
    retries: int
    handovers: _containers.RepeatedCompositeFieldContainer[RequestHandover]
    request_id: str
    arrived_at_s: float
    path: str
    model: str
    prompt_tokens: int
    max_tokens: int
    prediction: Prediction
    held_out: bool
    carried_for: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, outcome: _Optional[str] = ..., status: _Optional[int] = ..., placement: _Optional[str] = ..., queue_s: _Optional[float] = ..., ttft_s: _Optional[float] = ..., duration_s: _Optional[float] = ..., tokens_in: _Optional[int] = ..., tokens_out: _Optional[int] = ..., retries: _Optional[int] = ..., handovers: _Optional[_Iterable[_Union[RequestHandover, _Mapping]]] = ..., request_id: _Optional[str] = ..., arrived_at_s: _Optional[float] = ..., path: _Optional[str] = ..., model: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., held_out: bool = ..., carried_for: _Optional[_Iterable[str]] = ...) -> None: ...

class RequestHandover(_message.Message):
    __slots__ = ("source", "target", "cause", "tokens", "result", "gap_s", "weights")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    GAP_S_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    cause: str
    tokens: int
    result: str
    gap_s: float
    weights: str
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., cause: _Optional[str] = ..., tokens: _Optional[int] = ..., result: _Optional[str] = ..., gap_s: _Optional[float] = ..., weights: _Optional[str] = ...) -> None: ...

class ListEndsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEndsResponse(_message.Message):
    __slots__ = ("end",)
    END_FIELD_NUMBER: _ClassVar[int]
    end: RequestEnd
    def __init__(self, end: _Optional[_Union[RequestEnd, _Mapping]] = ...) -> None: ...

class WatchDecisionsRequest(_message.Message):
    __slots__ = ("last", "follow", "model")
    LAST_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    last: int
    follow: bool
    model: str
    def __init__(self, last: _Optional[int] = ..., follow: bool = ..., model: _Optional[str] = ...) -> None: ...

class WatchDecisionsResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: DecisionEntry
    def __init__(self, decision: _Optional[_Union[DecisionEntry, _Mapping]] = ...) -> None: ...

class ListRequestsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequestsResponse(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RequestInFlight]
    def __init__(self, requests: _Optional[_Iterable[_Union[RequestInFlight, _Mapping]]] = ...) -> None: ...

class RequestInFlight(_message.Message):
    __slots__ = ("request_id", "path", "model", "placement", "age_s", "tokens", "stream", "leased")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    path: str
    model: str
    placement: str
    age_s: float
    tokens: int
    stream: bool
    leased: bool
    def __init__(self, request_id: _Optional[str] = ..., path: _Optional[str] = ..., model: _Optional[str] = ..., placement: _Optional[str] = ..., age_s: _Optional[float] = ..., tokens: _Optional[int] = ..., stream: bool = ..., leased: bool = ...) -> None: ...

class CancelRequestRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class CancelRequestResponse(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: int
    def __init__(self, cancelled: _Optional[int] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("gpu_cache_threshold", "cpu_throughput_threshold", "offload_min_prompt_tokens", "name", "holdout")
    GPU_CACHE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CPU_THROUGHPUT_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    OFFLOAD_MIN_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    gpu_cache_threshold: float
    cpu_throughput_threshold: float
    offload_min_prompt_tokens: int
    name: str
    holdout: float
    def __init__(self, gpu_cache_threshold: _Optional[float] = ..., cpu_throughput_threshold: _Optional[float] = ..., offload_min_prompt_tokens: _Optional[int] = ..., name: _Optional[str] = ..., holdout: _Optional[float] = ...) -> None: ...

class NamedPolicy(_message.Message):
    __slots__ = ("name", "summary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy", "choices")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    choices: _containers.RepeatedCompositeFieldContainer[NamedPolicy]
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., choices: _Optional[_Iterable[_Union[NamedPolicy, _Mapping]]] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...
