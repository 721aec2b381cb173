# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the daemon really sends to an instance, read by the letter of RFC 9112."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass

_START = re.compile(rb"[A-Z]+ [\x21-\x7e]+ HTTP/1\.1")
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class AmbiguousError(Exception):
    """Two servers may read it differently."""


@dataclass
class Sent:
    """One request."""

    start: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def read_all(data: bytes) -> list[Sent]:
    """The requests of one connection; the last may be cut short.

    Raises:
        AmbiguousError: What is sent is not strictly what the RFC allows.
    """
    found = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return found
        start, *lines = head.split(b"\r\n")
        if not _START.fullmatch(start):
            raise AmbiguousError(f"a request line: {start[:100]!r}")
        for line in lines:
            if not _FIELD.fullmatch(line):
                raise AmbiguousError(f"a header line: {line[:100]!r}")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        sent = Sent(start, headers, b"")
        if sent.values(b"transfer-encoding"):
            raise AmbiguousError("a chunked request: the daemon sends whole ones")
        lengths = sent.values(b"content-length")
        if len(lengths) > 1 or not all(value.isdigit() for value in lengths) or len(sent.values(b"host")) != 1:
            raise AmbiguousError(f"headers: {headers}")
        length = int(lengths[0]) if lengths else 0
        sent.body, data = rest[:length], rest[length:]
        found.append(sent)
    return found


class Wire:
    """A listener that passes everything on to an instance and remembers what went there."""

    def __init__(self, instance: int) -> None:
        self._instance = instance
        self.port = 0
        self.connections: list[bytearray] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def requests(self) -> list[Sent]:
        """All so far, of all connections."""
        return [sent for connection in self.connections for sent in read_all(bytes(connection))]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        seen = bytearray()
        self.connections.append(seen)
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._instance)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, back_writer, seen))
                group.create_task(_copy(back_reader, writer, None))
        finally:
            writer.transport.abort()
            back_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray | None) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            if seen is not None:
                seen += data
            writer.write(data)
    writer.transport.abort()
