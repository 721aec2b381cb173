from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CalibrateRequest(_message.Message):
    __slots__ = ("force",)
    FORCE_FIELD_NUMBER: _ClassVar[int]
    force: bool
    def __init__(self, force: bool = ...) -> None: ...

class CalibrateResponse(_message.Message):
    __slots__ = ("result", "runs")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    result: CalibrationResult
    runs: int
    def __init__(self, result: _Optional[_Union[CalibrationResult, _Mapping]] = ..., runs: _Optional[int] = ...) -> None: ...

class CalibrationResult(_message.Message):
    __slots__ = ("instance", "batch", "prompt_tokens", "beside", "first_s", "token_s")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    FIRST_S_FIELD_NUMBER: _ClassVar[int]
    TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    instance: str
    batch: int
    prompt_tokens: int
    beside: str
    first_s: float
    token_s: float
    def __init__(self, instance: _Optional[str] = ..., batch: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., beside: _Optional[str] = ..., first_s: _Optional[float] = ..., token_s: _Optional[float] = ...) -> None: ...
