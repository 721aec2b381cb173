# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""LoopLag: how late the event loop calls back. What was waited for meanwhile says nothing about the other side."""

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)
_INTERVAL_S = 0.25
LATE_S = 0.5
"""From so much on, a probe, a time-out or a reading that overlaps it does not count."""
_WARN_EVERY_S = 60.0


class LoopLag:
    """Looks at the loop's punctuality, some times a second. Lives in one event loop."""

    def __init__(self, observe: Callable[[float], None] = lambda _: None) -> None:
        """Looks from now on, until `close`.

        Args:
            observe: Called with each lag, in seconds.
        """
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._late_at_s = float("-inf")
        self._warned_at_s = float("-inf")
        self._due_s = 0.0
        self._plan()

    def was_late_since(self, since_s: float) -> bool:
        """Whether the loop stood still for long at any time since that moment of its own clock."""
        return self._late_at_s >= since_s or self._loop.time() - self._due_s >= LATE_S

    def close(self) -> None:
        """Looks no more."""
        self._timer.cancel()

    def _plan(self) -> None:
        self._due_s = self._loop.time() + _INTERVAL_S
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        now_s = self._loop.time()
        lag_s = max(0.0, now_s - self._due_s)
        self._observe(lag_s)
        if lag_s >= LATE_S:
            self._late_at_s = now_s
            if now_s - self._warned_at_s >= _WARN_EVERY_S:
                self._warned_at_s = now_s
                _log.warning("the daemon stood still for %.1f s: what it waited for meanwhile is repeated", lag_s)
        self._plan()
