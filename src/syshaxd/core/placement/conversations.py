# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where conversations were answered last, so that their next turns find their KV caches."""

from collections import OrderedDict

_MAX_KEPT = 10_000


class Conversations:
    """The latest conversations, by the hash of how they begin; 0 is none."""

    def __init__(self) -> None:
        self._instances: OrderedDict[int, str] = OrderedDict()

    def instance(self, conversation: int) -> str:
        """Where the last turn was answered; empty: not known."""
        return self._instances.get(conversation, "")

    def note(self, conversation: int, instance: str) -> None:
        """A turn is answered on an instance."""
        if not conversation:
            return
        self._instances[conversation] = instance
        self._instances.move_to_end(conversation)
        if len(self._instances) > _MAX_KEPT:
            self._instances.popitem(last=False)
