from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_STATE: _ClassVar[EventKind]
    EVENT_KIND_CONFIG: _ClassVar[EventKind]
    EVENT_KIND_DRIFT: _ClassVar[EventKind]
    EVENT_KIND_HANDOVER: _ClassVar[EventKind]
    EVENT_KIND_REQUEST: _ClassVar[EventKind]
    EVENT_KIND_OFFLOAD: _ClassVar[EventKind]
    EVENT_KIND_MODEL: _ClassVar[EventKind]
    EVENT_KIND_CALIBRATION: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_STATE: EventKind
EVENT_KIND_CONFIG: EventKind
EVENT_KIND_DRIFT: EventKind
EVENT_KIND_HANDOVER: EventKind
EVENT_KIND_REQUEST: EventKind
EVENT_KIND_OFFLOAD: EventKind
EVENT_KIND_MODEL: EventKind
EVENT_KIND_CALIBRATION: EventKind

class GetConfigRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ...) -> None: ...

class GetConfigResponse(_message.Message):
    __slots__ = ("path", "values", "file_differs", "needs_restart")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FILE_DIFFERS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_RESTART_FIELD_NUMBER: _ClassVar[int]
    path: str
    values: _containers.RepeatedCompositeFieldContainer[ConfigValue]
    file_differs: bool
    needs_restart: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., values: _Optional[_Iterable[_Union[ConfigValue, _Mapping]]] = ..., file_differs: bool = ..., needs_restart: _Optional[_Iterable[str]] = ...) -> None: ...

class ConfigValue(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SetConfigRequest(_message.Message):
    __slots__ = ("values", "unset")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, str]
    unset: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Mapping[str, str]] = ..., unset: _Optional[_Iterable[str]] = ...) -> None: ...

class SetConfigResponse(_message.Message):
    __slots__ = ("would_change",)
    WOULD_CHANGE_FIELD_NUMBER: _ClassVar[int]
    would_change: ConfigChanges
    def __init__(self, would_change: _Optional[_Union[ConfigChanges, _Mapping]] = ...) -> None: ...

class ValidateConfigRequest(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ValidateConfigResponse(_message.Message):
    __slots__ = ("faults", "would_change")
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    WOULD_CHANGE_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedCompositeFieldContainer[ConfigFault]
    would_change: ConfigChanges
    def __init__(self, faults: _Optional[_Iterable[_Union[ConfigFault, _Mapping]]] = ..., would_change: _Optional[_Union[ConfigChanges, _Mapping]] = ...) -> None: ...

class ConfigFault(_message.Message):
    __slots__ = ("key", "problem")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    key: str
    problem: str
    def __init__(self, key: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class ConfigChanges(_message.Message):
    __slots__ = ("keys", "needs_restart", "replaced", "added", "removed")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_RESTART_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    needs_restart: _containers.RepeatedScalarFieldContainer[str]
    replaced: _containers.RepeatedScalarFieldContainer[str]
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., needs_restart: _Optional[_Iterable[str]] = ..., replaced: _Optional[_Iterable[str]] = ..., added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class ApplyConfigRequest(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ApplyConfigResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: ConfigChanges
    def __init__(self, changes: _Optional[_Union[ConfigChanges, _Mapping]] = ...) -> None: ...

class ReloadConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadConfigResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: ConfigChanges
    def __init__(self, changes: _Optional[_Union[ConfigChanges, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("at_s", "kind", "instance", "text", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AT_S_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    at_s: float
    kind: EventKind
    instance: str
    text: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, at_s: _Optional[float] = ..., kind: _Optional[_Union[EventKind, str]] = ..., instance: _Optional[str] = ..., text: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("last", "follow", "instance")
    LAST_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    last: int
    follow: bool
    instance: str
    def __init__(self, last: _Optional[int] = ..., follow: bool = ..., instance: _Optional[str] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: Event
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("leave_running",)
    LEAVE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    leave_running: bool
    def __init__(self, leave_running: bool = ...) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
