# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance fails under load: streams go on elsewhere, all else is answered there or when it has come back."""

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest

from syshaxd.client import ControlClient
from tests.e2e.conftest import MODEL, SLOTS, Daemon, gone, left_in_shared_memory, shared_memory
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)
TOKENS = 600
LIMIT_S = 150.0


def kill_server(family: list[psutil.Process]) -> None:
    """What it started lives on: the daemon has to end that."""
    family[0].send_signal(signal.SIGKILL)


def kill_all(family: list[psutil.Process]) -> None:
    """All but Python's resource tracker: when that dies too, a semaphore of 32 bytes stays in /dev/shm."""
    for process in family:
        if "resource_tracker" not in " ".join(process.cmdline()):
            process.send_signal(signal.SIGKILL)


def kill_engine(family: list[psutil.Process]) -> None:
    """The server notices after some seconds, fails its requests, and exits with code 0."""
    (engine,) = (process for process in family if "EngineCore" in process.name())
    engine.send_signal(signal.SIGKILL)


def freeze_server(family: list[psutil.Process]) -> None:
    """Its connections stay open and say nothing."""
    family[0].send_signal(signal.SIGSTOP)


@dataclass
class Stream:
    """What a client saw of one stream."""

    placement: str = ""
    events: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What it said. An event that is no JSON, or tells of an error, fails the test."""
        assert self.events[-1] == "[DONE]", self.events[-1]
        choices = [choice for event in self.events[:-1] for choice in json.loads(event)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@dataclass
class Load:
    """Streamed and whole requests, in both instances."""

    daemon: Daemon
    session: aiohttp.ClientSession
    streams: list[tuple[Stream, asyncio.Task[None]]] = field(default_factory=list)
    wholes: dict[str, asyncio.Task[str]] = field(default_factory=dict)

    async def fill(self, victim: str) -> None:
        """Sends requests until the victim works on some of both kinds.

        In haste: as soon as one ends at the GPU, a stream of the CPU goes on there.
        """
        async with ControlClient(Path(self.daemon.environment["SYSHAX_SOCKET"])) as client:
            for count in range(1, 2 * SLOTS):
                await self._add_stream()
                ident = f"whole-{count}"
                self.wholes[ident] = asyncio.create_task(whole(self.session, self.daemon.url, ident))
                listed = (await client.ask("ListRequests"))["requests"]
                there = [its for its in listed if its["placement"] == victim]
                wholes = {its["request_id"] for its in there if not its["stream"]}
                if len(wholes) >= 2 and len(there) - len(wholes) >= 2:
                    return
        pytest.fail(f"{victim} never got requests of both kinds: {listed}")

    async def _add_stream(self) -> None:
        stream, begun = Stream(), asyncio.Event()
        self.streams.append((stream, asyncio.create_task(follow(self.session, self.daemon.url, stream, begun))))
        await begun.wait()


async def follow(session: aiohttp.ClientSession, url: str, stream: Stream, begun: asyncio.Event) -> None:
    async with session.post(f"{url}/v1/chat/completions", json=ask() | {"stream": True}) as response:
        assert response.status == 200, await response.text()
        stream.placement = response.headers["x-syshax-placement"]
        async for line in response.content:
            assert line.endswith(b"\n")
            if line.startswith(b"data: "):
                stream.events.append(line[6:].decode().strip())
                if (
                    len(stream.events) > 1
                ):  # the first has no token: with no more, the request may be what ends its instance
                    begun.set()


async def whole(session: aiohttp.ClientSession, url: str, ident: str = "") -> str:
    headers = {"X-Request-Id": ident} if ident else {}
    async with session.post(f"{url}/v1/chat/completions", json=ask(), headers=headers) as response:
        assert response.status == 200, await response.text()
        assert (await response.json())["usage"]["completion_tokens"] == TOKENS
        return str(response.headers["x-syshax-placement"])


def ask() -> dict[str, object]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": MODEL, "messages": messages, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}


@pytest.mark.parametrize(
    ("victim", "fail"),
    [
        ("gpu", kill_server),
        ("cpu", kill_engine),
        # tests/faults does the same to simulated instances.
        pytest.param("cpu", kill_all, marks=pytest.mark.long),
        pytest.param("cpu", freeze_server, marks=pytest.mark.long),
    ],
)
def test_an_instance_fails_under_load(
    daemon: Daemon, victim: str, fail: Callable[[list[psutil.Process]], None]
) -> None:
    daemon.wait_ready()
    daemon.children()
    family = daemon.family(victim)
    inodes = shared_memory(family)
    launches = daemon.status()[victim]["launches"]

    async def run() -> list[Stream]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            load = Load(daemon, session)
            await load.fill(victim)
            fail(family)
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(*(task for _, task in load.streams))
                ends = await asyncio.gather(*load.wholes.values(), return_exceptions=True)
            # What had just come may have ended the instance: it waits for its return, but not for ever.
            assert all(isinstance(end, str) or "may have ended an instance" in str(end) for end in ends), ends
            return [stream for stream, _ in load.streams]

    streams = asyncio.run(run())
    # They ask for the same, and in float32 greedy answers do not depend on what else is computed.
    assert len({stream.text for stream in streams}) == 1

    until(lambda: gone(family), 30, f"nothing of the failed {victim} is left")
    until(lambda: daemon.status()[victim]["launches"] > launches, 30, f"{victim} is launched again")
    daemon.wait_ready()
    assert not left_in_shared_memory(inodes)

    async def again() -> str:
        async with aiohttp.ClientSession(headers={"X-Syshax-Place": victim}) as session:
            return await whole(session, daemon.url)

    assert asyncio.run(again()) == victim
