# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Numbers of 16 or 32 bits rounded to few bits, with the scale that leaves the least squared error. No files here."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]

# So many steps of the scale make the largest number of a group. Where the integers have fewer, it is cut off, and all
# other numbers are finer.
_STEPS_8_BITS = (127.0, 132.0, 138.0, 145.0, 155.0)
_STEPS_4_BITS = (7.0, 7.5, 8.0, 8.5, 9.0, 9.75, 10.5)


class NotFiniteError(ValueError):
    """Among the weights are infinities, or what is no number."""


def as_floats(raw: bytes, dtype: str) -> Floats:
    """Numbers as they stand in a file.

    Args:
        raw: Their bytes.
        dtype: `BF16`, `F16` or `F32`.
    """
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype(np.float32)


def bf16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """The nearest numbers of 16 bits; of two that are as near, the even one."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _bf16(values: Floats) -> Floats:
    return (bf16_bits(values).astype(np.uint32) << 16).view(np.float32)


def int8_rows(rows: Floats) -> tuple[bytes, bytes]:
    """Rows in 8 bits, and a scale of 32 bits for each."""
    numbers, scales = _rounded(rows, -127, 127, _STEPS_8_BITS, lambda scales: scales)
    return numbers.tobytes(), scales.tobytes()


def int4_groups(rows: Floats, group: int) -> tuple[bytes, bytes]:
    """Rows in 4 bits, each in a byte, and scales of 16 bits, one for each `group` numbers."""
    numbers, scales = _four_bits(rows, group)
    return numbers.tobytes(), bf16_bits(scales).tobytes()


def pack4_groups(rows: Floats, group: int) -> tuple[bytes, bytes]:
    """The same, eight numbers to a word of 32 bits, the first in the lowest bits, each raised by 8."""
    numbers, scales = _four_bits(rows, group)
    nibbles = (numbers.reshape(-1, 8) + 8).astype(np.uint32)
    words = np.bitwise_or.reduce(nibbles << np.arange(0, 32, 4, dtype=np.uint32), axis=1)
    return words.tobytes(), bf16_bits(scales).tobytes()


def _four_bits(rows: Floats, group: int) -> tuple[Bytes, Floats]:
    return _rounded(rows.reshape(-1, group), -8, 7, _STEPS_4_BITS, _bf16)


def _rounded(
    rows: Floats, low: int, high: int, steps: Sequence[float], stored: Callable[[Floats], Floats]
) -> tuple[Bytes, Floats]:
    """Integers and scales of rows: of the scales that are tried, the one with the least squared error.

    Args:
        rows: Each gets one scale.
        low: Least integer.
        high: Greatest integer.
        steps: What the largest number of a row may become.
        stored: A scale as it will be read again.
    """
    largest = np.abs(rows).max(axis=1)
    if not np.isfinite(largest).all():
        raise NotFiniteError("there are infinities, or what is no number, among them")
    best = np.zeros(rows.shape, np.int8)
    best_scales = np.ones(len(rows), np.float32)
    least = np.full(len(rows), np.inf, np.float32)
    for step in steps:
        scales = stored((largest / np.float32(step)).astype(np.float32))
        scales[scales == 0] = 1
        numbers = np.divide(rows, scales[:, None])
        np.rint(numbers, out=numbers)
        np.clip(numbers, low, high, out=numbers)
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
