# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The real daemon under 1,000 streams at once, three times over: none lost, none corrupted, and memory stays flat.

Two simulated instances hold every answer back until all requests have reached them; then all streams run together.
"""

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from syshax_sim.text import answer, render_chat
from tests.fakes.ports import free_port

STREAMS = 1000
TOKENS = 60
ROUNDS = 3
MOST_ROUNDS = 6
LIMIT_S = 150.0
MEMORY_TOLERANCE_BYTES = 2 * 1024 * 1024
PROFILE = {
    "prefill_tokens_per_s": 1e6,
    "step_base_s": 0.03,
    "step_per_request_s": 0,
    "max_num_seqs": STREAMS,
}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Two thousand connections in the daemon, one thousand here; child processes inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * STREAMS if hard == resource.RLIM_INFINITY else min(hard, 4 * STREAMS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def child(*argv: str, env: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ended with the block, and must end cleanly."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env=env)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(LIMIT_S):
            assert await process.wait() == 0


async def start_sim(stack: AsyncExitStack, profile: Path) -> int:
    """Starts a simulated instance; returns its port."""
    argv = (sys.executable, "-m", "syshax_sim", "--port", "0", "--profile", str(profile))
    process = await stack.enter_async_context(child(*argv))
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    return int(line.rpartition(":")[2])


async def until(state: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a state of another process, which sends no event; `bed` limits the time."""
    while not await state():
        await asyncio.sleep(0.02)


class Client(asyncio.Protocol):
    """One connection with one streaming request: keeps all bytes until the server closes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.received: list[bytes] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"stream number {self.number}"}]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        body = json.dumps(
            {
                "model": "m",
                "messages": self.messages(),
                "max_tokens": TOKENS,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def check(self) -> None:
        """Every byte of the answer is as it must be."""
        head, _, rest = b"".join(self.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        text = dechunk(rest).decode()
        blocks = text.split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        events: list[Any] = [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]
        role, *tokens, usage = events
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        content = "".join(event["choices"][0]["delta"]["content"] for event in tokens)
        assert content == answer(render_chat(self.messages()), TOKENS)
        assert [event["choices"][0]["finish_reason"] for event in tokens] == [None] * (len(tokens) - 1) + ["length"]
        assert usage["usage"]["completion_tokens"] == TOKENS
        assert len({event["id"] for event in events}) == 1


def dechunk(data: bytes) -> bytes:
    """The body inside HTTP's chunks, all of which must be there."""
    body = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert data == b"\r\n", "nothing follows the last chunk"
            return b"".join(body)
        body.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]


class Bed:
    """The daemon and its two instances."""

    def __init__(self, http: aiohttp.ClientSession, daemon: psutil.Process, port: int, sims: list[int]) -> None:
        self.http = http
        self.daemon = daemon
        self.port = port
        self.sims = sims

    async def hold(self, held: bool) -> None:
        """Has the instances hold back their answers, or let them go."""
        for port in self.sims:
            async with self.http.post(f"http://127.0.0.1:{port}/sim/fault", json={"stall": held}) as answered:
                assert answered.status == 200

    async def stats(self) -> list[dict[str, int]]:
        found = []
        for port in self.sims:
            async with self.http.get(f"http://127.0.0.1:{port}/sim/stats") as answered:
                found.append(await answered.json())
        return found

    async def until_idle(self) -> None:
        """Waits until the daemon, too, has seen every request end."""

        async def idle() -> bool:
            lines = (await self.metrics()).splitlines()
            return sum(line.startswith("syshax_requests_inflight") and line.endswith(" 0.0") for line in lines) == 2

        await until(idle)

    async def metrics(self) -> str:
        async with self.http.get(f"http://127.0.0.1:{self.port}/metrics") as answered:
            return await answered.text()


@asynccontextmanager
async def bed(folder: Path) -> AsyncIterator[Bed]:
    profile = folder / "profile.json"
    profile.write_text(json.dumps(PROFILE))
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        sims = [await start_sim(stack, profile) for _ in range(2)]
        port = free_port()
        config = folder / "config.yaml"
        config.write_text(
            f"""
models: {{default: m}}
scheduler: {{policy: turn, holdout: 0}}  # both work, whether that pays or not
services:
  gpu: {{runtime: external, port: {sims[0]}, max_num_seqs: {STREAMS // 2}}}
  cpu: {{runtime: external, port: {sims[1]}, max_num_seqs: {STREAMS // 2}}}
  conductor: {{port: {port}}}
control: {{socket: {folder}/admin.sock}}
"""
        )
        argv = (str(Path(sys.executable).parent / "syshaxd"), "--config", str(config))
        env = os.environ | {"XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder)}
        daemon = await stack.enter_async_context(child(*argv, env=env))

        async def ready() -> bool:
            assert daemon.returncode is None, "the daemon has ended"
            try:
                async with http.get(f"http://127.0.0.1:{port}/ready?all=1") as answered:
                    return answered.status == 200
            except aiohttp.ClientConnectorError:
                return False

        await until(ready)
        yield Bed(http, psutil.Process(daemon.pid), port, sims)


async def one_round(test_bed: Bed) -> None:
    loop = asyncio.get_running_loop()
    await test_bed.hold(True)
    clients = []
    for number in range(STREAMS):
        _, client = await loop.create_connection(lambda number=number: Client(number), "127.0.0.1", test_bed.port)
        clients.append(client)

    async def all_arrived() -> bool:
        # The daemon may be testing its instances with a chat or two of its own.
        return sum(stats["waiting"] + stats["running"] for stats in await test_bed.stats()) >= STREAMS

    await until(all_arrived)
    assert not any(client.received for client in clients), "all streams run at the same time"
    await test_bed.hold(False)
    await asyncio.gather(*[client.closed for client in clients])
    for client in clients:
        client.check()
    await test_bed.until_idle()


def count_ended(metrics: str) -> Counter[str]:
    """How many requests have ended, by outcome, as the daemon counts them."""
    ended: Counter[str] = Counter()
    for family in text_string_to_metric_families(metrics):
        if family.name == "syshax_requests":
            for sample in family.samples:
                ended[sample.labels["outcome"]] += int(sample.value)
    return ended


async def test_a_thousand_streams_three_times(tmp_path: Path) -> None:
    used_bytes = []
    async with bed(tmp_path) as test_bed:
        # The daemon remembers its latest 2,000 requests: there are so many only after the second round.
        # A leak shows in every round, what the allocator keeps in some.
        while len(used_bytes) < ROUNDS or (len(used_bytes) < MOST_ROUNDS and grows(used_bytes)):
            await one_round(test_bed)
            used_bytes.append(test_bed.daemon.memory_full_info().uss)
        gpu, cpu = await test_bed.stats()
        assert min(gpu["peak_running"], cpu["peak_running"]) > STREAMS // 4, "both instances work"
        assert gpu["aborted"] + cpu["aborted"] == 0
        ended = count_ended(await test_bed.metrics())
        assert ended.keys() == {"ok"}
        assert ended["ok"] >= len(used_bytes) * STREAMS
    print(f"memory of the daemon after each round: {[f'{used >> 10} KiB' for used in used_bytes]}")
    assert not grows(used_bytes), used_bytes


def grows(used_bytes: Sequence[int]) -> bool:
    return used_bytes[-1] > used_bytes[-2] + MEMORY_TOLERANCE_BYTES
