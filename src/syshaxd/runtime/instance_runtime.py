# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Starts and stops instances. One implementation per RuntimeKind, all tested by one contract suite."""

from collections.abc import AsyncIterator
from typing import Protocol

from syshaxd.core.types import ExitStatus, Handle, InstanceSpec


class InstanceRuntime(Protocol):
    """Launches, awaits, terminates and adopts generations of instances."""

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        """Starts the instance and returns once it runs; it need not be healthy yet.

        Raises:
            LaunchFailedError: Nothing was started, or nothing of it is left.
        """

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        """Checks for anything certain to make a launch fail, before a healthy generation is stopped for it.

        Args:
            spec: What is to be launched.
            needs_port: Its port must be free. If not, an instance has it that is ended first: this one, say.

        Raises:
            SyshaxError: What it is, and what to do.
        """

    def abandon(self, name: str) -> None:
        """Abandons the launch under way.

        It fails soon if it is in a slow step, such as pulling an image; otherwise it completes.
        """

    async def wait(self, handle: Handle) -> ExitStatus:
        """Returns when the generation has exited, at once if it already has. The only source of exits.

        Raises:
            SyshaxError, OSError: It can't be watched any more. The next launch ends what may be left of it.
        """

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        """Asks the generation to exit, kills it after `grace_s`, and returns once nothing of it is left.

        A generation that has already ended is no error. `wait` returns before or soon after this does.
        """

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        """Adopts a generation that an earlier daemon left running; None if none fits `spec`.

        One that is there but does not fit (another command line, say) is ended.
        """

    async def pid(self, handle: Handle) -> int | None:
        """PID of the generation's main process on this host; None: it has exited or is unknown."""

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The instance's output, line by line without line ends, over all generations that are still kept.

        Args:
            name: The instance.
            tail: Only so many of the last lines; None: all.
            follow: Continue with new lines, across restarts too, until the caller closes the iterator.
        """

    def is_away(self) -> bool:
        """Whether what it acts through is away: a server that does not answer meanwhile may still be healthy."""

    async def close(self) -> None:
        """Releases the runtime's own resources; instances keep running."""
