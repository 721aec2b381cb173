#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Passes bytes between clients and two engines in turn, and reads none: the least that a gateway in Python costs.

pump.py PORT ENGINE_PORT...
"""

import asyncio
import itertools
import sys

import uvloop


class Side(asyncio.Protocol):
    """One side of a connection; what arrives goes to the other side, or waits until that is connected."""

    def __init__(self, other: asyncio.Transport | None = None) -> None:
        self.other = other
        self.waiting = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.waiting += data
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class ClientSide(Side):
    """A client's side; connects to an engine."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.connecting = asyncio.ensure_future(self.connect())

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self.other, _ = await loop.create_connection(lambda: Side(self.transport), "127.0.0.1", self.port)
        self.other.write(self.waiting)


async def main(port: int, *engines: int) -> None:
    turns = itertools.cycle(engines)
    server = await asyncio.get_running_loop().create_server(lambda: ClientSide(next(turns)), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
