# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Classes of requests, and their target latencies."""

from dataclasses import dataclass
from enum import StrEnum


class RequestClass(StrEnum):
    """How urgent a request is. The names never change."""

    INTERACTIVE = "interactive"
    """A person waits for the answer: the default."""
    BATCH = "batch"
    """It uses what interactive requests leave free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Target latencies of a class, in seconds; None: as low as possible."""

    ttft_s: float | None = None
    """To the first token."""
    tpot_s: float | None = None
    """Between two tokens of one answer, on average."""
    refuse: bool = False
    """Refuse a request at its arrival if it cannot get its first token in time, instead of serving it late."""

    def met(self, first_s: float, token_s: float) -> bool:
        """Whether these latencies are within the target."""
        in_time = self.ttft_s is None or first_s <= self.ttft_s
        return in_time and (self.tpot_s is None or token_s <= self.tpot_s)


NO_TARGET = Target()
