# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A client of either HTTP/1.0 or 1.1 that sees exactly what comes, and how it ends."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from syshaxd.core.wire.http1 import Dechunker


@dataclass(frozen=True)
class Got:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    """Without its framing."""
    complete: bool
    """The framing says that all of it has come, and no reset came."""

    def events(self) -> list[Any]:
        """The JSON of the stream's events; `[DONE]` is a string."""
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        texts = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


async def ask(url: str, path: str, body: Any, *, version: str = "1.1", headers: dict[str, str] | None = None) -> Got:
    """Sends a POST; returns when the connection has ended."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    lines = {"Host": "h", "Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | (headers or {})).items())
    writer.write(f"POST {path} HTTP/{version}\r\n{head}\r\n".encode() + data)
    received = b""
    reset = False
    try:
        while piece := await asyncio.wait_for(reader.read(65536), 50):
            received += piece
    except ConnectionError:
        reset = True
    writer.close()
    return parse(received, reset=reset)


def parse(received: bytes, *, reset: bool) -> Got:
    """An answer from all the bytes of a connection."""
    text, _, rest = received.partition(b"\r\n\r\n")
    status, *lines = text.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        assert name.lower() not in headers, f"{name} comes twice"
        headers[name.lower()] = value
    complete = not reset
    if headers.get("transfer-encoding") == "chunked":
        dechunker = Dechunker()
        rest = dechunker.feed(rest)
        complete = dechunker.ended
    elif "content-length" in headers:
        complete = len(rest) == int(headers["content-length"])
    return Got(int(status.split()[1]), headers, rest, complete)
