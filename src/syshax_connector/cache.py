# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One layer's paged KV cache, read and written as plain rows `[tokens, kv_heads, 2, head_size]`, K before V.

On a GPU (FlashAttention's family) a token's K and V stand side by side. On a CPU each block holds its K first, then its
V, both packed for the instruction set: `vec` transposes K, `amx` and `neon` pack both. vLLM can only write that.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .layout import Packing, block_runs, packing_of

_DIGIT = 256
"""bfloat16 holds whole numbers up to here exactly."""
_TEMPORARY_BYTES = 2 << 20
"""Of one transposition; it should stay in the processor's cache."""
_INTEGERS = {2: torch.int16, 4: torch.int32}
"""To move bits: PyTorch copies integers with wider instructions than it does bfloat16."""


class LayerCache(Protocol):
    """One layer of one rank."""

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """Copies a request's first tokens into `out`, `[tokens, kv_heads, 2, head_size]`."""

    def write(self, blocks: Sequence[int], start: int, rows: torch.Tensor, first_head: int) -> None:
        """Copies `rows`, `[tokens, heads, 2, head_size]`, to a request's tokens from `start` on."""


class RowCache:
    """A cache whose tokens are rows: `[blocks, kv_heads, block_size, 2 * head_size]`, however it strides."""

    def __init__(self, cache: torch.Tensor, block_size: int) -> None:
        """Views the cache.

        Args:
            cache: As vLLM registers it.
            block_size: Of the scheduler's blocks; a multiple of the cache's own.
        """
        self._cache = cache
        self._block_size = block_size

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """See `LayerCache`."""
        index, offset = self._slots(blocks, 0, out.shape[0])
        out.copy_(self._cache[index, :, offset].view(out.shape), non_blocking=True)

    def write(self, blocks: Sequence[int], start: int, rows: torch.Tensor, first_head: int) -> None:
        """See `LayerCache`."""
        index, offset = self._slots(blocks, start, start + rows.shape[0])
        tokens, heads = rows.shape[:2]
        values = rows.to(self._cache.device, non_blocking=True).reshape(tokens, heads, -1)
        self._cache[index, first_head : first_head + heads, offset] = values

    def _slots(self, blocks: Sequence[int], start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.arange(start, stop)
        slots = torch.tensor(blocks)[tokens // self._block_size] * self._block_size + tokens % self._block_size
        slots = slots.to(self._cache.device, non_blocking=True)
        own = self._cache.shape[2]
        return slots // own, slots % own


class PackedCache:
    """A CPU cache, seen through strides as if it were not packed."""

    def __init__(self, cache: torch.Tensor, packings: tuple[Packing, Packing]) -> None:
        """Views the cache.

        Args:
            cache: `[blocks, kv_heads, block_size, 2 * head_size]` as vLLM registers it.
            packings: Of K and of V.
        """
        blocks, heads, self._block_size, width = cache.shape
        self._head_size = width // 2
        bits = cache.view(_INTEGERS[cache.element_size()])
        self._views = []
        for kind, packing in enumerate(packings):
            digits = (*packing.tokens, *packing.dims)
            self._views.append(
                bits.as_strided(
                    (blocks, heads, *(digit.size for digit in digits)),
                    (cache.stride(0), cache.stride(1), *(digit.stride for digit in digits)),
                    bits.storage_offset() + kind * self._block_size * self._head_size,
                )
            )
        self._plain = [len(packing.tokens) == len(packing.dims) == packing.dims[-1].stride == 1 for packing in packings]
        self._most = max(1, _TEMPORARY_BYTES // (heads * self._block_size * self._head_size * cache.element_size()))

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """See `LayerCache`."""
        out = out.view(_INTEGERS[out.element_size()])
        for run in block_runs(blocks, self._block_size, 0, out.shape[0], self._most):
            for kind, view in enumerate(self._views):
                packed = view[run.block : run.block + run.count]
                rows = self._rows(out[run.start : run.stop, :, kind], run.count)
                unpacked = packed if self._plain[kind] else self._unpack(packed)
                rows.copy_(unpacked[:, :, run.offset : run.offset + rows.shape[2]])

    def write(self, blocks: Sequence[int], start: int, rows: torch.Tensor, first_head: int) -> None:
        """See `LayerCache`."""
        source = rows.view(_INTEGERS[rows.element_size()])
        heads = slice(first_head, first_head + rows.shape[1])
        for run in block_runs(blocks, self._block_size, start, start + rows.shape[0], self._most):
            for kind, view in enumerate(self._views):
                packed = view[run.block : run.block + run.count, heads]
                part = self._rows(source[run.start - start : run.stop - start, :, kind], run.count)
                if self._plain[kind]:
                    packed[:, :, run.offset : run.offset + part.shape[2]].copy_(part)
                elif part.shape[2] == self._block_size:
                    packed.copy_(part.contiguous().view(packed.shape))
                else:  # the rest of the block stays as it is
                    unpacked = self._unpack(packed)
                    unpacked[:, :, run.offset : run.offset + part.shape[2]].copy_(part)
                    packed.copy_(unpacked.view(packed.shape))

    def _unpack(self, packed: torch.Tensor) -> torch.Tensor:
        return packed.contiguous().view(*packed.shape[:2], self._block_size, self._head_size)

    def _rows(self, rows: torch.Tensor, blocks: int) -> torch.Tensor:
        """`[tokens, heads, head_size]` as `[blocks, heads, tokens of a block, head_size]`."""
        return rows.unflatten(0, (blocks, -1)).transpose(1, 2)


def layer_cache(layer: Any, cache: torch.Tensor, block_size: int) -> LayerCache:
    """Returns access to a layer's cache.

    Args:
        layer: vLLM's attention layer.
        cache: As vLLM registers it: `[blocks, kv_heads, block_size, 2 * head_size]`.
        block_size: Of the scheduler's blocks.

    Raises:
        UnknownPackingError: This CPU's packing is no matter of strides.
    """
    isa = getattr(layer, "isa", None)
    if cache.device.type != "cpu" or isa is None:
        return RowCache(cache, block_size)
    return PackedCache(cache, learn_packings(cache.dtype, cache.shape[2], cache.shape[3] // 2, isa))


_learnt: dict[tuple[torch.dtype, int, int, str], tuple[Packing, Packing]] = {}


def learn_packings(dtype: torch.dtype, block_size: int, head_size: int, isa: str) -> tuple[Packing, Packing]:
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
        places = [source.argsort().view(block_size, head_size).tolist() for source in sources]
        found = _learnt[known] = packing_of(places[0]), packing_of(places[1])
    return found


def _packed(values: torch.Tensor, dtype: torch.dtype, block_size: int, head_size: int, isa: str) -> tuple[Any, ...]:
    from vllm import _custom_ops as ops  # noqa: PLC0415 - it loads the CPU's kernels

    rows = values.to(dtype).view(block_size, 1, head_size)
    block = torch.zeros(1, 1, 2 * block_size, head_size, dtype=dtype)
    keys, values = block.chunk(2, dim=2)
    ops.cpu_attn_reshape_and_cache(rows, rows.clone(), keys, values, torch.arange(block_size), isa)
    return keys, values
