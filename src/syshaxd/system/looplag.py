# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""LoopLag: measures how late the event loop runs callbacks. Timeouts during a lag say nothing about the peer."""

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)
_INTERVAL_S = 0.25
LATE_S = 0.5
"""A probe, timeout or reading that overlaps a lag of this length does not count."""
_WARN_EVERY_S = 60.0


class LoopLag:
    """Samples the loop's lag a few times a second. Lives in one event loop."""

    def __init__(self, observe: Callable[[float], None] = lambda _: None) -> None:
        """Starts sampling, until `close`.

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
        """Whether the loop was blocked for long at any time since a moment of its own clock."""
        return self._late_at_s >= since_s or self._loop.time() - self._due_s >= LATE_S

    def close(self) -> None:
        """Stops sampling."""
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
                _log.warning(
                    "the event loop was blocked for %.1f s: probes and time-outs in that time do not count", lag_s
                )
        self._plan()
