# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance is killed under load: what had not begun is answered elsewhere, what had begun ends clearly."""

import asyncio
import json
import os
import signal
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.e2e.conftest import MODEL, SLOTS, Daemon, until

pytestmark = pytest.mark.timeout(300)


@dataclass
class Stream:
    """What a client saw of one stream."""

    placement: str = ""
    events: list[str] = field(default_factory=list)
    begun_before_the_kill: bool = False
    done: bool = False


def _ask(number: int, tokens: int) -> dict[str, object]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"number {number}"}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }


@pytest.mark.parametrize("killed", ["gpu", "cpu"])
def test_kill_of_an_instance_under_load(daemon: Daemon, killed: str) -> None:
    daemon.wait_ready()
    other = {"gpu": "cpu", "cpu": "gpu"}[killed]
    generation = daemon.status()[killed]["launches"]
    victim = daemon.pid(killed)
    killing = asyncio.Event()

    async def stream(session: aiohttp.ClientSession, number: int, begun: asyncio.Event) -> Stream:
        seen = Stream()
        body = _ask(number, 400) | {"stream": True}
        async with session.post(f"{daemon.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200, await response.text()
            seen.placement = response.headers["x-syshax-placement"]
            seen.begun_before_the_kill = not killing.is_set()
            async for line in response.content:
                if line.startswith(b"data: "):
                    seen.events.append(line[6:].decode().strip())
                    if seen.placement == killed:
                        begun.set()
        seen.done = seen.events[-1] == "[DONE]"
        return seen

    async def whole(session: aiohttp.ClientSession, number: int) -> str:
        async with session.post(f"{daemon.url}/v1/chat/completions", json=_ask(number, 40)) as response:
            assert response.status == 200, await response.text()
            assert (await response.json())["usage"]["completion_tokens"] == 40
            return str(response.headers["x-syshax-placement"])

    async def load() -> tuple[list[Stream], list[str]]:
        begun = asyncio.Event()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            streams = [asyncio.create_task(stream(session, number, begun)) for number in range(2 * SLOTS)]
            await begun.wait()
            wholes = [asyncio.create_task(whole(session, number)) for number in range(2 * SLOTS)]
            await asyncio.sleep(0.2)  # some of them are inside the victim now
            killing.set()
            os.kill(victim, signal.SIGKILL)
            return await asyncio.gather(*streams), await asyncio.gather(*wholes)

    streams, wholes = asyncio.run(asyncio.wait_for(load(), 200))
    assert other in set(wholes)
    broken = [seen for seen in streams if not seen.done]
    assert broken, "the kill must have met running streams"
    for seen in broken:
        assert seen.placement == killed
        assert seen.begun_before_the_kill
        assert json.loads(seen.events[-1])["error"]["code"] == "instance_failed"
    for seen in streams:
        for event in seen.events:
            assert event == "[DONE]" or json.loads(event)
    until(lambda: daemon.status()[killed]["launches"] > generation, 30, f"{killed} is launched again")
    daemon.wait_ready()

    async def again() -> str:
        async with (
            aiohttp.ClientSession(headers={"X-Syshax-Place": killed}) as session,
        ):
            return await whole(session, 0)

    assert asyncio.run(again()) == killed
