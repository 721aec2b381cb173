# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A rank's paged KV cache, from which hand-overs are read and into which they are written.

On a GPU (FlashAttention's family) a token's K and V stand side by side. On a CPU each block holds its K first, then its
V, both packed for the instruction set: `vec` transposes K, `amx` and `neon` pack both. vLLM can only write that.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch

from .layout import Packed, UnknownPackingError, packing_of
from .stored import INTEGERS, Stored, strided

_DIGIT = 256
"""bfloat16 holds whole numbers up to here exactly."""
_LONGEST_ROW = 1 << 14
"""Numbers: PyTorch shares rows out between its threads if they are short. Of longer ones (from 1 << 15) it copies one
after the other, each with all threads, and waits for them each time."""


class RankCache(Protocol):
    """All layers of one rank."""

    @property
    def packed(self) -> Packed | None:
        """How `read` leaves the numbers; None: plain."""

    def read(self, blocks: Sequence[int], out: Stored) -> None:
        """Copies a request's first tokens into `out`."""

    def write(self, blocks: Sequence[int], start: int, stop: int, stored: Stored, first_head: int) -> None:
        """Copies the stored tokens from `start` to `stop` into a request."""


class RowCache:
    """Caches whose tokens are rows: `[blocks, kv_heads, block_size, 2 * head_size]`, however they stride."""

    packed = None

    def __init__(self, caches: Sequence[torch.Tensor], block_size: int) -> None:
        """Views the caches.

        Args:
            caches: As vLLM registers them, by layer.
            block_size: Of the scheduler's blocks; a multiple of the cache's own.
        """
        self._caches = caches
        self._block_size = block_size

    def read(self, blocks: Sequence[int], out: Stored) -> None:
        """See `RankCache`."""
        heads, _, tokens, head_size = out.data.shape[1:]
        index, offset = self._slots(blocks, 0, tokens)
        for cache, plain in zip(self._caches, out.data, strict=True):
            rows = cache[index, :, offset].view(tokens, heads, 2, head_size)
            plain.copy_(rows.permute(1, 2, 0, 3).contiguous(), non_blocking=True)

    def write(self, blocks: Sequence[int], start: int, stop: int, stored: Stored, first_head: int) -> None:
        """See `RankCache`."""
        index, offset = self._slots(blocks, start, stop)
        for cache, plain in zip(self._caches, stored.plain(self._caches[0].device), strict=True):
            rows = plain[:, :, start:stop].permute(2, 0, 1, 3)
            cache[index, first_head : first_head + len(plain), offset] = rows.flatten(2)

    def _slots(self, blocks: Sequence[int], start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.arange(start, stop)
        slots = torch.tensor(blocks)[tokens // self._block_size] * self._block_size + tokens % self._block_size
        slots = slots.to(self._caches[0].device, non_blocking=True)
        own = self._caches[0].shape[2]
        return slots // own, slots % own


class PackedCache:
    """CPU caches: their blocks are handed over as they are, and others' numbers packed as vLLM does it."""

    def __init__(self, caches: Sequence[torch.Tensor], isa: str) -> None:
        """Learns the packing.

        Args:
            caches: `[blocks, kv_heads, block_size, 2 * head_size]` as vLLM registers them, by layer.
            isa: For which instruction set K and V are packed, as vLLM calls it.

        Raises:
            UnknownPackingError: This CPU's packing cannot be expressed by strides.
        """
        self._caches = caches
        self._isa = isa
        self._block_size, head_size = caches[0].shape[2], caches[0].shape[3] // 2
        if any(cache.stride() != caches[0].stride() for cache in caches):
            raise UnknownPackingError("the layers' KV caches differ in memory layout")
        self._row = 2 * head_size * self._block_size
        while self._row > _LONGEST_ROW or caches[0].stride(0) % self._row:
            self._row //= 2
        self.packed = learn_packed(caches[0].dtype, self._block_size, head_size, isa)

    def read(self, blocks: Sequence[int], out: Stored) -> None:
        """See `RankCache`."""
        any_cache, row = self._caches[0], self._row
        first_rows = torch.tensor(blocks[: out.data.shape[1]]) * (any_cache.stride(0) // row)
        index = (first_rows[:, None] + torch.arange(any_cache[0].numel() // row)).flatten()
        reach = int(index.max()) + 1
        for cache, copied in zip(self._caches, out.data, strict=True):
            torch.index_select(cache.as_strided((reach, row), (row, 1)), 0, index, out=copied.view(-1, row))

    def write(self, blocks: Sequence[int], start: int, stop: int, stored: Stored, first_head: int) -> None:
        """See `RankCache`."""
        heads = slice(first_head, first_head + stored.heads.stop - stored.heads.start)
        if stored.packed == self.packed and start % self._block_size == 0:
            first, last = start // self._block_size, -(-stop // self._block_size)
            for cache, copied in zip(self._caches, stored.data, strict=True):
                for number in range(first, last):  # three times as fast as index_copy_
                    cache[blocks[number], heads].copy_(copied[number, stored.heads])
            return
        plain = stored.plain(torch.device("cpu"))
        if len(self.packed.k.tokens) == len(self.packed.v.tokens) == 1:
            self._write_strided(blocks, start, stop, plain, heads)
            return
        tokens = torch.arange(start, stop)
        slots = torch.tensor(blocks)[tokens // self._block_size] * self._block_size + tokens % self._block_size
        for cache, layer in zip(self._caches, plain, strict=True):
            k, v = (layer[:, kind, start:stop].transpose(0, 1) for kind in range(2))
            _vllm_writes(cache[:, heads], k, v, slots, self._isa)

    def _write_strided(
        self, blocks: Sequence[int], start: int, stop: int, plain: Iterable[torch.Tensor], heads: slice
    ) -> None:
        """Up to twice as quick as vLLM's own operation, where a block's tokens stand in one row."""
        size = self._block_size
        for cache, layer in zip(self._caches, plain, strict=True):
            for kind, packing in enumerate((self.packed.k, self.packed.v)):
                packed = strided(cache, kind, packing, layer.element_size())
                bits = layer[:, kind].view(INTEGERS[layer.element_size()])
                part = bits.unflatten(2, [digit.size for digit in packing.dims])
                for number in range(start // size, -(-stop // size)):
                    first, last = max(start, number * size), min(stop, (number + 1) * size)
                    target = packed[heads, blocks[number], first - number * size : last - number * size]
                    target.copy_(part[:, first:last])


def rank_cache(layers: Sequence[Any], caches: Sequence[torch.Tensor], block_size: int) -> RankCache:
    """Returns access to a rank's cache.

    Args:
        layers: vLLM's attention layers.
        caches: As vLLM registers them: `[blocks, kv_heads, block_size, 2 * head_size]`.
        block_size: Of the scheduler's blocks.

    Raises:
        UnknownPackingError: This CPU's packing is no matter of strides, or not told.
    """
    if caches[0].device.type != "cpu":
        return RowCache(caches, block_size)
    # vLLM 0.26 keeps it on the layer's implementation, later ones on the layer.
    isa = getattr(layers[0], "isa", None) or getattr(layers[0].impl, "isa", None)
    if isa is None:
        raise UnknownPackingError("this version of vLLM does not report how its CPU backend packs K and V")
    if caches[0].shape[2] != block_size:
        raise UnknownPackingError(
            f"blocks of {caches[0].shape[2]} tokens in the CPU's cache, of {block_size} in vLLM's book"
        )
    return PackedCache(caches, isa)


_learnt: dict[tuple[torch.dtype, int, int, str], Packed] = {}


def learn_packed(dtype: torch.dtype, block_size: int, head_size: int, isa: str) -> Packed:
    """Finds how this CPU packs K and V, by looking where vLLM's own writer puts numbered values."""
    found = _learnt.get(known := (dtype, block_size, head_size, isa))
    if found is None:
        numbers = block_size * head_size
        sources = torch.zeros(2, numbers, dtype=torch.int64)
        weight = 1
        while weight < numbers:
            digit = torch.arange(numbers) // weight % _DIGIT
            for kind, packed in enumerate(_packed(digit, dtype, block_size, head_size, isa)):
                sources[kind] += packed.flatten().to(torch.int64) * weight
            weight *= _DIGIT
        k, v = (packing_of(source.argsort().view(block_size, head_size).tolist()) for source in sources)
        found = _learnt[known] = Packed(block_size, k, v)
    return found


def _packed(values: torch.Tensor, dtype: torch.dtype, block_size: int, head_size: int, isa: str) -> tuple[Any, ...]:
    rows = values.to(dtype).view(block_size, 1, head_size)
    block = torch.zeros(1, 1, block_size, 2 * head_size, dtype=dtype)
    return _vllm_writes(block, rows, rows.clone(), torch.arange(block_size), isa)


def _vllm_writes(
    cache: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor, isa: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Has vLLM write `[tokens, heads, head_size]`; returns the packed K and V of all blocks."""
    from vllm import _custom_ops as ops  # noqa: PLC0415 - it loads the CPU's kernels

    blocks, heads, block_size, width = cache.shape
    shape, strides = (blocks, heads, block_size, width // 2), (*cache.stride()[:2], width // 2, 1)
    keys = cache.as_strided(shape, strides, cache.storage_offset())
    values = cache.as_strided(shape, strides, cache.storage_offset() + block_size * width // 2)
    ops.cpu_attn_reshape_and_cache(k, v, keys, values, slots, isa)
    return keys, values
