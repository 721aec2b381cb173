# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The file that describes a hand-over: its owner, model, tokens, and the place of its bytes. Pure.

SYSHAXKV3 <SHA-256 of the next line, in hex>
<one JSON object, with the SHA-256 of what follows it>
<token ids, little-endian int32>

The first two lines are the head. It can be read, and checked, without the rest, which grows with the prompt.
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .layout import Digit, Packed, Packing

MAGIC = b"SYSHAXKV3"
MOST_BYTES = 64 << 20
"""Largest header."""
MOST_HEAD_BYTES = 1 << 20
"""Largest head."""
_ID_BYTES = 4


class BadHeaderError(ValueError):
    """The file is damaged, cut off, or of another version."""


@dataclass(frozen=True, slots=True)
class Model:
    """What must be equal on both sides for the KV cache to be valid."""

    identity: str
    dtype: str
    """As PyTorch says it: bfloat16."""
    rope: str
    """Digest of the rotary embedding's parameters."""
    layers: int
    kv_heads: int
    head_size: int

    def difference(self, other: "Model") -> str | None:
        """Names the first field that differs, with both values."""
        for field in fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if mine != others:
                return f"{field.name} {others!r} instead of {mine!r}"
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """One rank's share of the KV cache."""

    arena: str
    """Name of the arena's file, in the same folder."""
    arena_id: str
    """What the arena says of itself: another file under its name is not it."""
    checksum: int | None = None
    """Of its bytes, if the engine that saved them made one."""
    packed: Packed | None = None
    """How its blocks are laid out; None: it is plain numbers."""


@dataclass(frozen=True, slots=True)
class Header:
    """One published hand-over."""

    key: str
    owner: str
    """The engine that saved it."""
    model: Model
    parts: tuple[Part, ...]
    """By the producer's tensor-parallel rank."""
    offset: int
    """Where its bytes begin in each arena."""
    size: int
    """Bytes in each arena."""
    created_at: float
    """Seconds since the epoch."""
    token_ids: tuple[int, ...]
    """The tokens whose K and V it holds."""

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return len(self.token_ids)

    def without_ids(self) -> "Header":
        """The same, but short."""
        return replace(self, token_ids=())


def encode(header: Header) -> bytes:
    """Returns the file's bytes."""
    fixed = asdict(header)
    del fixed["token_ids"]
    fixed["tokens"] = header.tokens
    ids = array("i", header.token_ids)
    if sys.byteorder == "big":
        ids.byteswap()
    raw = ids.tobytes()
    fixed["ids_sha256"] = hashlib.sha256(raw).hexdigest()
    text = json.dumps(fixed).encode()
    return b"%b %b\n%b\n%b" % (MAGIC, hashlib.sha256(text).hexdigest().encode(), text, raw)


def decode(data: bytes) -> Header:
    """Reads the file's bytes.

    Raises:
        BadHeaderError: They are not what `encode` wrote.
    """
    fixed, raw = _head(data)
    try:
        if hashlib.sha256(raw).hexdigest() != fixed.pop("ids_sha256"):
            raise BadHeaderError("damaged or cut off: the token ids' checksum differs")
        return _build(fixed, raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, BadHeaderError) else BadHeaderError(f"malformed: {error!r}") from error


def arenas_of(start: bytes) -> list[tuple[str, str]]:
    """Names the arenas that a hand-over's bytes are in, each with its id.

    Args:
        start: The file's beginning; its head must be whole.

    Raises:
        BadHeaderError: It is not what `encode` wrote.
    """
    fixed, _ = _head(start)
    try:
        return [(str(part["arena"]), str(part["arena_id"])) for part in fixed["parts"]]
    except (KeyError, TypeError) as error:
        raise BadHeaderError(f"malformed: {error!r}") from error


def _head(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the JSON object, checked, and the bytes behind it."""
    magic, _, digest = (first := data.partition(b"\n"))[0].partition(b" ")
    if magic != MAGIC:
        raise BadHeaderError("not a hand-over of this version")
    text, ended, raw = first[2].partition(b"\n")
    if not ended or hashlib.sha256(text).hexdigest().encode() != digest:
        raise BadHeaderError("damaged or cut off: the head's checksum differs")
    try:
        fixed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadHeaderError(f"malformed: {error!r}") from error
    if not isinstance(fixed, dict):
        raise BadHeaderError("malformed: not an object")
    return fixed, raw


def _build(fixed: dict[str, Any], raw: bytes) -> Header:
    tokens = fixed.pop("tokens")
    if len(raw) != tokens * _ID_BYTES:
        raise BadHeaderError(f"{len(raw)} bytes of token ids for {tokens} tokens")
    ids = array("i")
    ids.frombytes(raw)
    if sys.byteorder == "big":
        ids.byteswap()
    model = Model(**fixed.pop("model"))
    parts = tuple(Part(**part | {"packed": _packed(part["packed"])}) for part in fixed.pop("parts"))
    header = Header(**fixed, model=model, parts=parts, token_ids=tuple(ids))
    if header.offset < 0 or header.size <= 0 or not header.parts:
        raise BadHeaderError(f"offset {header.offset}, size {header.size}, {len(header.parts)} parts")
    if any("/" in part.arena or part.arena.startswith(".") for part in header.parts):
        raise BadHeaderError("an arena outside the folder")
    return header


def _packed(told: dict[str, Any] | None) -> Packed | None:
    if told is None:
        return None
    k, v = (
        Packing(*(tuple(Digit(*digit) for digit in told[kind][name]) for name in ("tokens", "dims"))) for kind in "kv"
    )
    if told["block_size"] < 1:
        raise BadHeaderError(f"blocks of {told['block_size']} tokens")
    return Packed(told["block_size"], k, v)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens at the beginning are equal."""
    length = min(len(first), len(second))
    if tuple(first[:length]) == tuple(second[:length]):
        return length
    return next(index for index in range(length) if first[index] != second[index])
