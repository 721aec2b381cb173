# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether help by a CPU pays: an experiment that never ends, and the switch that its result turns.

Of the requests that a CPU is about to help with, a small share is held out by chance: it waits for the GPU as if there
were no CPU. What help gains is the difference between the mean times to the end of the answers, each less the wait that
was predicted, which takes out most of their scatter. What help was predicted to take from others counts as its time.

Requests count in the order in which they were chosen, so that those that end soon do not count first. The confidence
interval holds at all times, however often it is looked at: an asymptotic confidence sequence for each mean (Robbins'
normal mixture with the estimated variance; Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit
theory and asymptotic confidence sequences", Annals of Statistics 52, 2024, theorem 2.2), and a union bound of the two.

Help is switched off as soon as the interval lies under zero. It must also prove itself: after `ROUND` requests that
were held out, it is switched off unless the interval lies over zero. After a pause a new round begins with help.
"""

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from syshaxd.core.backoff import backoff_s
from syshaxd.core.placement.decision import Prediction
from syshaxd.core.report.engine_status import Interference, OffloadTrial

ALPHA = 0.05
"""Of all rounds in which help gains and loses nothing, at most this share ends with an interval that excludes zero."""
LEAST = 50
"""Answers of either kind without which there is no interval: the theory is one of large numbers."""
ROUND = 200
"""Requests held out in one round."""
FIRST_PAUSE_S = 600.0
LONGEST_PAUSE_S = 6 * 3600.0
_TIGHTEST_AT = 100
"""The interval is narrowest at this many answers, as far as that can be chosen."""
_MAX_MEMBERS = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """Mean and variance of values that come one by one (Welford)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared deviations."""

    def add(self, value: float) -> "Sample":
        """The sample with one value more."""
        count = self.count + 1
        off = value - self.mean
        mean = self.mean + off / count
        return Sample(count, mean, self.squares + off * (value - mean))

    def radius(self, alpha: float) -> float:
        """The true mean is never farther off than this, whatever the count, but for a share `alpha` of cases."""
        if self.count < 2:
            return math.inf
        log = -2 * math.log(alpha)
        scale = (log + math.log(log + 1)) / _TIGHTEST_AT
        spread = self.count * scale + 1
        variance = self.squares / (self.count - 1)
        return math.sqrt(variance * 2 * spread / (self.count**2 * scale) * math.log(math.sqrt(spread) / alpha))


class Interval(NamedTuple):
    """Confidence interval of the seconds that help gains for a request."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured since help was switched on, or last proved itself."""

    held_out: Sample = Sample()
    """Seconds to the end of the answer, less the predicted wait."""
    helped: Sample = Sample()
    """The same, with what it was predicted to take from others."""
    predicted: Sample = Sample()
    """Seconds that help was predicted to gain, less what it takes from others."""

    def add(self, prediction: Prediction, whole_s: float, *, held_out: bool) -> "Round":
        """The round with one answer more."""
        predicted = self.predicted.add(prediction.benefit_s - prediction.others_s)
        over_s = whole_s - prediction.wait_s
        if held_out:
            return Round(self.held_out.add(over_s), self.helped, predicted)
        return Round(self.held_out, self.helped.add(over_s + prediction.others_s), predicted)

    @property
    def gain_s(self) -> float:
        """Seconds that help was measured to gain."""
        return self.held_out.mean - self.helped.mean

    @property
    def interval(self) -> Interval | None:
        """Of `gain_s`; None: too few answers."""
        if min(self.held_out.count, self.helped.count) < LEAST:
            return None
        radius = self.held_out.radius(ALPHA / 2) + self.helped.radius(ALPHA / 2)
        return Interval(self.gain_s - radius, self.gain_s + radius)

    @property
    def fails(self) -> bool:
        """Help does harm, or has not shown in a whole round that it gains."""
        interval = self.interval
        if interval is None:
            return False
        return interval.high < 0 or (self.complete and interval.low <= 0)

    @property
    def complete(self) -> bool:
        """It is long enough for a verdict."""
        return self.held_out.count >= ROUND

    def __str__(self) -> str:
        interval = self.interval
        if interval is None:
            held_out, helped = min(self.held_out.count, LEAST), min(self.helped.count, LEAST)
            return f"too few answers yet: {held_out} of {LEAST} held out, {helped} of {LEAST} helped"
        return f"help gains {self.gain_s:.2f} s a request ({interval.low:.2f} to {interval.high:.2f})"


@dataclass(slots=True, eq=False)
class Member:
    """A request that a CPU would help, and how it ended."""

    prediction: Prediction
    held_out: bool
    since_s: float
    """When that was decided."""
    whole_s: float | None = None
    """Seconds from then to the end of its answer; None: it has not ended well."""
    over: bool = False


class Holdout:
    """Chooses which requests are held out, and switches help off and on. Times are seconds of one monotonic clock."""

    def __init__(self, seed: int = 0) -> None:
        """Begins with help switched on."""
        self.round = Round()
        self.last: Round | None = None
        """The one before, if it came to a verdict."""
        self.off_until_s: float | None = None
        """When help is switched on again; None: it is on."""
        self.all_held_out = 0
        self.times_off = 0
        self._failures = 0
        self._members: deque[Member] = deque()
        self._chance = random.Random(seed)  # noqa: S311 - no secret

    @property
    def is_off(self) -> bool:
        """Whether help is switched off."""
        return self.off_until_s is not None

    def enroll(self, prediction: Prediction, now_s: float, share: float) -> Member:
        """A CPU would help with a request: it may, or the request is held out.

        Args:
            prediction: Of the help.
            now_s: The time.
            share: Of requests that are held out.
        """
        member = Member(prediction, self._chance.random() < share, now_s)
        self.all_held_out += member.held_out
        if share > 0:
            self._members.append(member)
            if len(self._members) > _MAX_MEMBERS:
                self._members.popleft()  # an answer that takes hours is not waited for
        return member

    def restart(self) -> None:
        """Starts over, because other rules decide from now on: earlier measurements do not apply to them."""
        self.round, self.last, self.off_until_s, self._failures = Round(), None, None, 0
        self._members.clear()

    def settle(self, now_s: float) -> str | None:
        """Adds the requests that have ended.

        Returns:
            What has happened, if help was switched off, or on again.
        """
        if self.off_until_s is not None:
            if now_s < self.off_until_s:
                return None
            self.off_until_s, self.round = None, Round()
            return "the CPU may help again: what that gains is measured again"
        while self._members and self._members[0].over:
            member = self._members.popleft()
            if member.whole_s is not None:
                self.round = self.round.add(member.prediction, member.whole_s, held_out=member.held_out)
                if self.round.fails:
                    return self._switch_off(now_s)
                if self.round.complete:
                    self.round, self.last, self._failures = Round(), self.round, 0
        return None

    def _switch_off(self, now_s: float) -> str:
        self._failures += 1
        self.times_off += 1
        pause_s = backoff_s(self._failures, first_s=FIRST_PAUSE_S, cap_s=LONGEST_PAUSE_S)
        self.last, self.off_until_s = self.round, now_s + pause_s
        self._members.clear()
        return f"the CPU does not help for {pause_s:.0f} s: {self.round}, which is no sure gain"


def report_trial(
    holdout: Holdout, share: float, interference: tuple[Interference, ...] = (), *, to_unix_s: float
) -> OffloadTrial:
    """The state of the experiment, for operators.

    Args:
        holdout: The experiment.
        share: Of requests that are held out.
        interference: What is known of how much CPUs slow GPUs down.
        to_unix_s: Turns its times into Unix time.
    """
    shown = holdout.round if holdout.round.interval or holdout.last is None else holdout.last
    text = str(shown) if share else "not measured: scheduler.holdout is 0"
    interval = shown.interval
    return OffloadTrial(
        on=not holdout.is_off,
        off_until_s=0.0 if holdout.off_until_s is None else holdout.off_until_s + to_unix_s,
        text=text,
        holdout=share,
        held_out=shown.held_out.count,
        helped=shown.helped.count,
        predicted_s=shown.predicted.mean if shown.predicted.count else None,
        measured_s=shown.gain_s if interval else None,
        low_s=interval.low if interval else None,
        high_s=interval.high if interval else None,
        all_held_out=holdout.all_held_out,
        times_off=holdout.times_off,
        interference=interference,
    )
