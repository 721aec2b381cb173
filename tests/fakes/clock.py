# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A clock that stands still until the test moves it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class FakeCall:
    at_s: float
    callback: Callable[[], None]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeClock:
    def __init__(self) -> None:
        self._now_s = 1_000_000.0
        self._calls: list[FakeCall] = []

    def time(self) -> float:
        return self._now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeCall:
        call = FakeCall(self._now_s + delay_s, callback)
        self._calls.append(call)
        return call

    def next_call_in_s(self) -> float | None:
        """Time until the next call; None if there is none to come."""
        calls = [call.at_s for call in self._calls if not call.is_cancelled]
        return min(calls) - self._now_s if calls else None

    def advance(self, seconds: float) -> None:
        """Moves to the given time from now, and makes the calls that are due then."""
        self._now_s += seconds
        due = sorted((call for call in self._calls if call.at_s <= self._now_s), key=lambda call: call.at_s)
        self._calls = [call for call in self._calls if call.at_s > self._now_s]
        for call in due:
            if not call.is_cancelled:
                call.callback()
