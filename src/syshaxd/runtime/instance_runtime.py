# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What starts and stops instances. One implementation a RuntimeKind, all held to one contract suite."""

from collections.abc import AsyncIterator
from typing import Protocol

from syshaxd.core.types import ExitStatus, Handle, InstanceSpec


class InstanceRuntime(Protocol):
    """Launches, awaits, ends and finds again the generations of instances."""

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        """Starts the instance and returns once it runs; it need not be healthy yet.

        Raises:
            LaunchFailedError: Nothing was started, or what was started is gone again.
        """

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        """Looks for what would surely keep a launch from working now, before a healthy generation is ended for it.

        Args:
            spec: What is to be launched.
            needs_port: Its port must be free. If not, an instance has it that is ended first: this one, say.

        Raises:
            SyshaxError: What it is, and what to do.
        """

    def abandon(self, name: str) -> None:
        """The launch under way is not wanted any more.

        It fails soon if it is at something that may take long, such as fetching an image; else it goes on to its end.
        """

    async def wait(self, handle: Handle) -> ExitStatus:
        """Returns when the generation has ended, at once if it already has. The one source of exits.

        Raises:
            SyshaxError, OSError: It can't be watched any more. The next launch ends what may be left of it.
        """

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        """Asks the generation to end, ends it by force after `grace_s`, and returns once nothing of it is left.

        A generation that has already ended is no error. `wait` returns before or soon after this does.
        """

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        """Takes over a generation that an earlier daemon left running; None if there is none that fits `spec`.

        One that is there but does not fit (another command line, say) is ended.
        """

    async def pid(self, handle: Handle) -> int | None:
        """The generation's main process, as this host numbers it; None: it has ended, or nobody here knows."""

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The instance's output, line by line without line ends, over all generations that are still kept.

        Args:
            name: The instance.
            tail: Only so many of the last lines; None: all.
            follow: Go on with new lines, over restarts too, until the caller closes the iterator.
        """

    def is_away(self) -> bool:
        """Whether what it acts through is gone for now: a server that does not answer then may be none the worse."""

    async def close(self) -> None:
        """Lets go of what the runtime itself holds; running instances are left alone."""
