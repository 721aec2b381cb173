# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How much more an instance can take, from its last reading and the requests that began and ended since."""

from typing import NamedTuple

from syshaxd.core.loads import InstanceLoad
from syshaxd.core.placement.measured import Measured
from syshaxd.core.types import InstanceSpec

HYSTERESIS = 0.2
"""Distance between the loads at which streams leave and return, as a share of slots and of KV cache."""


class Room(NamedTuple):
    """The room of one instance at one moment."""

    spec: InstanceSpec
    load: InstanceLoad
    """The latest reading, up to one interval old."""
    inflight: int
    """The daemon's own requests there now."""
    ended: int
    """The daemon's own requests that ended there since the reading."""
    backlog_ratio: float
    """Requests kept waiting inside a full instance, as a share of its slots, so that it never runs dry."""
    slots: int
    """Requests that run there at the same time."""
    kv_threshold: float = 1.0
    """KV-cache usage, 0..1, from which it counts as full."""
    turns_wait: bool = False
    """No stream can continue there at once, even if slots are free."""

    @property
    def running(self) -> int:
        """Requests that run, including those of others; requests that wait inside are left out as far as known."""
        return max(self.load.running - max(0, self.ended - self.load.waiting), self.inflight)

    @property
    def waiting(self) -> int:
        """Requests that wait inside; each request that ended let one of them start."""
        return max(0, self.load.waiting - self.ended)

    @property
    def has_place(self) -> bool:
        """Whether it takes one more request, at least into its backlog."""
        return self.inflight < self.slots + self._backlog

    @property
    def has_prefill_place(self) -> bool:
        """Whether it takes one more prefill. That leaves with its first token, so the backlog may be longer."""
        return self.inflight < self.slots + self._backlog + max(1, self._backlog // 2)

    @property
    def _backlog(self) -> int:
        return max(1, int(self.slots * self.backlog_ratio))

    @property
    def has_slot(self) -> bool:
        """Whether a stream can continue there at once. With many slots, some come free while its KV cache travels."""
        return not self.turns_wait and self.inflight < self.slots + self.slots // 16

    @property
    def queue(self) -> int:
        """Requests that wait inside: the larger of the reading and the daemon's own count, which is newer."""
        return max(self.waiting, self.inflight - self.slots)

    @property
    def full(self) -> str:
        """Why it can start no further request at once; empty: it can."""
        # Requests that wait inside while slots are free start with the next step.
        inside = max(self.load.running + self.waiting, self.running) if self.load.waiting else self.running
        if inside >= self.slots:
            what = "slots taken" if self.slots == self.spec.max_num_seqs else "requests for which its KV cache has room"
            return f"{inside} of {self.slots} {what}"
        if self.load.kv_usage_ratio > self.kv_threshold:
            return f"KV cache {self.load.kv_usage_ratio:.0%} used"
        return ""


def slots_by_kv(spec: InstanceSpec, kv_per_request: Measured | None, kv_target: float) -> int:
    """Requests that an instance runs at the same time: its slots, or fewer if its KV cache is too small for them.

    A reading tells what the KV cache holds now: little, where many have just ended, and yet it has room for no more
    than before. So what a running request takes on average decides, not what is free at the moment.

    Args:
        spec: The instance.
        kv_per_request: Share of its KV cache that a running request was seen to have; None: not seen yet.
        kv_target: Share of the KV cache that may be used.
    """
    if kv_per_request is None or kv_per_request.value * spec.max_num_seqs <= kv_target:
        return spec.max_num_seqs
    return max(1, int(kv_target / kv_per_request.value))
