# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The admin service's socket: for the user who runs the daemon, and the socket's group."""

import asyncio
import os
from pathlib import Path
from urllib.parse import quote

import grpc

from syshaxd import rundir
from syshaxd.api.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from syshaxd.control.errors import ErrorInterceptor
from syshaxd.control.servicer import AdminEngine, AdminServicer
from syshaxd.core.errors import SyshaxError

_SOCKET_MODE = 0o660


class ControlServer:
    """Serves the Engine's commands on one socket."""

    def __init__(self, engine: AdminEngine, path: Path) -> None:
        """Touches nothing yet."""
        self._engine = engine
        self._path = path
        self._server: grpc.aio.Server | None = None
        self._claim: int | None = None

    async def start(self) -> None:
        """Listens.

        Raises:
            SyshaxError: Another daemon has the socket, or it can't be made.
        """
        self._claim = await asyncio.to_thread(rundir.claim_socket, self._path)
        try:
            self._server = grpc.aio.server(interceptors=(ErrorInterceptor(),))
            add_AdminServiceServicer_to_server(AdminServicer(self._engine), self._server)  # type: ignore[no-untyped-call]
            self._server.add_insecure_port(f"unix:{quote(os.fspath(self._path))}")
            await asyncio.to_thread(self._path.chmod, _SOCKET_MODE)
            await self._server.start()
        except (RuntimeError, OSError) as error:
            await self.stop()
            raise SyshaxError(f"cannot listen on {self._path}: {error}") from error

    async def stop(self) -> None:
        """Ends all calls and removes the socket. May be called at any time."""
        if self._server is not None:
            await self._server.stop(None)  # and kept: while its last object goes, gRPC blocks the event loop
        if self._claim is not None:
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
            os.close(self._claim)
            self._claim = None
