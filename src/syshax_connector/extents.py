# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Allocation of an arena's bytes. Pure."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A range of bytes of an arena, both ends on a page."""

    offset: int
    size: int


@dataclass(slots=True)
class Extents:
    """First fit over a sorted list of free extents; neighbours are joined when freed.

    The first page is never allocated: it identifies the arena.
    """

    capacity: int
    """Bytes of the whole arena."""
    used_bytes: int = 0
    _free: list[Extent] = field(init=False)

    def __post_init__(self) -> None:
        size = self.capacity // PAGE_BYTES * PAGE_BYTES - PAGE_BYTES
        self._free = [Extent(PAGE_BYTES, size)] if size > 0 else []

    @property
    def most_bytes(self) -> int:
        """The largest size that an empty arena could hold."""
        return max(0, self.capacity // PAGE_BYTES * PAGE_BYTES - PAGE_BYTES)

    def take(self, size: int) -> Extent | None:
        """Allocates an extent of at least this size; None if none is free."""
        size = max(1, -(-size // PAGE_BYTES)) * PAGE_BYTES
        for index, free in enumerate(self._free):
            if free.size >= size:
                if free.size == size:
                    del self._free[index]
                else:
                    self._free[index] = Extent(free.offset + size, free.size - size)
                self.used_bytes += size
                return Extent(free.offset, size)
        return None

    def give_back(self, extent: Extent) -> None:
        """Frees what `take` returned.

        Raises:
            ValueError: It is not taken, or not as a whole.
        """
        index = bisect_left(self._free, extent)
        before = self._free[index - 1] if index else None
        after = self._free[index] if index < len(self._free) else None
        end = extent.offset + extent.size
        if (before and before.offset + before.size > extent.offset) or (after and end > after.offset):
            raise ValueError(f"{extent} is free already")
        self.used_bytes -= extent.size
        offset = extent.offset
        if after and after.offset == end:
            del self._free[index]
            end = after.offset + after.size
        if before and before.offset + before.size == offset:
            del self._free[index - 1]
            offset = before.offset
        insort(self._free, Extent(offset, end - offset))
