# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A runtime whose servers do what the test says. It is held to the same contract as the real ones."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec

FAKE_PID = 4_200_000
"""More than Linux gives out."""


@dataclass(eq=False)
class FakeServer:
    spec: InstanceSpec
    handle: Handle
    stubborn: bool = False
    """Takes no notice of being asked to end."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    status: ExitStatus = field(default_factory=ExitStatus)


class FakeHost:
    """The servers and their logs, which outlive a runtime, that is a daemon."""

    def __init__(self) -> None:
        self.servers: dict[str, FakeServer] = {}
        self.lines: dict[str, list[str]] = {}
        self.changed = asyncio.Event()

    def say(self, name: str, line: str) -> None:
        self.lines.setdefault(name, []).append(line)
        self.changed.set()
        self.changed = asyncio.Event()

    def exit(self, name: str, status: ExitStatus) -> None:
        """The server ends."""
        server = self.servers[name]
        server.status = status
        server.ended.set()

    def is_alive(self, handle: Handle) -> bool:
        server = self.servers.get(handle.name)
        return server is not None and server.handle == handle and not server.ended.is_set()


class FakeRuntime:
    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()
        self.away = False
        """What it acts through is gone."""
        self.launched: list[tuple[str, int]] = []
        """Name and generation of each launch that was tried."""
        self.terminated: list[str] = []
        """Names, in the order in which servers were ended."""
        self.graces_s: list[float] = []
        """What each of them got."""
        self.adopt_errors: dict[str, list[Exception]] = {}
        """What the next searches for an instance fail with."""
        self.launch_errors: dict[str, list[Exception]] = {}
        """What the next launches of an instance fail with."""
        self.check_errors: dict[str, Exception] = {}
        """What checks of an instance fail with."""
        self.terminate_errors: dict[str, list[Exception]] = {}
        self.gate: asyncio.Event = asyncio.Event()
        """Launches wait for it."""
        self.gate.set()
        self.fetching: asyncio.Event | None = None
        """Launches fetch an image without an end, until this is set: they are no longer wanted."""
        self.after_terminate: dict[str, asyncio.Event] = {}
        """Ending an instance takes until then, also where the server itself is gone before."""
        self.ports_checked: dict[str, bool] = {}
        """Whether the last check of an instance asked for its port."""
        self.wait_errors: dict[str, list[Exception]] = {}

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        self.launched.append((spec.name, generation))
        await self.gate.wait()
        if self.fetching is not None:
            await self.fetching.wait()
            raise LaunchFailedError(f"{spec.name}: no longer wanted", permanent=False)
        if errors := self.launch_errors.get(spec.name):
            raise errors.pop(0)
        if spec.argv == ("broken",):
            raise LaunchFailedError(f"{spec.name} is broken", permanent=True)
        last = self.host.servers.get(spec.name)
        assert last is None or last.ended.is_set(), "two live generations"
        handle = Handle(spec.name, generation, f"fake-{generation}", 1000.0)
        self.host.servers[spec.name] = FakeServer(spec, handle, stubborn="stubborn" in spec.argv)
        self.host.say(spec.name, f"generation {generation}")
        return handle

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        self.ports_checked[spec.name] = needs_port
        if error := self.check_errors.get(spec.name):
            raise error

    def abandon(self, name: str) -> None:
        if self.fetching is not None:
            self.fetching.set()

    async def wait(self, handle: Handle) -> ExitStatus:
        if errors := self.wait_errors.get(handle.name):
            raise errors.pop(0)
        server = self.host.servers.get(handle.name)
        if server is None or server.handle != handle:
            return ExitStatus()
        await server.ended.wait()
        return server.status

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        if errors := self.terminate_errors.get(handle.name):
            raise errors.pop(0)
        if self.host.is_alive(handle):
            self.terminated.append(handle.name)
            self.graces_s.append(grace_s)
            stubborn = self.host.servers[handle.name].stubborn
            self.host.exit(handle.name, ExitStatus(signal=9) if stubborn else ExitStatus(code=0))
        if tidied := self.after_terminate.get(handle.name):
            await tidied.wait()

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        if errors := self.adopt_errors.get(spec.name):
            raise errors.pop(0)
        server = self.host.servers.get(spec.name)
        if server is None or server.ended.is_set():
            return None
        if server.spec == spec:
            return server.handle
        await self.terminate(server.handle, 0.0)
        return None

    async def pid(self, handle: Handle) -> int | None:
        return FAKE_PID + handle.generation if self.host.is_alive(handle) else None

    async def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        lines = self.host.lines.setdefault(name, [])
        position = 0 if tail is None else max(0, len(lines) - tail)
        while True:
            while position < len(lines):
                position += 1
                yield lines[position - 1]
            if not follow:
                return
            await self.host.changed.wait()

    def is_away(self) -> bool:
        return self.away

    async def close(self) -> None:
        pass
