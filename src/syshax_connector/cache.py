# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A rank's paged KV cache, read and written as plain numbers `[layers, kv_heads, 2, tokens, head_size]`, K before V.

On a GPU (FlashAttention's family) a token's K and V stand side by side. On a CPU each block holds its K first, then its
V, both packed for the instruction set: `vec` transposes K, `amx` and `neon` pack both. vLLM can only write that.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .layout import Digit, Packing, UnknownPackingError, packing_of

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
    """CPU caches: written by vLLM's own operation, read through strides as if they were not packed."""

    def __init__(self, caches: Sequence[torch.Tensor], isa: str) -> None:
        """Learns the packing.

        Args:
            caches: `[blocks, kv_heads, block_size, 2 * head_size]` as vLLM registers them, by layer.
            isa: For which instruction set K and V are packed, as vLLM calls it.

        Raises:
            UnknownPackingError: This CPU's packing is no matter of strides.
        """
        self._caches = caches
        self._isa = isa
        self._block_size, self._head_size = caches[0].shape[2], caches[0].shape[3] // 2
        self._packings = learn_packings(caches[0].dtype, self._block_size, self._head_size, isa)

    def read(self, blocks: Sequence[int], out: torch.Tensor) -> None:
        """See `RankCache`."""
        tokens = out.shape[3]
        index = torch.tensor(blocks[: -(-tokens // self._block_size)])
        for cache, plain in zip(self._caches, out, strict=True):
            # One more copy, but at memory speed: then few large operations do the rest, wherever the blocks are.
            gathered = cache.index_select(0, index)
            for kind, packing in enumerate(self._packings):
                self._unpack(gathered, kind, packing, plain[:, kind])

    def write(self, blocks: Sequence[int], start: int, stop: int, plain: torch.Tensor, first_head: int) -> None:
        """See `RankCache`."""
        heads = slice(first_head, first_head + plain.shape[1])
        if all(len(packing.tokens) == 1 for packing in self._packings):
            self._write_strided(blocks, start, stop, plain, heads)
            return
        tokens = torch.arange(start, stop)
        slots = torch.tensor(blocks)[tokens // self._block_size] * self._block_size + tokens % self._block_size
        for cache, layer in zip(self._caches, plain, strict=True):
            k, v = (layer[:, kind, start:stop].transpose(0, 1) for kind in range(2))
            _vllm_writes(cache[:, heads], k, v, slots, self._isa)

    def _write_strided(self, blocks: Sequence[int], start: int, stop: int, plain: torch.Tensor, heads: slice) -> None:
        """Up to twice as quick as vLLM's own operation, where a block's tokens stand in one row."""
        size = self._block_size
        for cache, layer in zip(self._caches, plain.view(_INTEGERS[plain.element_size()]), strict=True):
            for kind, packing in enumerate(self._packings):
                packed = _strided(cache, kind, packing, layer.element_size())
                part = layer[:, kind].unflatten(2, [digit.size for digit in packing.dims])
                for number in range(start // size, -(-stop // size)):
                    first, last = max(start, number * size), min(stop, (number + 1) * size)
                    target = packed[heads, blocks[number], first - number * size : last - number * size]
                    target.copy_(part[:, first:last])

    def _unpack(self, gathered: torch.Tensor, kind: int, packing: Packing, plain: torch.Tensor) -> None:
        """Copies K or V of whole blocks `[blocks, kv_heads, ...]` to `[kv_heads, tokens, head_size]`."""
        item_bytes = gathered.element_size()
        if item_bytes == 2 and packing.dims[-1] == Digit(2, 1):  # pairs stay together: half as many, twice as wide
            packing, item_bytes = packing.in_pairs(), 4
        packed = _strided(gathered, kind, packing, item_bytes)
        target = plain.view(_INTEGERS[item_bytes]).unflatten(2, [digit.size for digit in packing.dims])
        whole, rest = divmod(plain.shape[1], self._block_size)
        if whole:
            sizes = [whole, *(digit.size for digit in packing.tokens)]
            target[:, : whole * self._block_size].unflatten(1, sizes).copy_(packed[:, :whole])
        if rest:
            last = packed[:, whole].flatten(1, len(packing.tokens))
            target[:, whole * self._block_size :].copy_(last[:, :rest])


def _strided(cache: torch.Tensor, kind: int, packing: Packing, item_bytes: int) -> torch.Tensor:
    """K or V of a cache, as `[kv_heads, blocks, digits of the tokens, digits of the dims]`."""
    bits = cache.view(_INTEGERS[item_bytes])
    digits = (*packing.tokens, *packing.dims)
    return bits.as_strided(
        (bits.shape[1], bits.shape[0], *(digit.size for digit in digits)),
        (bits.stride(1), bits.stride(0), *(digit.stride for digit in digits)),
        bits.storage_offset() + kind * bits.shape[2] * bits.shape[3] // 2,
    )


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
        raise UnknownPackingError("this version of vLLM does not tell how its CPU backend packs K and V")
    if caches[0].shape[2] != block_size:
        raise UnknownPackingError(
            f"blocks of {caches[0].shape[2]} tokens in the CPU's cache, of {block_size} in vLLM's book"
        )
    return PackedCache(caches, isa)


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
