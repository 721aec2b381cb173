# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One rank's share of a hand-over as a tensor, as its producer left it; whoever loads it makes it its own way."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from .layout import Digit, Packed, Packing

INTEGERS = {2: torch.int16, 4: torch.int32}
"""To move bits: PyTorch copies integers with wider instructions than it does bfloat16."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The numbers of some KV heads."""

    data: torch.Tensor
    """`[layers, kv_heads, 2, tokens, head_size]`; packed: `[layers, blocks, kv_heads, block_size, 2 * head_size]`."""
    tokens: int
    packed: Packed | None
    """None: they are plain."""
    heads: slice
    """Which of the heads in `data`."""

    @property
    def size_bytes(self) -> int:
        """Of all heads."""
        return self.data.numel() * self.data.element_size()

    def of_heads(self, first: int, count: int) -> "Stored":
        """Some of the heads."""
        return replace(self, heads=slice(self.heads.start + first, self.heads.start + first + count))

    def plain(self, device: torch.device) -> Iterator[torch.Tensor]:
        """Layer by layer `[kv_heads, 2, tokens, head_size]` on the device."""
        for layer in self.data:
            if self.packed is None:
                yield layer[self.heads].to(device, non_blocking=True)
            else:  # it crosses the bus in one piece, and is put in order behind it
                yield _unpacked(layer.to(device, non_blocking=True), self.packed, self.tokens)[self.heads]


def _unpacked(blocks: torch.Tensor, packed: Packed, tokens: int) -> torch.Tensor:
    """`[blocks, kv_heads, block_size, 2 * head_size]` as `[kv_heads, 2, tokens, head_size]`."""
    heads, head_size = blocks.shape[1], blocks.shape[3] // 2
    plain = torch.empty(heads, 2, tokens, head_size, dtype=blocks.dtype, device=blocks.device)
    for kind, packing in enumerate((packed.k, packed.v)):
        _unpack(blocks, kind, packing, plain[:, kind])
    return plain


def _unpack(blocks: torch.Tensor, kind: int, packing: Packing, plain: torch.Tensor) -> None:
    """Copies K or V of whole blocks to `[kv_heads, tokens, head_size]`."""
    item_bytes, block_size = blocks.element_size(), blocks.shape[2]
    if item_bytes == 2 and packing.dims[-1] == Digit(2, 1):  # pairs stay together: half as many, twice as wide
        packing, item_bytes = packing.in_pairs(), 4
    source = strided(blocks, kind, packing, item_bytes)
    target = plain.view(INTEGERS[item_bytes]).unflatten(2, [digit.size for digit in packing.dims])
    whole, rest = divmod(plain.shape[1], block_size)
    if whole:
        sizes = [whole, *(digit.size for digit in packing.tokens)]
        target[:, : whole * block_size].unflatten(1, sizes).copy_(source[:, :whole])
    if rest:
        last = source[:, whole].flatten(1, len(packing.tokens))
        target[:, whole * block_size :].copy_(last[:, :rest])


def strided(blocks: torch.Tensor, kind: int, packing: Packing, item_bytes: int) -> torch.Tensor:
    """K or V of blocks, as integers `[kv_heads, blocks, digits of the tokens, digits of the dims]`."""
    bits = blocks.view(INTEGERS[item_bytes])
    digits = (*packing.tokens, *packing.dims)
    return bits.as_strided(
        (bits.shape[1], bits.shape[0], *(digit.size for digit in digits)),
        (bits.stride(1), bits.stride(0), *(digit.stride for digit in digits)),
        bits.storage_offset() + kind * bits.shape[2] * bits.shape[3] // 2,
    )
