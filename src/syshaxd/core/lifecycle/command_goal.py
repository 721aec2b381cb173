# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""When an operator's command on an instance is done, judged by the statuses that follow it."""

from enum import Enum, auto

from syshaxd.core.errors import ConflictError, LaunchFailedError
from syshaxd.core.types import InstanceStatus, State


class Command(Enum):
    """What an operator can ask of an instance."""

    START = auto()
    STOP = auto()
    RESTART = auto()


class Goal:
    """Where one command wants its instance to be."""

    def __init__(self, command: Command, before: InstanceStatus) -> None:
        """Sets the goal.

        Args:
            command: What was asked.
            before: The status at that moment.
        """
        self._command = command
        self._before = before
        self._wanted = False

    def reached(self, now: InstanceStatus) -> bool:
        """Whether the instance is where the command wants it. To be asked about each status, in their order.

        Raises:
            LaunchFailedError: The instance has failed for good.
            ConflictError: Another command took this one back.
        """
        if self._command is Command.STOP:
            return self._is_down(now)
        return self._is_up(now)

    def _is_down(self, now: InstanceStatus) -> bool:
        if now.state is State.READY and now.generation > self._before.generation:
            raise ConflictError(f"{now.spec.name} was started again meanwhile")
        return now.state is State.STOPPED and not now.wanted

    def _is_up(self, now: InstanceStatus) -> bool:
        if self._command is Command.RESTART and now.generation == self._before.generation:
            return False  # still the old one
        if now.state is State.READY:
            return True
        if now is self._before:
            return False  # the command has yet to take effect
        if now.state is State.FAILED:
            raise LaunchFailedError(f"{now.spec.name} failed: {now.reason}", permanent=True)
        if self._wanted and not now.wanted:
            raise ConflictError(f"{now.spec.name} was stopped meanwhile")
        self._wanted = now.wanted
        return False
