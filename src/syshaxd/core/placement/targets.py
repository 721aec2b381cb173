# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Classes of requests, and the latencies that each is to get."""

from dataclasses import dataclass
from enum import StrEnum


class RequestClass(StrEnum):
    """What a client asks for. The names never change."""

    INTERACTIVE = "interactive"
    """Somebody reads along: the default."""
    BATCH = "batch"
    """It fills what interactive requests leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Latencies that a class is to get, in seconds; None: as low as possible."""

    ttft_s: float | None = None
    """To the first token."""
    tpot_s: float | None = None
    """Between two tokens of one answer, on average."""
    refuse: bool = False
    """A request that can't get its first token in time is refused when it arrives, not served late."""

    def met(self, first_s: float, token_s: float) -> bool:
        """Whether these latencies are within the target."""
        in_time = self.ttft_s is None or first_s <= self.ttft_s
        return in_time and (self.tpot_s is None or token_s <= self.tpot_s)


NO_TARGET = Target()
