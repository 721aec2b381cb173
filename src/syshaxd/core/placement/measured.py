# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Values that are measured again and again, with how far the measurements lie from them."""

import math
from bisect import bisect_left
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

_WEIGHT = 0.2
"""Of the newest measurement, once there are five."""
_BOUND_SPREADS = 2.0
"""A bound lies so many mean deviations from the value: of normal errors, 95 % lie on its right side."""
_SLOPE_UNKNOWN = 0.05
"""Growth of a step with each request more, as a share of it, as long as only one batch size was seen."""
_MIN_VARIANCE = 0.25
"""Of the batch sizes seen, from which the slope counts."""
_EFFECTIVE = 2 / (_WEIGHT / 2) - 1
"""So many measurements make a mean as good as the line is."""
_REMEMBERED = 128
_UNKNOWN_LENGTH = (32, 64, 128, 256, 512, 1024)
"""Lengths of answers, before any was seen."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A value."""

    value: float
    spread: float
    """Mean distance of a measurement from it."""
    count: int = 1

    @classmethod
    def first(cls, value: float) -> "Measured":
        """Of one measurement, which may be off by half."""
        return cls(value, value / 2)

    def observe(self, value: float) -> "Measured":
        """Takes one measurement more into account."""
        weight = max(_WEIGHT, 1 / (self.count + 1))
        off = abs(value - self.value)
        return Measured(
            self.value + weight * (value - self.value), self.spread + weight * (off - self.spread), self.count + 1
        )

    @property
    def low(self) -> float:
        """What it hardly is under."""
        return max(0.0, self.value - _BOUND_SPREADS * self.spread)

    @property
    def high(self) -> float:
        """What it hardly is over."""
        return self.value + _BOUND_SPREADS * self.spread


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of a step by the requests in it: a straight line through what was measured, the newest most."""

    x: float
    y: float
    """Means."""
    variance: float = 0.0
    """Of x."""
    covariance: float = 0.0
    spread: float = 0.0
    """Mean distance of a measurement from the line."""
    count: int = 1

    @classmethod
    def first(cls, x: float, y: float) -> "Line":
        """Through one measurement, which may be off by half."""
        return cls(x, y, spread=y / 2)

    def observe(self, x: float, y: float) -> "Line":
        """Takes one measurement more into account."""
        weight = max(_WEIGHT / 2, 1 / (self.count + 1))
        off = abs(y - self.at(x))
        dx, dy = x - self.x, y - self.y
        keep = 1 - weight
        return Line(
            self.x + weight * dx,
            self.y + weight * dy,
            keep * (self.variance + weight * dx * dx),
            keep * (self.covariance + weight * dx * dy),
            self.spread + max(_WEIGHT, 1 / (self.count + 1)) * (off - self.spread),
            self.count + 1,
        )

    @property
    def slope(self) -> float:
        """Seconds for each request more: never negative, and never such that no request takes less than no time."""
        if self.variance < _MIN_VARIANCE:
            return min(_SLOPE_UNKNOWN, 1 / max(1.0, self.x)) * self.y
        return min(max(0.0, self.covariance / self.variance), self.y / max(1.0, self.x))

    def at(self, x: float) -> float:
        """Seconds at `x` requests."""
        return self.y + self.slope * (x - self.x)

    @property
    def error_ratio(self) -> float:
        """By what share of it the mean of several values hardly is off."""
        if self.y <= 0:
            return 1.0
        return _BOUND_SPREADS * self.spread / math.sqrt(min(self.count, _EFFECTIVE)) / self.y


class Lengths(msgspec.Struct, frozen=True):
    """Lengths of the latest answers of one kind."""

    latest: tuple[int, ...] = ()
    ordered: tuple[int, ...] = _UNKNOWN_LENGTH
    mean: float = 256.0
    mean_square: float = 2 * 256.0**2

    def observe(self, tokens: int) -> "Lengths":
        """Takes one answer more into account."""
        if len(self.latest) < _REMEMBERED:
            latest = (*self.latest, tokens)
            count = len(latest)
            return Lengths(latest, tuple(sorted(latest)), sum(latest) / count, sum(x * x for x in latest) / count)
        # It is done for every answer: nothing is sorted or summed again.
        oldest, ordered = self.latest[0], self.ordered
        if oldest != tokens:
            gone = bisect_left(ordered, oldest)
            ordered = ordered[:gone] + ordered[gone + 1 :]
            place = bisect_left(ordered, tokens)
            ordered = (*ordered[:place], tokens, *ordered[place:])
        mean = self.mean + (tokens - oldest) / _REMEMBERED
        mean_square = self.mean_square + (tokens * tokens - oldest * oldest) / _REMEMBERED
        return Lengths((*self.latest[1:], tokens), ordered, mean, mean_square)

    def shortened(self, count: int) -> "Lengths":
        """The same, with so many of the latest answers."""
        return replace(self, latest=self.latest[:count])

    def made(self, most: int | None = None) -> float:
        """Tokens that a running answer has on average, if it has `most` at its end.

        Long answers run longer, so that more of those that run are long: half the mean square over the mean.
        """
        made = self.mean_square / (2 * self.mean) if self.mean > 0 else 0.0
        return made if most is None else min(made, most / 2)

    def quantile(self, share: float, most: int | None = None) -> int:
        """The length that such a share of answers does not exceed, if they have `most` tokens at most."""
        length = self.ordered[min(len(self.ordered) - 1, int(share * len(self.ordered)))]
        return length if most is None else min(length, most)
