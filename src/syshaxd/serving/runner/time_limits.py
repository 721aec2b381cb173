# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Time limits of the phases of an answer."""

from dataclasses import dataclass
from typing import Self

from syshaxd.core.config.schema import SystemConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Limits in seconds."""

    silence_s: float
    """Without any data from the instance, or without the client taking any."""
    connect_s: float = 5.0
    """Until the instance has accepted a connection."""
    first_token_s: float | None = None
    """The same until the client has the first part of a stream; None: `silence_s`."""
    total_s: float | None = None
    """From the request's arrival to the answer's end; None: no limit."""

    @classmethod
    def from_config(cls, system: SystemConfig) -> Self:
        """The limits that the configuration sets."""
        return cls(
            silence_s=system.request_timeout_s,
            connect_s=system.connect_timeout_s,
            first_token_s=system.first_token_timeout_s,
            total_s=system.total_timeout_s,
        )
