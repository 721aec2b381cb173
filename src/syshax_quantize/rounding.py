# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Rounds numbers of 16 or 32 bits to few bits, with the scale that leaves the least squared error. No files here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]


class NotFiniteError(ValueError):
    """The weights contain infinities or NaN."""


def as_floats(raw: bytes, dtype: str) -> Floats:
    """Decodes the bytes of a file.

    Args:
        raw: The bytes.
        dtype: `BF16`, `F16` or `F32`.
    """
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype(np.float32)


def bf16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """Encodes the nearest numbers of 16 bits; ties go to the even one."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _bf16(values: Floats) -> Floats:
    return (bf16_bits(values).astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers that stand for the numbers of a row, and the scales that are tried."""

    low: int
    high: int
    peaks: Sequence[float]
    """What the number of largest magnitude may become, in steps of the scale. What exceeds the integers is clipped, and
    all other numbers get finer steps. The first one is plain rounding to nearest."""
    stored: Callable[[Floats], Floats] = lambda scales: scales
    """A scale as the engine reads it back."""
    signed: bool = False
    """Scales are negative where the number of largest magnitude is positive: there is one more negative integer."""

    @property
    def nearest(self) -> "Grid":
        """The same without a choice of scales."""
        return replace(self, peaks=self.peaks[:1], signed=False)


EIGHT_BITS = Grid(-127, 127, (127.0, 132.0, 138.0, 145.0, 155.0))
FOUR_BITS = Grid(-8, 7, (7.0, 7.5, 8.0, 8.5, 9.0, 9.75, 10.5), _bf16, signed=True)


def int8_rows(rows: Floats) -> tuple[bytes, bytes]:
    """Returns rows in 8 bits, and a scale of 32 bits for each."""
    numbers, scales = rounded(rows, EIGHT_BITS)
    return numbers.tobytes(), scales.tobytes()


def int4_groups(rows: Floats, group: int) -> tuple[bytes, bytes]:
    """Returns rows in 4 bits, each number in a byte, and a scale of 16 bits for each `group` numbers."""
    numbers, scales = rounded(rows.reshape(-1, group), FOUR_BITS)
    return numbers.tobytes(), bf16_bits(scales).tobytes()


def pack4_groups(rows: Floats, group: int) -> tuple[bytes, bytes]:
    """Returns the same, eight numbers to a word of 32 bits, the first in the lowest bits, each increased by 8."""
    numbers, scales = rounded(rows.reshape(-1, group), FOUR_BITS)
    nibbles = (numbers.reshape(-1, 8) + 8).astype(np.uint32)
    words = np.bitwise_or.reduce(nibbles << np.arange(0, 32, 4, dtype=np.uint32), axis=1)
    return words.tobytes(), bf16_bits(scales).tobytes()


def rounded(rows: Floats, grid: Grid) -> tuple[Bytes, Floats]:
    """Returns integers and scales, one scale for each row: the one with the least squared error.

    Raises:
        NotFiniteError: A row contains infinities or NaN.
    """
    largest = np.abs(rows).max(axis=1)
    if not np.isfinite(largest).all():
        raise NotFiniteError("they contain infinities or NaN")
    signs = np.where(grid.signed & (rows.max(axis=1) == largest), np.float32(-1), np.float32(1))
    best = np.zeros(rows.shape, np.int8)
    best_scales = np.ones(len(rows), np.float32)
    least = np.full(len(rows), np.inf, np.float32)
    for peak in grid.peaks:
        scales = grid.stored(signs * largest / np.float32(peak))
        scales[scales == 0] = 1
        numbers = np.divide(rows, scales[:, None])
        np.rint(numbers, out=numbers)
        np.clip(numbers, grid.low, grid.high, out=numbers)
        error = numbers * scales[:, None]
        error -= rows
        # In units of the largest, or the squares of small weights would vanish.
        error /= np.where(largest > 0, largest, 1)[:, None]
        squares = np.einsum("ij,ij->i", error, error)
        better = squares < least
        best[better] = numbers[better]
        best_scales[better] = scales[better]
        least[better] = squares[better]
    return best, best_scales
