# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A load client that trusts nothing: every answer is compared, byte for byte, with what the model must say."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from syshax_sim.text import answer, render_chat
from tests.faults.secure import HEADERS, trusting

LIMIT_S = 120.0
"""A request that has no end after so long hangs."""


@dataclass
class Got:
    """What became of one request."""

    verdict: str
    """One of "ok", "refused" (429 or 503, with an error object), "lost" (it failed, and the client can tell),
    "corrupt" (wrong, or cut short so that the client can't tell) and "hung"."""
    detail: str = ""
    status: int = 0
    longest_pause_s: float = 0.0
    """Between two pieces of the answer."""


@dataclass
class Counts:
    """What became of many."""

    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    longest_pause_s: float = 0.0

    def add(self, got: Got) -> None:
        self.verdicts[got.verdict] += 1
        self.statuses[got.status] += 1
        if got.verdict != "ok":
            self.details[f"{got.verdict}: {got.detail[:300]}"] += 1
        self.longest_pause_s = max(self.longest_pause_s, got.longest_pause_s)

    @property
    def tried(self) -> int:
        return self.verdicts.total()

    def told(self) -> str:
        return "; ".join(f"{count} x {text}" for text, count in self.details.most_common(8)) or "all well"


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"This is request number {number}, and its answer is like no other. " * 4}]


def chat(number: int, *, tokens: int, stream: bool = True, **more: Any) -> dict[str, Any]:
    asked = {"model": "m", "messages": messages(number), "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    return asked | more


def request(body: Any, *, path: str = "/v1/chat/completions", version: str = "1.1", headers: str = "") -> bytes:
    """A whole request whose connection ends with it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}{HEADERS}{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


class TruncatedError(Exception):
    """The connection ended inside the answer."""


async def exchange(port: int, data: bytes, *, pauses: list[float] | None = None) -> tuple[bytes, bool]:
    """Sends bytes; returns all that comes back, and whether the connection ended in order rather than by a reset."""
    loop = asyncio.get_running_loop()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, ssl=trusting())
    except OSError:
        return b"", False
    pieces, last_s = [], loop.time()
    try:
        writer.write(data)
        while piece := await reader.read(1 << 18):
            if pauses is not None:
                pauses.append(loop.time() - last_s)
                last_s = loop.time()
            pieces.append(piece)
    except OSError:
        return b"".join(pieces), False
    else:
        return b"".join(pieces), True
    finally:
        writer.transport.abort()


def dechunk(data: bytes) -> bytes:
    """The body inside HTTP's chunks.

    Raises:
        TruncatedError: The last chunk is missing.
    """
    body = []
    while True:
        size, end, data = data.partition(b"\r\n")
        if not end:
            raise TruncatedError
        length = int(size, 16)
        if length == 0:
            if data != b"\r\n":
                raise ValueError(f"after the last chunk: {data[:80]!r}")
            return b"".join(body)
        if len(data) < length + 2:
            raise TruncatedError
        body.append(data[:length])
        if data[length : length + 2] != b"\r\n":
            raise ValueError(f"after a chunk: {data[length : length + 20]!r}")
        data = data[length + 2 :]


def judge(raw: bytes, orderly: bool, number: int, *, tokens: int, stream: bool) -> Got:
    """Compares an answer with what it must be."""
    if not raw:
        return Got("lost", "no answer at all")
    head, end, rest = raw.partition(b"\r\n\r\n")
    try:
        status = int(head[9:12])
    except ValueError:
        return Got("corrupt", f"no head: {raw[:80]!r}")
    if not end:
        return Got("lost", "cut inside its head", status)
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
    headers = {name: value.strip() for name, _, value in lines}
    try:
        if headers.get(b"transfer-encoding") == b"chunked":
            body = dechunk(rest)
        elif b"content-length" in headers:
            if len(rest) < int(headers[b"content-length"]):
                raise TruncatedError
            body = rest
        elif orderly:  # the end of the connection ends the answer; one that is cut must end in a reset
            body = rest
        else:
            raise TruncatedError
    except TruncatedError:
        return Got("lost", "cut inside its body", status)
    except ValueError as error:
        return Got("corrupt", f"framing: {error}", status)
    if status != 200:
        verdict = "refused" if status in {429, 503} and b'"error"' in body else "lost"
        return Got(verdict, f"{status}: {body[:200].decode(errors='replace')}", status)
    return judge_body(body, number, tokens=tokens, stream=stream)


def judge_body(body: bytes, number: int, *, tokens: int, stream: bool) -> Got:
    """Compares the body of an answer with status 200."""
    wanted = answer(render_chat(messages(number)), tokens)
    try:
        if not stream:
            (choice,) = json.loads(body)["choices"]
            told = choice["message"]["content"]
            reasons = [choice["finish_reason"]]
        else:
            blocks = body.decode().split("\n\n")
            if blocks[-1]:
                return Got("corrupt", f"ends in {blocks[-1][-80:]!r}", 200)
            if '"error"' in body.decode()[-2000:] and '"choices"' not in blocks[-2]:
                failed = [block for block in blocks if '"error"' in block]
                if failed:
                    return Got("lost", f"error event: {failed[0][:200]}", 200)
            if blocks[-2] != "data: [DONE]":
                return Got("corrupt", f"ends in {blocks[-2][-80:]!r}", 200)
            events = [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]
            choices = [event["choices"][0] for event in events if event.get("choices")]
            told = "".join(choice["delta"].get("content") or "" for choice in choices)
            reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
            if len({event["id"] for event in events}) != 1:
                return Got("corrupt", "several ids in one stream", 200)
    except (ValueError, KeyError, TypeError) as error:
        return Got("corrupt", f"{type(error).__name__}: {error}: {body[-200:]!r}", 200)
    if told != wanted:
        at = next(
            (i for i, (a, b) in enumerate(zip(told, wanted, strict=False)) if a != b), min(len(told), len(wanted))
        )
        return Got("corrupt", f"{len(told)} of {len(wanted)} characters, differs at {at}: {told[at : at + 30]!r}", 200)
    if reasons != ["length"]:
        return Got("corrupt", f"finish reasons {reasons}", 200)
    return Got("ok", status=200)


async def ask(
    port: int,
    number: int,
    *,
    tokens: int = 8,
    stream: bool = True,
    version: str = "1.1",
    headers: str = "",
    **more: Any,
) -> Got:
    """One chat from beginning to end."""
    data = request(chat(number, tokens=tokens, stream=stream, **more), version=version, headers=headers)
    pauses: list[float] = []
    try:
        async with asyncio.timeout(LIMIT_S):
            raw, orderly = await exchange(port, data, pauses=pauses)
    except TimeoutError:
        return Got("hung", f"no end after {LIMIT_S:g} s")
    got = judge(raw, orderly, number, tokens=tokens, stream=stream)
    # The wait for the first piece is no standstill: a request may wait for its turn.
    got.longest_pause_s = max(pauses[1:], default=0.0)
    return got


async def ask_many(port: int, numbers: Iterable[int], *, at_once: int, **options: Any) -> Counts:
    """Many chats, so many at a time."""
    counts, left = Counts(), iter(numbers)

    async def worker() -> None:
        for number in left:
            counts.add(await ask(port, number, **options))

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return counts


class Load:
    """Streams that run until `stop` is set; each ends by itself."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.stop = asyncio.Event()
        self.begun = 0

    async def run(self, port: int, *, at_once: int, first: int = 1_000_000, **options: Any) -> None:
        async def worker() -> None:
            while not self.stop.is_set():
                self.begun += 1
                self.counts.add(await ask(port, first + self.begun, **options))

        await asyncio.gather(*(worker() for _ in range(at_once)))


@asynccontextmanager
async def under_load(port: int, *, at_once: int, **options: Any) -> AsyncIterator[Load]:
    """Streams that run beside the block, and end in order after it."""
    load = Load()
    task = asyncio.create_task(load.run(port, at_once=at_once, **options))
    try:
        while load.begun < at_once:
            await asyncio.sleep(0.01)
        yield load
        load.stop.set()
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
