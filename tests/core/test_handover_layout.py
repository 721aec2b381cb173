# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Rules of syshax_connector.layout and .extents."""

from itertools import pairwise, product
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from syshax_connector.extents import PAGE_BYTES, Extent, Extents
from syshax_connector.layout import Digit, Packing, Shape, UnknownPackingError, first_head, head_copies, packing_of


@given(
    st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=2),
    st.lists(st.sampled_from([2, 8]), min_size=1, max_size=2),
    st.data(),
)
def test_any_nesting_of_loops_is_found(token_sizes: list[int], dim_sizes: list[int], data: st.DataObject) -> None:
    sizes = [*token_sizes, *dim_sizes]
    order = data.draw(st.permutations(range(len(sizes))))
    strides = [0] * len(sizes)
    for position, index in enumerate(order):
        strides[index] = prod(sizes[other] for other in order[position + 1 :])

    def place(digits: tuple[int, ...]) -> int:
        return sum(digit * stride for digit, stride in zip(digits, strides, strict=True))

    tokens = list(product(*(range(size) for size in token_sizes)))
    dims = list(product(*(range(size) for size in dim_sizes)))
    places = [[place((*token, *dim)) for dim in dims] for token in tokens]
    packing = packing_of(places)

    def walk(digits: tuple[Digit, ...]) -> list[int]:
        steps = product(*(range(digit.size) for digit in digits))
        return [sum(step * digit.stride for step, digit in zip(many, digits, strict=True)) for many in steps]

    assert [[token + dim for dim in walk(packing.dims)] for token in walk(packing.tokens)] == places


def test_vec_and_amx_as_they_are() -> None:
    """vec transposes K; amx keeps pairs of numbers side by side, 16 tokens together."""
    vec = packing_of([[token + 128 * dim for dim in range(64)] for token in range(128)])
    assert (vec.tokens, vec.dims) == ((Digit(128, 1),), (Digit(64, 128),))
    amx = packing_of([[t // 16 * 1024 + t % 16 * 2 + d // 2 * 32 + d % 2 for d in range(64)] for t in range(128)])
    assert (amx.tokens, amx.dims) == ((Digit(8, 1024), Digit(16, 2)), (Digit(32, 32), Digit(2, 1)))
    assert amx.in_pairs() == Packing((Digit(8, 512), Digit(16, 1)), (Digit(32, 16),))


@pytest.mark.parametrize(
    "places",
    [[[1, 0], [2, 3]], [[0, 1], [3, 2]], [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [11, 14], [8, 13], [12, 15]]],
)
def test_an_order_without_strides_is_refused(places: list[list[int]]) -> None:
    with pytest.raises(UnknownPackingError):
        packing_of(places)


@given(st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_each_rank_finds_each_of_its_heads_once(kv_heads: int, producers: int, consumers: int) -> None:
    """Also with more ranks than heads, where ranks hold the same head."""
    shape = Shape(1, kv_heads, 64, 2)
    for rank in range(consumers):
        got: dict[int, int] = {}
        for copy in head_copies(kv_heads, producers, consumers, rank):
            assert copy.source >= 0
            assert copy.source + copy.count <= shape.rank_heads(producers)
            for step in range(copy.count):
                assert copy.target + step not in got
                got[copy.target + step] = first_head(kv_heads, producers, copy.producer_rank) + copy.source + step
        first = first_head(kv_heads, consumers, rank)
        assert got == {index: first + index for index in range(shape.rank_heads(consumers))}


class ExtentsMachine(RuleBasedStateMachine):
    """Any order of takes and frees."""

    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents(64 * PAGE_BYTES + 100)
        self.taken: list[Extent] = []

    @rule(size=st.integers(1, 20 * PAGE_BYTES))
    def take(self, size: int) -> None:
        extent = self.extents.take(size)
        if extent is None:
            free = self.extents.most_bytes - self.extents.used_bytes
            assert free < size or self.taken, "an empty arena has room for all that fits"
            return
        assert extent.size >= size
        assert extent.offset % PAGE_BYTES == 0
        assert extent.offset >= PAGE_BYTES
        assert extent.offset + extent.size <= self.extents.capacity
        self.taken.append(extent)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.taken:
            extent = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            self.extents.give_back(extent)
            with pytest.raises(ValueError, match="free already"):
                self.extents.give_back(extent)

    @invariant()
    def nothing_is_taken_twice(self) -> None:
        ordered = sorted(self.taken)
        assert all(one.offset + one.size <= two.offset for one, two in pairwise(ordered))
        assert self.extents.used_bytes == sum(extent.size for extent in self.taken)

    def teardown(self) -> None:
        for extent in self.taken:
            self.extents.give_back(extent)
        whole = self.extents.take(self.extents.most_bytes)
        assert whole is not None


TestExtents = ExtentsMachine.TestCase
