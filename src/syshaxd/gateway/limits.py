# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Limits for one client and for all of them together."""

from dataclasses import dataclass, field

from syshaxd.core.config import GatewayConfig
from syshaxd.core.errors import DaemonUnavailableError
from syshaxd.core.placement.rate_limits import RateLimits

# A client's connection needs a second one, to an instance.
_FILES_PER_CONNECTION = 2
# For the daemon's own files, and for connections being refused.
_OTHER_FILES = 96
_LEAST_CONNECTIONS = 16
_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The endpoint's limits. See `GatewayConfig` for what each is."""

    max_body_bytes: int = 32 * 1024 * 1024
    max_bodies_bytes: int = 512 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_connections: int = 10_000
    max_connections_per_address: int | None = None
    head_timeout_s: float = 20.0
    body_timeout_s: float = 20.0
    min_body_bytes_per_s: int = 1024
    idle_timeout_s: float = 75.0
    send_timeout_s: float = 60.0
    max_prompt_tokens: int | None = None
    rates: RateLimits = field(default_factory=RateLimits)
    """Of all clients together."""

    @classmethod
    def from_config(cls, config: GatewayConfig, max_files: int) -> "Limits":
        """The limits for a number of open files for clients."""
        fitting = max(_LEAST_CONNECTIONS, (max_files - _OTHER_FILES) // _FILES_PER_CONNECTION)
        return cls(
            max_body_bytes=config.max_body_bytes,
            max_bodies_bytes=config.max_bodies_bytes,
            max_header_bytes=config.max_header_bytes,
            max_connections=min(config.max_connections, fitting),
            max_connections_per_address=config.max_connections_per_address,
            head_timeout_s=config.head_timeout_s,
            body_timeout_s=config.body_timeout_s,
            min_body_bytes_per_s=config.min_body_bytes_per_s,
            idle_timeout_s=config.idle_timeout_s,
            send_timeout_s=config.send_timeout_s,
            max_prompt_tokens=config.max_prompt_tokens,
            rates=RateLimits(
                requests_per_minute=config.requests_per_minute, tokens_per_minute=config.tokens_per_minute
            ),
        )


class BodyBudget:
    """Counts the bytes of all request bodies in memory."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Adds bytes.

        Raises:
            DaemonUnavailableError: The limit is exceeded.
        """
        if self.held_bytes + size_bytes > self._max_bytes:
            raise DaemonUnavailableError(
                f"the bodies of running requests fill the {self._max_bytes} bytes that they may have together "
                "(gateway.max_bodies_bytes)",
                retry_after_s=_RETRY_AFTER_S,
            )
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Removes bytes."""
        self.held_bytes -= size_bytes
