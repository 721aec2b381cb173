# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How much more an instance can take: by its last reading, and by what the daemon has seen begin and end since."""

from typing import NamedTuple

from syshaxd.core.loads import InstanceLoad
from syshaxd.core.types import InstanceSpec

HYSTERESIS = 0.2
"""Between giving streams away and taking them back, as a share of slots and of KV."""


class Room(NamedTuple):
    """One instance at one moment. Made for every request: a frozen dataclass takes three times as long."""

    spec: InstanceSpec
    load: InstanceLoad
    """Up to one interval old."""
    inflight: int
    """Requests that the daemon itself has there now."""
    ended: int
    """Of them, since the reading."""
    kv_threshold: float
    """KV-cache usage, 0..1, from which the instance counts as full."""
    backlog_ratio: float
    """Requests kept waiting inside a full instance, as a share of its slots, so that it never runs dry."""

    @property
    def running(self) -> int:
        """Requests in it, also of others; those that wait are not in it as far as the reading tells them."""
        return max(self.load.running - max(0, self.ended - self.load.waiting), self.inflight)

    @property
    def waiting(self) -> int:
        """Requests that wait inside; what has ended made room for them."""
        return max(0, self.load.waiting - self.ended)

    @property
    def slots(self) -> int:
        """Requests that run at the same time: with no KV left, those that run now."""
        kv_ratio = self.load.kv_usage_ratio
        no_kv = kv_ratio > self.kv_threshold or (self.load.waiting and kv_ratio > self.kv_threshold - HYSTERESIS)
        if no_kv and self.load.running:
            return min(self.load.running, self.spec.max_num_seqs)
        return self.spec.max_num_seqs

    @property
    def has_place(self) -> bool:
        """Whether it takes one more, if only into its backlog."""
        return self.inflight < self.slots + self._backlog

    @property
    def has_prefill_place(self) -> bool:
        """Whether it takes one more that leaves with its first token, so that the backlog may be longer by some."""
        return self.inflight < self.slots + self._backlog + max(1, self._backlog // 2)

    @property
    def _backlog(self) -> int:
        return max(1, int(self.slots * self.backlog_ratio))

    @property
    def has_slot(self) -> bool:
        """Whether a stream can go on there at once; of many slots, some come free while its KV cache is on its way."""
        if self.load.preempted and self.inflight:
            return False
        return self.inflight < self.slots + self.slots // 16

    @property
    def queue(self) -> int:
        """Requests that wait inside, by the reading or by the daemon's own count, which is newer."""
        return max(self.waiting, self.inflight - self.slots)

    @property
    def gpu_full(self) -> str:
        """Why a GPU can take no more, or an empty text."""
        if self.running >= self.spec.max_num_seqs:
            return f"{self.running} of {self.spec.max_num_seqs} slots taken"
        if self.waiting > 0 and self.load.running > 0:
            return f"{self.waiting} wait behind {self.load.running} running"
        if self.load.kv_usage_ratio > self.kv_threshold:
            return f"KV cache {self.load.kv_usage_ratio:.0%} used"
        return ""

    def cpu_full(self, throughput_threshold: float) -> str:
        """Why a CPU can take no more, or an empty text.

        Args:
            throughput_threshold: Tokens per second under which a working CPU gets no more.
        """
        if self.running >= self.spec.max_num_seqs:
            return f"{self.running} of {self.spec.max_num_seqs} slots taken"
        if self.running >= self.slots:
            return f"KV cache {self.load.kv_usage_ratio:.0%} used"
        if self.waiting > 0:
            return f"{self.waiting} wait"
        tokens_per_s = self.load.generation_tokens_per_s
        if self.load.running > 0 and tokens_per_s < throughput_threshold:
            return f"{tokens_per_s:.1f} tokens/s, under {throughput_threshold:g}"
        return ""
