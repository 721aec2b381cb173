# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Messages from values of core/, field by field, by their names. `client/values.py` does the reverse.

What a field cannot hold must not cost the rest of an answer.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from enum import StrEnum
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
"""What a method gets with the message that it answers."""

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = frozenset((FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT))


def make(kind: type[M], /, **values: Any) -> M:
    """Returns a message with these fields.

    An integer out of its field's range becomes the nearest in it; a non-finite number (NaN, infinity) is left
    out, as None is; characters that UTF-8 cannot encode become question marks.
    """
    fields = kind.DESCRIPTOR.fields_by_name
    fitted = {name: _fitted(fields[name], value) for name, value in values.items()}
    return kind(**{name: value for name, value in fitted.items() if value is not None})


def message_of(kind: type[M], value: Any, /, **others: Any) -> M:
    """Returns a message whose fields are the attributes of the same names, but for the `others`."""
    names = [field.name for field in kind.DESCRIPTOR.fields if field.name not in others]
    return make(kind, **{name: getattr(value, name) for name in names}, **others)


def _fitted(field: Any, value: Any) -> Any:
    """The value as the field can hold it; None: not at all."""
    if isinstance(value, Mapping):
        entry = field.message_type.fields_by_name
        pairs = ((_fitted(entry["key"], key), _fitted_one(entry["value"], each)) for key, each in value.items())
        return {key: each for key, each in pairs if key is not None and each is not None}
    if isinstance(value, Iterable) and not isinstance(value, str | Message):
        return [each for each in (_fitted_one(field, item) for item in value) if each is not None]
    return _fitted_one(field, value)


def _fitted_one(field: Any, value: Any) -> Any:
    if field.message_type is not None and value is not None and not isinstance(value, Message):
        kind: Any = GetMessageClass(field.message_type)
        # A message that has nothing but a list stands for the list.
        return message_of(kind, value) if is_dataclass(value) else make(kind, **{kind.DESCRIPTOR.fields[0].name: value})
    if field.enum_type is not None and isinstance(value, StrEnum):
        return field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED") + value.name
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int | float):
        return _fitted_number(field, value)
    return value


def _fitted_number(field: Any, value: float) -> Any:
    try:
        if field.cpp_type in _FLOATS:
            number = float(value)
            return number if math.isfinite(number) else None
        if field.cpp_type in _RANGES:
            lowest, highest = _RANGES[field.cpp_type]
            return min(max(int(value), lowest), highest)
    except (OverflowError, ValueError):
        return None
    return value
