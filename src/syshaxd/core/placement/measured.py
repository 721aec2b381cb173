# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Values that are measured repeatedly, with the spread of the measurements."""

import math
from bisect import bisect_left
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

_WEIGHT = 0.2
"""Weight of the newest measurement, from the fifth on."""
_BOUND_SPREADS = 2.0
"""Mean deviations between a value and its bound. With normal errors, 95 % of measurements keep the bound."""
_SLOPE_UNKNOWN = 0.05
"""Share by which each further request lengthens a step, while only one batch size was measured."""
_MIN_VARIANCE = 0.25
"""Variance of the measured batch sizes from which the slope counts."""
_EFFECTIVE = 2 / (_WEIGHT / 2) - 1
"""Measurements whose plain mean is as precise as the line."""
_REMEMBERED = 128
_UNKNOWN_LENGTH = (32, 64, 128, 256, 512, 1024)
"""Assumed lengths of answers, before any is known."""


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
        """Its lower bound."""
        return max(0.0, self.value - _BOUND_SPREADS * self.spread)

    @property
    def high(self) -> float:
        """Its upper bound."""
        return self.value + _BOUND_SPREADS * self.spread


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of a step over the requests in it: a line through the measurements, the newest weighted most."""

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
        """Starts from one measurement, which may be off by half."""
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
        """Seconds that each further request adds: never negative, and the line never falls below 0 at 0 requests."""
        if self.variance < _MIN_VARIANCE:
            return min(_SLOPE_UNKNOWN, 1 / max(1.0, self.x)) * self.y
        return min(max(0.0, self.covariance / self.variance), self.y / max(1.0, self.x))

    @property
    def steepest(self) -> float:
        """The slope that it hardly exceeds: by twice its standard error, and at most that of a line through zero."""
        through_zero = self.y / max(1.0, self.x)
        if self.variance < _MIN_VARIANCE:
            return through_zero
        error = self.spread / math.sqrt(min(self.count, _EFFECTIVE) * self.variance)
        return min(self.slope + _BOUND_SPREADS * error, through_zero)

    def at(self, x: float) -> float:
        """Seconds at `x` requests."""
        return self.y + self.slope * (x - self.x)

    @property
    def error_ratio(self) -> float:
        """Error bound of the mean of several values, as a share of it."""
        if self.y <= 0:
            return 1.0
        return _BOUND_SPREADS * self.spread / math.sqrt(min(self.count, _EFFECTIVE)) / self.y


class Slowdown(msgspec.Struct, frozen=True, kw_only=True):
    """How much longer the steps of a GPU were seen to take while a CPU computes, as a share of their time."""

    mean: float
    low: float
    """Bounds of the confidence interval, which holds at all times."""
    high: float
    comparisons: int


class Lengths(msgspec.Struct, frozen=True):
    """Lengths of the latest answers of one kind."""

    latest: tuple[int, ...] = ()
    ordered: tuple[int, ...] = _UNKNOWN_LENGTH
    mean: float = 256.0
    mean_square: float = 2 * 256.0**2

    @property
    def are_assumed(self) -> bool:
        """Whether no answer has ended yet."""
        return self.ordered is _UNKNOWN_LENGTH

    def observe(self, tokens: int) -> "Lengths":
        """Adds one answer."""
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
        """The same, with this many of the latest answers."""
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
