# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Clocks that tests move: one that stands still, and an event loop whose time can be moved on."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any


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


class MovableLoop(asyncio.SelectorEventLoop):
    """An event loop whose time the test moves on: all sleeps, timers and limits in it follow, sockets work as ever.

    asyncio's own calls are the clock that every part gets, so no part needs another one for tests.
    """

    ahead_s = 0.0
    """By how much it is ahead of the real time."""

    def time(self) -> float:
        return super().time() + self.ahead_s


class StandingLoop(MovableLoop):
    """One whose time only the test moves: what happens is the same on a slow machine. Without sockets."""

    def time(self) -> float:
        return self.ahead_s


async def pass_time(seconds: float, *, step_s: float = 0.25) -> None:
    """Moves the running MovableLoop on, in steps that let what is due at each moment happen then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MovableLoop)
    end_s = loop.time() + seconds
    while (left_s := end_s - loop.time()) > 0:
        loop.ahead_s += min(step_s, left_s)
        for _ in range(5):  # turns: a timer, the task that it wakes, what that sends, who reads it
            await asyncio.sleep(0)


def run_in_movable_time(test: Coroutine[Any, Any, None], loop: type[MovableLoop] = MovableLoop) -> None:
    """Runs a test to its end in a MovableLoop."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test)
