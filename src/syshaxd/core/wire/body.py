# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads a request's JSON body only as far as placement and hand-over need.

Values stay undecoded until they are used, so that a body costs time in proportion to its
size and no memory beside it, whatever is in it. What cannot be understood is left for the instance to judge.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Never

import msgspec

from syshaxd.core import jsontext
from syshaxd.core.errors import BadRequestError

# A small body has few fields, so all of them are kept; of a larger one, only the known fields.
SMALL_BYTES = 256 * 1024
# Python's JSON parser (vLLM's) accepts what strict JSON does not: NaN, UTF-16, lone surrogates. That parser
# decodes everything, so it is used for small bodies only.
_MAX_LENIENT_BYTES = 1024 * 1024
# No number, name or option is longer; longer values are not decoded where one of these is expected.
MAX_SHORT_BYTES = 64 * 1024
# A key that is known costs 0.3 us each time that it stands in a body, in which the GIL is held. Texts contain none: in
# them, a quote has a backslash.
_MAX_KEYS = 300_000
# An array or object costs 25 ns, in which the GIL is held. Brackets in texts count as well: it would cost more to tell.
_MAX_NESTED = 3_000_000
_BYTES_PER_TOKEN = 4
_WHITESPACE = b" \t\r\n"
_PIECE_BYTES = 256 * 1024
_BOM = b"\xef\xbb\xbf"
_UNKNOWN_FIELD = re.compile(r"unknown field `(.+)`", re.DOTALL)
_INTEGER = re.compile(r"\s*[+-]?\d{1,18}(?:\.0*)?\s*", re.ASCII)
_TRUE = frozenset(("1", "on", "t", "true", "y", "yes"))

UNREADABLE: Any = object()
"""The value of a field that can't be decoded. It is truthy and of no type that a field may have."""

_all_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class RequestBody(Mapping[str, Any]):
    """The fields of a JSON object, decoded on access. Access never raises."""

    def __init__(self, raw: dict[str, msgspec.Raw], *, unknown: str = "") -> None:
        """`raw`: the undecoded fields; `unknown`: the name of a field that was left out, empty if there is none."""
        self.raw = raw
        self.unknown = unknown
        self.split: Any = None
        """Where the request can be split, once that was found out (`core.handover.rules.Split`)."""
        self._decoded: dict[str, Any] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "RequestBody":
        """A body with these fields."""
        return cls({name: msgspec.Raw(json.dumps(value).encode()) for name, value in values.items()})

    def __getitem__(self, name: str) -> Any:
        if name not in self._decoded:
            self._decoded[name] = decode(self.raw[name])
        return self._decoded[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Mapping; the inherited one raises an error for each field that is absent, and most are."""
        return self[name] if name in self.raw else default

    def __contains__(self, name: object) -> bool:
        return name in self.raw  # the inherited one decodes the field

    def short(self, name: str) -> Any:
        """A field that is a number, a name or an option; None if absent, UNREADABLE if it is too long to be one."""
        if name in self._decoded:
            return self._decoded[name]
        raw = self.raw.get(name)
        if raw is None:
            return None
        return UNREADABLE if len(memoryview(raw)) > MAX_SHORT_BYTES else self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


class BodyReader:
    """Reads bodies; of large ones, only the known fields."""

    def __init__(self, known: Iterable[str], needed: Iterable[str]) -> None:
        """`known`: all fields in use; `needed`: those in use even next to unknown fields."""
        self._known = msgspec.json.Decoder(_struct("Known", known, strict=True))
        self._needed = msgspec.json.Decoder(_struct("Needed", needed, strict=False))

    def read(self, data: bytes) -> RequestBody:
        """Reads a body.

        Raises:
            BadRequestError: Not a JSON object.
        """
        data = data.removeprefix(_BOM)
        try:
            return self._read(data)
        except msgspec.ValidationError:
            _refuse("the body is not a JSON object")
        except RecursionError:
            _refuse("the body is nested too deeply")
        except (msgspec.DecodeError, UnicodeError) as error:
            return _read_leniently(data, error)

    def _read(self, data: bytes) -> RequestBody:
        if len(data) <= SMALL_BYTES:
            return RequestBody(_all_fields.decode(data))
        if _has_too_many_keys(data):
            _refuse(f"the body has more than {_MAX_KEYS} keys")
        if _has_more(data, b"[{", _MAX_NESTED):
            _refuse(f"the body has more than {_MAX_NESTED} arrays and objects")
        try:
            return RequestBody(_present(self._known.decode(data)))
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN_FIELD.search(str(error))
            return RequestBody(_present(self._needed.decode(data)), unknown=unknown[1] if unknown else "a field")


def raw_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """All fields, for `encode`: undecoded where possible."""
    return dict(body.raw) if isinstance(body, RequestBody) else dict(body)


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact JSON; fields that were never decoded are written unchanged."""
    return msgspec.json.encode(value)


def decode(raw: msgspec.Raw) -> Any:
    """The value as Python's JSON parser decodes it; UNREADABLE if it can't."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return jsontext.loads(bytes(raw))
    except ValueError:
        return UNREADABLE


def estimated_tokens(data: bytes) -> int:
    """Tokens of the prompt in a body, before an instance tokenizes it."""
    return len(data) // _BYTES_PER_TOKEN


def as_int(value: object) -> int | None:
    """An integer in any form that vLLM accepts: 4, 4.0 or "4"; None: not an integer."""
    match value:
        case bool():
            return int(value)
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if _INTEGER.fullmatch(value):
            return int(value.partition(".")[0])
        case _:
            return None


def as_bool(value: object) -> bool:
    """A boolean in any form that vLLM accepts; false if it is none."""
    if isinstance(value, str):
        return value.lower() in _TRUE
    return isinstance(value, bool | int | float) and value == 1


def _struct(name: str, fields: Iterable[str], *, strict: bool) -> type[msgspec.Struct]:
    typed = [
        (f"field_{number}", msgspec.Raw | msgspec.UnsetType, msgspec.field(default=msgspec.UNSET, name=field))
        for number, field in enumerate(sorted(set(fields)))
    ]
    return msgspec.defstruct(name, typed, forbid_unknown_fields=strict)


def _present(struct: msgspec.Struct) -> dict[str, msgspec.Raw]:
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return {
        encoded: value for attribute, encoded in names if (value := getattr(struct, attribute)) is not msgspec.UNSET
    }


def _has_more(data: bytes, characters: bytes, limit: int) -> bool:
    """Counts piece by piece, so that other threads get the GIL."""
    found = 0
    for begin in range(0, len(data), _PIECE_BYTES):
        found += sum(data.count(character, begin, begin + _PIECE_BYTES) for character in characters)
        if found > limit:
            return True
    return False


def _has_too_many_keys(data: bytes) -> bool:
    """Counts piece by piece, as above. A key across two pieces is not counted.

    By plain counting, which takes a few nanoseconds for each byte, whatever they are; a regular expression takes up to
    a hundred for each quote. Most bodies have too few quotes for so many keys.
    """
    if not _has_more(data, b'"', _MAX_KEYS):
        return False
    keys = 0
    for begin in range(0, len(data), _PIECE_BYTES):
        piece = data[begin : begin + _PIECE_BYTES].translate(None, _WHITESPACE)
        keys += piece.count(b'":') - piece.count(b'\\":')
        if keys > _MAX_KEYS:
            return True
    return False


def _read_leniently(data: bytes, strict_error: Exception) -> RequestBody:
    if len(data) > _MAX_LENIENT_BYTES:
        _refuse(f"the body is not valid JSON: {strict_error}")
    try:
        values = jsontext.loads(data)
    except ValueError as error:
        _refuse(f"the body is not valid JSON: {error}")
    if not isinstance(values, dict):
        _refuse("the body is not a JSON object")
    return RequestBody.of(values)


def _refuse(why: str) -> Never:
    raise BadRequestError(why, code="invalid_json")
