# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Messages from values of any size and shape: what a field cannot hold must not cost the rest of an answer."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = frozenset((FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT))


def make(kind: type[M], /, **values: Any) -> M:
    """Returns a message with these fields.

    A whole number out of its field's range becomes the nearest in it; a number that is none (NaN, infinity) is left
    out, as None is; characters that UTF-8 does not have become question marks.
    """
    fields = kind.DESCRIPTOR.fields_by_name
    fitted = {name: _fitted(fields[name], value) for name, value in values.items()}
    return kind(**{name: value for name, value in fitted.items() if value is not None})


def _fitted(field: Any, value: Any) -> Any:
    """What the field takes of a value; None: nothing."""
    if isinstance(value, Mapping):
        entry = field.message_type.fields_by_name
        pairs = ((_fitted(entry["key"], key), _fitted(entry["value"], each)) for key, each in value.items())
        return {key: each for key, each in pairs if key is not None and each is not None}
    if isinstance(value, Iterable) and not isinstance(value, str | Message):
        return [each for each in (_fitted(field, item) for item in value) if each is not None]
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
