# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Circuit breakers: an instance that fails requests gets none for a while, although it answers its health probes.

A breaker opens when an instance has failed several requests within a window, and at least half of those that ended in
it. The answer to an invalid request (4xx) is no failure. While a breaker is open, the instance is asked for one token
from time to time, with a back-off; the first good answer closes it. The breaker of the last instance that serves a
model stays closed: a failing instance is better than none.
"""

from collections.abc import Mapping, Set

from syshaxd.core.backoff import backoff_s

WINDOW_S = 30.0
"""Begins with the first failure."""
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0
# A breaker that opens again so soon after it was closed has a longer pause than the last time.
_FORGET_S = 120.0


class Breaker:
    """The breaker of one instance. Times are monotonic."""

    def __init__(self, failures: int) -> None:
        """`failures`: this many within the window open it; 0: none do."""
        self.failures = failures
        """May be changed at any time."""
        self.reason = ""
        """Why it is open, as a message; empty: it is closed."""
        self.probe_at_s = 0.0
        """When an open one is to be probed next."""
        self._window_s = 0.0
        self._failed = 0
        self._succeeded = 0
        self._pauses = 0
        self._closed_s = -_FORGET_S

    @property
    def is_open(self) -> bool:
        """Whether the instance gets no requests."""
        return bool(self.reason)

    def succeeded(self) -> None:
        """The instance has answered a request."""
        if self._failed:  # else no window has begun
            self._succeeded += 1

    def failed(self, now_s: float) -> bool:
        """The instance has failed a request; returns whether the breaker should open."""
        if not self._failed or now_s - self._window_s > WINDOW_S:
            self._window_s, self._failed, self._succeeded = now_s, 0, 0
        self._failed += 1
        return 0 < self.failures <= self._failed >= self._succeeded and not self.is_open

    def open(self, why: str, now_s: float) -> None:
        """Opens it; `why` is the last failure."""
        self.reason = f"{self._failed} of {self._failed + self._succeeded} requests failed lately: {why}"
        if now_s - self._closed_s > _FORGET_S:
            self._pauses = 0
        self._pause(now_s)

    def probe_failed(self, why: str, now_s: float) -> None:
        """An open one was probed in vain."""
        self.reason = f"it failed a probe with one token: {why}"
        self._pause(now_s)

    def close(self, now_s: float) -> None:
        """The instance gets requests again."""
        self.reason = ""
        self._failed = self._succeeded = 0
        self._closed_s = now_s

    def _pause(self, now_s: float) -> None:
        self._pauses += 1
        self.probe_at_s = now_s + backoff_s(self._pauses, first_s=_FIRST_PAUSE_S, cap_s=_LONGEST_PAUSE_S)


def may_open(name: str, models: Mapping[str, Set[str]], is_open: Set[str]) -> bool:
    """Whether an instance can be spared: each of its models is served by another whose breaker is closed.

    Args:
        name: The instance.
        models: What the instances that can take requests serve, by name.
        is_open: Those whose breakers are open.
    """
    others: set[str] = set()
    others.update(*(its for other, its in models.items() if other != name and other not in is_open))
    return bool(others) and models.get(name, frozenset()) <= others
