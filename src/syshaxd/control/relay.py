# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The socket in front of gRPC, which can't take one that listens already.

Its rights are right from the first moment; it can stay open while the daemon restarts, and be made again.
"""

import asyncio
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 64 * 1024
_PAUSE_S = 1.0


class Relay:
    """Passes each connection of a listening socket on to another socket. Lives in one event loop."""

    def __init__(self, listening: socket.socket, target: Path) -> None:
        """Takes no connection yet: they wait.

        Args:
            listening: A unix socket that listens.
            target: The path of the one to which its connections go.
        """
        listening.setblocking(False)
        self._listening = listening
        self._target = target
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Takes connections from now on."""
        self._accepting = asyncio.create_task(self._accept(), name="relay")

    async def pause(self) -> None:
        """Takes no more connections: they wait for whoever has the socket next."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None

    async def listen_at(self, listening: socket.socket) -> None:
        """Takes its connections from another socket; those that it has go on."""
        await self.pause()
        self._listening.close()
        listening.setblocking(False)
        self._listening = listening
        self.start()

    async def close(self) -> None:
        """Ends all connections. The listening socket stays open where somebody keeps it."""
        await self.pause()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:  # such as too many open files
                _log.warning("the admin socket takes no connection for %g s: %s", _PAUSE_S, error)
                await asyncio.sleep(_PAUSE_S)
                continue
            task = asyncio.create_task(self._pass_on(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _pass_on(self, connection: socket.socket) -> None:
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            try:
                there, here = await asyncio.open_unix_connection(os.fspath(self._target))
                try:
                    await asyncio.gather(_copy(reader, here), _copy(there, writer))
                finally:
                    here.close()
            finally:
                writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):  # the other side has gone; uvloop calls that a RuntimeError
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
