# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A rank's paged KV cache, read and written as plain numbers `[layers, kv_heads, 2, tokens, head_size]`, K before V.

On a GPU (FlashAttention's family) a token's K and V stand side by side. On a CPU each block holds its K first, then its
V, both packed for the instruction set: `vec` transposes K, `amx` and `neon` pack both. vLLM can only write that.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .layout import Packing, UnknownPackingError, block_runs, packing_of

_DIGIT = 256
"""bfloat16 holds whole numbers up to here exactly."""
_INTEGERS = {2: torch.int16, 4: torch.int32}
"""To move bits: PyTorch copies integers with wider instructions than it does bfloat16."""


class RankCache(Protocol):
    """All layers of one rank."""

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """Copies a request's first tokens into `out`, `[layers, kv_heads, 2, tokens, head_size]`."""

    def write(self, blocks: Sequence[int], start: int, stop: int, plain: torch.Tensor, first_head: int) -> None:
        """Copies tokens of `plain`, `[layers, heads, 2, tokens, head_size]`, from `start` to `stop` into a request."""


class RowCache:
    """Caches whose tokens are rows: `[blocks, kv_heads, block_size, 2 * head_size]`, however they stride."""

    def __init__(self, caches: Sequence[torch.Tensor], block_size: int) -> None:
        """Views the caches.

        Args:
            caches: As vLLM registers them, by layer.
            block_size: Of the scheduler's blocks; a multiple of the cache's own.
        """
        self._caches = caches
        self._block_size = block_size

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """See `RankCache`."""
        heads, _, tokens, head_size = out.shape[1:]
        index, offset = self._slots(blocks, 0, tokens)
        for cache, plain in zip(self._caches, out, strict=True):
            rows = cache[index, :, offset].view(tokens, heads, 2, head_size)
            plain.copy_(rows.permute(1, 2, 0, 3).contiguous(), non_blocking=True)

    def write(self, blocks: Sequence[int], start: int, stop: int, plain: torch.Tensor, first_head: int) -> None:
        """See `RankCache`."""
        index, offset = self._slots(blocks, start, stop)
        heads = plain.shape[1]
        for cache, layer in zip(self._caches, plain, strict=True):
            # All of it crosses the bus, in one piece; what is wanted is cut out behind it.
            rows = layer.to(cache.device, non_blocking=True)[:, :, start:stop].permute(2, 0, 1, 3)
            cache[index, first_head : first_head + heads, offset] = rows.flatten(2)

    def _slots(self, blocks: Sequence[int], start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.arange(start, stop)
        slots = torch.tensor(blocks)[tokens // self._block_size] * self._block_size + tokens % self._block_size
        slots = slots.to(self._caches[0].device, non_blocking=True)
        own = self._caches[0].shape[2]
        return slots // own, slots % own


class PackedCache:
    """CPU caches, seen through strides as if they were not packed."""

    def __init__(self, caches: Sequence[torch.Tensor], packings: tuple[Packing, Packing]) -> None:
        """Views the caches.

        Args:
            caches: `[blocks, kv_heads, block_size, 2 * head_size]` as vLLM registers them, by layer.
            packings: Of K and of V.
        """
        self._block_size = caches[0].shape[2]
        self._head_size = caches[0].shape[3] // 2
        self._packings = packings
        self._views = [[self._view(cache, kind) for kind in range(2)] for cache in caches]

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """See `RankCache`."""
        tokens = out.shape[3]
        runs = list(block_runs(blocks, self._block_size, 0, tokens))
        for views, plain in zip(self._views, out.view(_INTEGERS[out.element_size()]), strict=True):
            for run in runs:
                for kind, view in enumerate(views):
                    packed = view[:, run.block : run.block + run.count]
                    part = plain[:, kind, run.start : run.stop]
                    if part.shape[1] == run.count * self._block_size:
                        self._digits(part, kind, run.count).copy_(packed)
                    else:
                        part.copy_(self._unpack(packed)[:, run.offset : run.offset + part.shape[1]])

    def write(self, blocks: Sequence[int], start: int, stop: int, plain: torch.Tensor, first_head: int) -> None:
        """See `RankCache`."""
        runs = list(block_runs(blocks, self._block_size, start, stop))
        heads = slice(first_head, first_head + plain.shape[1])
        for views, layer in zip(self._views, plain.view(_INTEGERS[plain.element_size()]), strict=True):
            for run in runs:
                for kind, view in enumerate(views):
                    packed = view[heads, run.block : run.block + run.count]
                    part = layer[:, kind, run.start : run.stop]
                    if part.shape[1] == run.count * self._block_size:
                        packed.copy_(self._digits(part, kind, run.count))
                    else:  # the rest of the block stays as it is
                        unpacked = self._unpack(packed)
                        unpacked[:, run.offset : run.offset + part.shape[1]].copy_(part)
                        packed.copy_(unpacked.view(packed.shape))

    def _view(self, cache: torch.Tensor, kind: int) -> torch.Tensor:
        """`[kv_heads, blocks, digits of the tokens, digits of the dims]`."""
        packing = self._packings[kind]
        digits = (*packing.tokens, *packing.dims)
        bits = cache.view(_INTEGERS[cache.element_size()])
        return bits.as_strided(
            (cache.shape[1], cache.shape[0], *(digit.size for digit in digits)),
            (cache.stride(1), cache.stride(0), *(digit.stride for digit in digits)),
            bits.storage_offset() + kind * self._block_size * self._head_size,
        )

    def _digits(self, plain: torch.Tensor, kind: int, blocks: int) -> torch.Tensor:
        """Whole blocks' `[heads, tokens, head_size]` in the shape of the packed view."""
        packing = self._packings[kind]
        by_dim = plain.unflatten(2, [digit.size for digit in packing.dims])
        return by_dim.unflatten(1, [blocks, *(digit.size for digit in packing.tokens)])

    def _unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """A copy of one block as `[heads, block_size, head_size]`."""
        copy = packed.clone(memory_format=torch.contiguous_format)
        return copy.view(packed.shape[0], self._block_size, self._head_size)


def rank_cache(layers: Sequence[Any], caches: Sequence[torch.Tensor], block_size: int) -> RankCache:
    """Returns access to a rank's cache.

    Args:
        layers: vLLM's attention layers.
        caches: As vLLM registers them: `[blocks, kv_heads, block_size, 2 * head_size]`.
        block_size: Of the scheduler's blocks.

    Raises:
        UnknownPackingError: This CPU's packing is no matter of strides.
    """
    if caches[0].device.type != "cpu":
        return RowCache(caches, block_size)
    # vLLM 0.26 keeps it on the layer's implementation, later ones on the layer.
    isa = getattr(layers[0], "isa", None) or getattr(layers[0].impl, "isa", None)
    if isa is None:
        raise UnknownPackingError("this version of vLLM does not tell how its CPU backend packs K and V")
    return PackedCache(caches, learn_packings(caches[0].dtype, caches[0].shape[2], caches[0].shape[3] // 2, isa))


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
