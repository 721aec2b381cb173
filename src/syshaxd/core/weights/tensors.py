# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a safetensors file says of its tensors: a length, a header in JSON, then the data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from syshaxd.core import jsontext
from syshaxd.core.errors import SyshaxError

LENGTH_BYTES = 8
"""Of the header's length, before it, little-endian."""
MOST_HEADER_BYTES = 100_000_000
"""As safetensors itself has it."""
_METADATA = "__metadata__"
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class WeightsError(SyshaxError):
    """A checkpoint can't be quantised; the message says why, and what is offered instead."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    dtype: str
    """As safetensors names it, such as `BF16`."""
    shape: tuple[int, ...]
    offset: int = 0
    """Of its first byte in the file."""

    @property
    def items(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.items * _ITEM_BYTES[self.dtype]


def parse_header(name: str, text: bytes, file_bytes: int) -> tuple[Tensor, ...]:
    """Returns the tensors of a file, in the order of their data.

    Args:
        name: Of the file, for messages.
        text: The header, without its length.
        file_bytes: Size of the whole file.

    Raises:
        WeightsError: It is no such header, or the file is not whole.
    """
    start = LENGTH_BYTES + len(text)
    try:
        content = jsontext.loads(text)
        tensors = [
            Tensor(key, its["dtype"], tuple(map(int, its["shape"])), start + int(its["data_offsets"][0]))
            for key, its in content.items()
            if key != _METADATA
        ]
        ends = {key: start + int(its["data_offsets"][1]) for key, its in content.items() if key != _METADATA}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{name} has no header as safetensors files have: {error!r}; copy it again") from None
    for tensor in tensors:
        if tensor.dtype not in _ITEM_BYTES:
            raise WeightsError(f"{name}: {tensor.name} is of {tensor.dtype}, a type that is not known")
        if tensor.offset < start or tensor.offset + tensor.bytes != ends[tensor.name] or ends[tensor.name] > file_bytes:
            raise WeightsError(f"{name}: the data of {tensor.name} are not where its header says; copy it again")
    return tuple(sorted(tensors, key=lambda tensor: (tensor.offset, tensor.name)))


def header(tensors: Sequence[Tensor]) -> tuple[bytes, tuple[Tensor, ...]]:
    """Returns the first bytes of a file with these tensors, in this order, and the tensors with their offsets."""
    content: dict[str, object] = {_METADATA: {"format": "pt"}}
    at = 0
    for tensor in tensors:
        content[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    start = LENGTH_BYTES + len(text)
    placed = []
    for tensor in tensors:
        placed.append(Tensor(tensor.name, tensor.dtype, tensor.shape, start))
        start += tensor.bytes
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, tuple(placed)
