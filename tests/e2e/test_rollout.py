# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Real vLLM: a model's instances are restarted or exchanged under streams; no answer is lost, and none differs.

The instances compute in float32, where greedy answers do not depend on who computes them.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import MODEL, START_TIMEOUT_S, Daemon
from tests.e2e.test_offload import STREAM, ask, body_of, session_to

pytestmark = pytest.mark.timeout(600)
CHAT = "/v1/chat/completions"
STREAMS = 4
TOKENS = 300
NAMES = ("gpu", "cpu")


class Streams:
    """Clients that ask for the same answers again and again."""

    def __init__(self, session: aiohttp.ClientSession, undisturbed: Mapping[int, str]) -> None:
        self.places: set[str] = set()
        """Where answers began."""
        self._session = session
        self._undisturbed = undisturbed
        self._enough = asyncio.Event()

    async def run(self) -> None:
        """Until `end` is called. Fails with the first answer that is lost or differs."""
        async with asyncio.TaskGroup() as group:
            for number in self._undisturbed:
                group.create_task(self._ask_repeatedly(number))

    def end(self) -> None:
        """Lets those that run finish."""
        self._enough.set()

    async def _ask_repeatedly(self, number: int) -> None:
        while not self._enough.is_set():
            answer = await ask(self._session, CHAT, body(number) | STREAM)
            assert answer.text == self._undisturbed[number], f"begun by {answer.placement}"
            assert answer.tokens == TOKENS
            self.places.add(answer.placement)


def body(number: int) -> dict[str, Any]:
    return body_of(CHAT, f"Tell me the story number {number}.", TOKENS)


@asynccontextmanager
async def under_streams(daemon: Daemon) -> AsyncIterator[Streams]:
    """Streams beside the block; those that run when it ends are answered to their end."""
    async with session_to(daemon) as session:
        undisturbed = {number: (await ask(session, CHAT, body(number), "gpu")).text for number in range(STREAMS)}
        streams = Streams(session, undisturbed)
        async with asyncio.TaskGroup() as group:
            group.create_task(streams.run())
            yield streams
            streams.end()


def steps_in(log: str) -> list[tuple[str, ...]]:
    """What happened, in order: instances that drain, or are READY again, and comparisons of the two."""
    found = re.finditer(
        r"(gpu|cpu): \w+ -> (DRAINING)|(gpu|cpu): STARTING -> (READY)|(parity) of gpu and cpu: agrees", log
    )
    return [step for step, _ in groupby(tuple(filter(None, each.groups())) for each in found)]


def test_a_rollout_under_streams(daemon: Daemon) -> None:
    daemon.wait_ready()
    before, log_bytes = daemon.status(), daemon.log.stat().st_size

    async def run() -> None:
        async with under_streams(daemon) as streams:
            done = await asyncio.to_thread(
                daemon.syshaxctl, "rollout", MODEL, "-o", "json", limit_s=2 * START_TIMEOUT_S
            )
            assert done.returncode == 0, done.stderr
        steps = [json.loads(line)["step"] for line in done.stdout.splitlines()]
        assert [(step["instance"], step["carried_by"]) for step in steps] == [("gpu", ["cpu"]), ("cpu", ["gpu"])]
        assert streams.places >= set(NAMES)

    asyncio.run(run())
    after = daemon.status()
    assert [after[name]["launches"] - before[name]["launches"] for name in NAMES] == [1, 1]
    steps = steps_in(daemon.log.read_bytes()[log_bytes:].decode())
    assert steps[steps.index(("gpu", "DRAINING")) :][:5] == [
        ("gpu", "DRAINING"),
        ("gpu", "READY"),
        ("parity",),
        ("cpu", "DRAINING"),
        ("cpu", "READY"),
    ]


def test_a_reload_that_fails_under_streams_touches_no_second_instance(daemon: Daemon) -> None:
    daemon.wait_ready()
    before = daemon.status()
    path = daemon.log.with_name("config.yaml")
    text = path.read_text()
    config = json.loads(text)
    for name in NAMES:
        config["services"][name]["args"]["no-such-argument"] = 1

    async def run() -> None:
        async with under_streams(daemon):
            path.write_text(json.dumps(config))
            done = await asyncio.to_thread(daemon.syshaxctl, "reload", limit_s=START_TIMEOUT_S)
            assert done.returncode == 1
            assert "rolled back: gpu failed" in done.stderr
            assert "--no-such-argument" in done.stderr
            await asyncio.to_thread(daemon.wait_ready)

    asyncio.run(run())
    assert path.read_text() == text
    after = daemon.status()
    assert [after["cpu"][key] for key in ("ident", "launches")] == [before["cpu"][key] for key in ("ident", "launches")]
