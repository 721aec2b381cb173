# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Messages as values of core/: field by field, by their names. `control/messages.py` does the reverse."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def value_of(kind: type[T], message: Message, /, **others: Any) -> T:
    """Returns a dataclass with what the message's fields of the same names tell.

    Args:
        kind: The dataclass.
        message: The message. What it does not have keeps its default.
        others: Attributes that are not set by the message.
    """
    known = message.DESCRIPTOR.fields_by_name
    names = [field.name for field in fields(kind) if field.name in known]  # type: ignore[arg-type]
    hints = _hints(kind)  # type: ignore[arg-type]
    return kind(**{name: _attribute(hints[name], message, name) for name in names if name not in others}, **others)


def named(kind: type[E], text: str) -> E:
    """The member with this value; one of its own for a word that only a newer daemon knows, which reads as it says."""
    try:
        return kind(text)
    except ValueError:
        member = str.__new__(kind, text)
        member._name_ = member._value_ = text
        return member


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _attribute(hint: Any, message: Message, name: str) -> Any:
    field, inner = message.DESCRIPTOR.fields_by_name[name], _without_none(hint)
    value = getattr(message, name)
    if inner is hint:
        return _converted(hint, value, field)
    is_there = message.HasField(name) if field.has_presence else bool(value)
    return _converted(inner, value, field) if is_there else None


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if isinstance(hint, UnionType) and len(kinds) == 1 else hint


def _converted(hint: Any, value: Any, field: Any) -> Any:
    if get_origin(hint) is tuple:
        if isinstance(value, Message):  # that has nothing but the list
            (field,) = value.DESCRIPTOR.fields
            value = getattr(value, field.name)
        return tuple(_converted(get_args(hint)[0], each, field) for each in value)
    if isinstance(value, Mapping):
        inner = field.message_type.fields_by_name["value"]
        return {key: _converted(get_args(hint)[1], value[key], inner) for key in sorted(value)}
    if is_dataclass(hint):
        return value_of(hint, value)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _numbered(hint, value, field.enum_type) if field.enum_type is not None else named(hint, value)
    return value


def _numbered(kind: type[E], number: int, enum: Any) -> E:
    """The member whose name is that of an enum's value: READY for STATE_READY."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = enum.values_by_number.get(number)
    name = known.name.removeprefix(prefix) if known is not None else ""
    return kind[name] if name in kind.__members__ else named(kind, f"unknown-{number}")
