# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Decides from an instance's statuses whether an operator's command has completed."""

from enum import Enum, auto

from syshaxd.core.errors import ConflictError, LaunchFailedError
from syshaxd.core.types import InstanceStatus, State


class Command(Enum):
    """An operator's command to an instance."""

    START = auto()
    STOP = auto()
    RESTART = auto()


class Goal:
    """The state in which one command is complete."""

    def __init__(self, command: Command, before: InstanceStatus) -> None:
        """Sets the goal.

        Args:
            command: The command.
            before: The status at that moment.
        """
        self._command = command
        self._before = before
        self._wanted = False

    def reached(self, now: InstanceStatus) -> bool:
        """Whether the command is complete. Call it with each status, in order.

        Raises:
            LaunchFailedError: The instance is FAILED.
            ConflictError: Another command superseded this one.
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
            return False  # the command has not taken effect yet
        if now.state is State.FAILED:
            raise LaunchFailedError(f"{now.spec.name} failed: {now.reason}", permanent=True)
        if self._wanted and not now.wanted:
            raise ConflictError(f"{now.spec.name} was stopped meanwhile")
        self._wanted = now.wanted
        return False
