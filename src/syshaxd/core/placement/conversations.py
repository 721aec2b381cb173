# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Remembers where each conversation was answered last: its KV cache is there."""

from collections import OrderedDict

_MAX_KEPT = 10_000


class Conversations:
    """The latest conversations, by the hash of their beginning; 0 stands for no conversation."""

    def __init__(self) -> None:
        self._instances: OrderedDict[int, str] = OrderedDict()

    def instance(self, conversation: int) -> str:
        """The instance that answered the last turn; empty: unknown."""
        return self._instances.get(conversation, "")

    def note(self, conversation: int, instance: str) -> None:
        """Notes that an instance answers a turn."""
        if not conversation:
            return
        self._instances[conversation] = instance
        self._instances.move_to_end(conversation)
        if len(self._instances) > _MAX_KEPT:
            self._instances.popitem(last=False)
