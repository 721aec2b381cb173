# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""External instances: syshaxd does not start or stop them, only watches them and sends them requests."""

import asyncio
import time
from collections.abc import AsyncIterator

from syshaxd.core.types import ExitStatus, Handle, InstanceSpec


class ExternalRuntime:
    """Launching starts watching the server at the spec's address, terminating stops that; the server is not touched."""

    def __init__(self) -> None:
        self._released: dict[Handle, asyncio.Event] = {}

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        """Starts watching the server, whether it runs or not."""
        handle = Handle(spec.name, generation, spec.address.authority, time.time())
        self._released[handle] = asyncio.Event()
        return handle

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        """Nothing: a launch can't fail."""

    def abandon(self, name: str) -> None:
        """Nothing: a launch takes no time."""

    async def wait(self, handle: Handle) -> ExitStatus:
        """Returns only after `terminate`: probes show whether the server runs."""
        if handle in self._released:
            await self._released[handle].wait()
        return ExitStatus()

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        """Stops watching; the server keeps running."""
        released = self._released.pop(handle, None)
        if released is not None:
            released.set()

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        """None: nothing can be left over from an earlier daemon, so `launch` does all."""

    async def pid(self, handle: Handle) -> int | None:
        """None: who started it knows."""

    async def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """One line that says where to look."""
        yield f"{name} was not started by syshaxd (runtime: external): see the program that started it"

    def is_away(self) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """Nothing is held."""
