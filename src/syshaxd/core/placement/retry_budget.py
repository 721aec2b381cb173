# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A budget for retries: where many requests fail, trying each again would double the load on what is left.

The budget holds a reserve for twice the slots of all instances, so that all requests of one that ends can be tried
elsewhere at once. Beyond that, retries are a share of the requests; the reserve refills within a minute.
"""

REFILL_S = 60.0
"""Seconds in which an empty reserve refills."""


class RetryBudget:
    """Counts requests and retries. Times are monotonic."""

    def __init__(self, ratio: float) -> None:
        """`ratio`: retries as a share of requests, beyond the reserve."""
        self.ratio = ratio
        """May be changed at any time."""
        self._tokens = float("inf")  # a full reserve, whatever its size
        self._earned = 0.0
        self._at_s = 0.0

    def earn(self) -> None:
        """Counts a request."""
        self._earned += self.ratio

    def spend(self, reserve: int, now_s: float) -> bool:
        """Takes a retry from the budget; false: the budget is used up.

        Args:
            reserve: What the budget holds at most.
            now_s: The time.
        """
        refilled = (now_s - self._at_s) * reserve / REFILL_S
        self._tokens = min(reserve, self._tokens + self._earned + refilled)
        self._earned, self._at_s = 0.0, now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
