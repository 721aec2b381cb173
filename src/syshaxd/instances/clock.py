# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The supervisor's clock; tests provide their own."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """The call is not made any more."""


class Clock(Protocol):
    """Time, as the supervisor sees it."""

    def time(self) -> float:
        """Unix time."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Calls back in the event loop after `delay_s`."""


class WallClock:
    """The real time."""

    def time(self) -> float:
        """Unix time."""
        return time.time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Calls back in the event loop after `delay_s`."""
        return asyncio.get_running_loop().call_later(delay_s, callback)
