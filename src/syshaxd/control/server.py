# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where the control plane listens: a socket for the daemon's user and a group, and with mutual TLS a TCP port."""

import asyncio
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from syshaxd import rundir
from syshaxd.api.v1 import admin_pb2, scheduling_pb2
from syshaxd.api.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from syshaxd.api.v1.scheduling_pb2_grpc import add_SchedulingServiceServicer_to_server
from syshaxd.control.config import Operations
from syshaxd.control.errors import ErrorInterceptor
from syshaxd.control.scheduling import SchedulingServicer
from syshaxd.control.servicer import AdminEngine, AdminServicer
from syshaxd.core.errors import SyshaxError

_log = logging.getLogger(__name__)
_SOCKET_MODE = 0o660
GROUP = "syshax"
"""Its members may use the socket, where it exists."""
_ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_SCHEDULING = scheduling_pb2.DESCRIPTOR.services_by_name["SchedulingService"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsEndpoint:
    """A TCP port that only clients with a certificate of ours can use."""

    host: str
    port: int
    """0: any that is free."""
    cert: Path
    """The server's certificate and chain, PEM."""
    key: Path
    """Its private key, PEM."""
    client_ca: Path
    """Certificates, PEM, one of which must have signed a client's."""


class ControlServer:
    """Serves the admin service, and with operations the scheduling service."""

    def __init__(
        self,
        engine: AdminEngine,
        path: Path,
        *,
        operations: Operations | None = None,
        tls: TlsEndpoint | None = None,
        group: str = GROUP,
    ) -> None:
        """Touches nothing yet.

        Args:
            engine: Carries out commands on instances.
            path: The socket.
            operations: Carries out all other commands; None: they are unimplemented.
            tls: Where it listens beside the socket, if anywhere.
            group: Whose members may use the socket.
        """
        self._engine = engine
        self._path = path
        self._operations = operations
        self._tls = tls
        self._group = group
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._claim: int | None = None
        self.tls_port: int | None = None
        """At which it listens for TLS."""

    async def start(self) -> None:
        """Listens.

        Raises:
            SyshaxError: Another daemon has the socket, or it can't be made, or the TCP port or its files can't be used.
        """
        self._claim = await asyncio.to_thread(rundir.claim_socket, self._path)
        try:
            self._server = grpc.aio.server(interceptors=(ErrorInterceptor(),))
            await self._add_services(self._server)
            self._server.add_insecure_port(f"unix:{quote(os.fspath(self._path))}")
            await asyncio.to_thread(_open_to_group, self._path, self._group)
            if self._tls is not None:
                self.tls_port = await self._listen_with_tls(self._server, self._tls)
            await self._server.start()
        except (RuntimeError, OSError, SyshaxError) as error:
            await self.stop()
            if isinstance(error, SyshaxError):
                raise
            raise SyshaxError(f"cannot listen on {self._path}: {error}") from error

    async def stop(self) -> None:
        """Ends all calls and removes the socket. May be called at any time."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(None)  # and kept: while its last object goes, gRPC blocks the event loop
        if self._claim is not None:
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
            os.close(self._claim)
            self._claim = None

    async def _add_services(self, server: grpc.aio.Server) -> None:
        add_AdminServiceServicer_to_server(AdminServicer(self._engine, self._operations), server)  # type: ignore[no-untyped-call]
        names = [_ADMIN]
        if (there := self._operations) is not None:
            servicer = SchedulingServicer(there.engine, there.leases)
            add_SchedulingServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
            names.append(_SCHEDULING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def _listen_with_tls(self, server: grpc.aio.Server, tls: TlsEndpoint) -> int:
        where = f"{tls.host}:{tls.port}"
        files = {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca}
        pem = {name: await asyncio.to_thread(_read, name, path) for name, path in files.items()}
        credentials = grpc.ssl_server_credentials(
            [(pem["key"], pem["cert"])], root_certificates=pem["client_ca"], require_client_auth=True
        )
        try:
            port = server.add_secure_port(where, credentials)
        except RuntimeError as error:
            raise SyshaxError(
                f"control.tcp: cannot listen on {where}: {error}; see who has the port (ss -ltnp), and whether "
                "control.tcp.cert and control.tcp.key belong together"
            ) from error
        _log.info(
            "the control plane listens on %s:%d, for clients with a certificate of %s", tls.host, port, tls.client_ca
        )
        return port


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SyshaxError(f"control.tcp.{name}: cannot read {path}: {error.strerror}") from error


def _open_to_group(path: Path, group: str) -> None:
    path.chmod(_SOCKET_MODE)
    try:
        shutil.chown(path, group=group)
    except LookupError:
        _log.info("there is no group %s: the socket %s is for this user and its group only", group, path)
    except PermissionError:
        _log.info("this user is not in the group %s: the socket %s is for this user and its group only", group, path)
