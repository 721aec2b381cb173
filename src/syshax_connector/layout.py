# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where a token's K and V stand: in a hand-over, in a rank's share of the heads, in a packed block. Pure.

A hand-over's bytes, per tensor-parallel rank of the producer, are plain numbers `[layers, kv_heads, 2, tokens,
head_size]`, K before V, or whole blocks `[layers, blocks, kv_heads, block_size, 2 * head_size]` as a CPU packs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Shape:
    """One model's KV cache, all ranks together."""

    layers: int
    kv_heads: int
    head_size: int
    item_bytes: int
    """Bytes of one number."""

    def rank_heads(self, ranks: int) -> int:
        """KV heads of each tensor-parallel rank; with more ranks than heads, some hold the same head."""
        return max(1, self.kv_heads // ranks)

    def rank_bytes(self, tokens: int, ranks: int) -> int:
        """Bytes of a hand-over in each rank's arena."""
        return self.layers * tokens * self.rank_heads(ranks) * 2 * self.head_size * self.item_bytes


@dataclass(frozen=True, slots=True)
class HeadCopy:
    """Heads that a consumer's rank takes from one of the producer's ranks; `count` of them, beginning at..."""

    producer_rank: int
    source: int
    target: int
    count: int


def first_head(kv_heads: int, ranks: int, rank: int) -> int:
    """The first KV head of a tensor-parallel rank, as vLLM spreads them."""
    return rank * kv_heads // ranks


def head_copies(kv_heads: int, producer_ranks: int, consumer_ranks: int, rank: int) -> list[HeadCopy]:
    """Where a consumer's rank finds its heads.

    Args:
        kv_heads: Of the model.
        producer_ranks: Tensor-parallel size of the engine that saved.
        consumer_ranks: Of the engine that loads.
        rank: The consumer's own rank.
    """
    own = max(1, kv_heads // consumer_ranks)
    per_producer = max(1, kv_heads // producer_ranks)
    first = first_head(kv_heads, consumer_ranks, rank)
    copies = []
    head = first
    while head < first + own:
        # The first rank that holds it.
        producer = head // per_producer if producer_ranks <= kv_heads else -(-head * producer_ranks // kv_heads)
        source = head - first_head(kv_heads, producer_ranks, producer)
        count = min(per_producer - source, first + own - head)
        copies.append(HeadCopy(producer, source, head - first, count))
        head += count
    return copies


class Digit(NamedTuple):
    """One loop of a strided walk: this many steps, this far apart."""

    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Packing:
    """How one head's K (or V) of one block is laid out: its number [token, dim] stands at the sum of the two walks."""

    tokens: tuple[Digit, ...]
    dims: tuple[Digit, ...]

    def in_pairs(self) -> "Packing":
        """The same, counted in pairs of neighbouring numbers."""
        tokens = tuple(Digit(digit.size, digit.stride // 2) for digit in self.tokens)
        return Packing(tokens, tuple(Digit(digit.size, digit.stride // 2) for digit in self.dims[:-1]))


@dataclass(frozen=True, slots=True)
class Packed:
    """How a CPU lays a block of one head out: K fills the first half, V the second."""

    block_size: int
    """Tokens."""
    k: Packing
    v: Packing

    def room(self, tokens: int) -> int:
        """Tokens for which whole blocks have room."""
        return -(-tokens // self.block_size) * self.block_size


class UnknownPackingError(ValueError):
    """The numbers stand in no order that strides can express."""


def packing_of(places: Sequence[Sequence[int]]) -> Packing:
    """Finds the strides of a packed block.

    Args:
        places: For each token the places of its numbers, `[block_size, head_size]`.

    Raises:
        UnknownPackingError: No strides give these places.
    """
    by_token = [row[0] for row in places]
    by_dim = list(places[0])
    if any(place != row[0] + by_dim[dim] - by_dim[0] for row in places for dim, place in enumerate(row)):
        raise UnknownPackingError("a token's numbers don't stand alike in all tokens")
    if by_token[0] != 0:
        raise UnknownPackingError(f"the first number stands at {by_token[0]}")
    return Packing(_digits(by_token), _digits(by_dim))


def _digits(places: list[int]) -> tuple[Digit, ...]:
    """Writes places as nested loops, the outermost first."""
    if len(places) == 1:
        return (Digit(1, 1),)
    stride = places[1] - places[0]
    inner = 1
    while inner < len(places) and places[inner] - places[0] == inner * stride:
        inner += 1
    if inner == len(places):
        return (Digit(inner, stride),)
    if len(places) % inner:
        raise UnknownPackingError(f"{len(places)} places in groups of {inner}")
    for begin in range(0, len(places), inner):
        if any(places[begin + step] - places[begin] != step * stride for step in range(inner)):
            raise UnknownPackingError(f"a group of {inner} places is unlike the first one")
    return (*_digits(places[::inner]), Digit(inner, stride))
