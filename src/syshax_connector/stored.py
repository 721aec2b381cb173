# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One rank's share of a hand-over as a tensor, as its producer left it; the instance that loads it converts it."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from .layout import Digit, Packed, Packing

INTEGERS = {2: torch.int16, 4: torch.int32}
"""To move bits: PyTorch copies integers with wider instructions than it does bfloat16."""
_ROW_WORDS = 512
_TOGETHER_BYTES = 32 << 20
"""Of layers that are put in order on a GPU at once. It takes as much of its memory again."""


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
        if self.packed is None:
            for layer in self.data:
                yield layer[self.heads].to(device, non_blocking=True)
            return
        # A small layer takes a GPU less time than telling it what to do; a CPU's caches hold one, but not many.
        layer_bytes = self.size_bytes // len(self.data)
        together = 1 if device.type == "cpu" else max(1, _TOGETHER_BYTES // layer_bytes)
        for layers in self.data.split(together):  # they cross the bus in one piece, and are put in order behind it
            moved = layers.to(device, non_blocking=True)
            yield from unpacked(moved, self.packed, self.tokens)[:, self.heads]


def unpacked(layers: torch.Tensor, packed: Packed, tokens: int) -> torch.Tensor:
    """`[layers, blocks, kv_heads, block_size, 2 * head_size]` as `[layers, kv_heads, 2, tokens, head_size]`."""
    count, _, heads, _, width = layers.shape
    plain = torch.empty(count, heads, 2, tokens, width // 2, dtype=layers.dtype, device=layers.device)
    for kind, packing in enumerate((packed.k, packed.v)):
        _unpack(layers, kind, packing, plain[:, :, kind])
    return plain


def _unpack(layers: torch.Tensor, kind: int, packing: Packing, plain: torch.Tensor) -> None:
    """Copies K or V of whole blocks to `[layers, kv_heads, tokens, head_size]`."""
    item_bytes, block_size = layers.element_size(), layers.shape[3]
    if item_bytes == 2 and packing.dims[-1] == Digit(2, 1):  # pairs stay together: half as many, twice as wide
        packing, item_bytes = packing.in_pairs(), 4
    source = strided(layers, kind, packing, item_bytes)
    target = plain.view(INTEGERS[item_bytes]).unflatten(3, [digit.size for digit in packing.dims])
    whole, rest = divmod(plain.shape[2], block_size)
    if whole:
        sizes = [whole, *(digit.size for digit in packing.tokens)]
        target[:, :, : whole * block_size].unflatten(2, sizes).copy_(source[:, :, :whole])
    if rest:
        last = source[:, :, whole].flatten(2, 1 + len(packing.tokens))
        target[:, :, whole * block_size :].copy_(last[:, :, :rest])


def strided(blocks: torch.Tensor, kind: int, packing: Packing, item_bytes: int) -> torch.Tensor:
    """K or V of `[..., blocks, kv_heads, block_size, 2 * head_size]`, with the packing's digits told apart.

    Returns:
        Integers `[..., kv_heads, blocks, digits of the tokens, digits of the dims]`.
    """
    bits = blocks.view(INTEGERS[item_bytes])
    digits = (*packing.tokens, *packing.dims)
    *outer, count, heads, block_size, width = bits.shape
    *outer_strides, block_stride, head_stride, _, _ = bits.stride()
    return bits.as_strided(
        (*outer, heads, count, *(digit.size for digit in digits)),
        (*outer_strides, head_stride, block_stride, *(digit.stride for digit in digits)),
        bits.storage_offset() + kind * block_size * width // 2,
    )


def checksum(memory: mmap.mmap | bytearray, offset: int, size: int) -> int:
    """Sums up bytes, in rows that count an odd number of times, each another one.

    It detects each changed word: an even number would lose the highest bits. It detects overwriting, truncation and
    reordering almost certainly, but not words that change places within a row. It is not a signature. PyTorch's threads
    do it at about the speed of memory, several times as quick as CRC-32.
    """
    words, rest = divmod(size, 8)
    numbers = torch.frombuffer(memory, dtype=torch.int64, count=words, offset=offset)
    whole = words // _ROW_WORDS * _ROW_WORDS
    sums = torch.cat((numbers[:whole].view(-1, _ROW_WORDS).sum(1), numbers[whole:].sum(0, keepdim=True)))
    total = int((sums * torch.arange(3, 2 * len(sums) + 3, 2)).sum())
    return total ^ int.from_bytes(memory[offset + size - rest : offset + size], "little")
