# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Serves the control plane on a socket for the daemon's user and a group, and optionally on TCP with mutual TLS."""

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from syshaxd.api.v1 import admin_pb2, scheduling_pb2
from syshaxd.api.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from syshaxd.api.v1.scheduling_pb2_grpc import add_SchedulingServiceServicer_to_server
from syshaxd.control.config import Operations
from syshaxd.control.errors import ErrorInterceptor
from syshaxd.control.relay import Relay
from syshaxd.control.scheduling import SchedulingServicer
from syshaxd.control.servicer import AdminEngine, AdminServicer
from syshaxd.core.address import Address
from syshaxd.core.errors import SyshaxError
from syshaxd.system import rundir

_log = logging.getLogger(__name__)
_SOCKET_MODE = 0o660
_BACKLOG = 128
_CHECK_INTERVAL_S = 5.0
_GRACE_S = 1.0
"""For calls that run when another daemon is to take the socket over."""
GROUP = "syshax"
"""Members of this group, if it exists, may use the socket."""
_ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_SCHEDULING = scheduling_pb2.DESCRIPTOR.services_by_name["SchedulingService"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsEndpoint:
    """A TCP port for clients with a certificate."""

    host: str
    port: int
    """0: any free port."""
    cert: Path
    """The server's certificate chain, PEM."""
    key: Path
    """Its private key, PEM."""
    client_ca: Path
    """CA certificates that may sign clients' certificates, PEM."""


class ControlServer:
    """Serves the admin service and, with operations, the scheduling service."""

    def __init__(
        self,
        engine: AdminEngine,
        path: Path,
        *,
        operations: Operations | None = None,
        tls: TlsEndpoint | None = None,
        group: str = GROUP,
        kept: socket.socket | None = None,
        keep: Callable[[socket.socket], None] | None = None,
        check_interval_s: float = _CHECK_INTERVAL_S,
    ) -> None:
        """Touches nothing yet.

        Args:
            engine: Carries out commands on instances.
            path: The socket.
            operations: Carries out all other commands; None: they are unimplemented.
            tls: Where to listen besides the socket; None: nowhere.
            group: Whose members may use the socket.
            kept: The socket as the daemon before this one left it, listening; connections may wait in it.
            keep: Has somebody else hold the listening socket, so that it stays open when this daemon ends.
            check_interval_s: How often it looks whether the socket is still there.
        """
        self._engine = engine
        self._path = path
        self._operations = operations
        self._tls = tls
        self._group = group
        self._kept = kept
        self._keep = keep
        self._check_interval_s = check_interval_s
        self._guard: asyncio.Task[None] | None = None
        self._made: tuple[int, int] | None = None
        self._relay: Relay | None = None
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._claim: int | None = None
        self.tls_port: int | None = None
        """The TLS port in use."""

    async def start(self) -> None:
        """Listens.

        Raises:
            SyshaxError: Another daemon has the socket, it can't be created, or the TCP port or its files can't be used.
        """
        kept, self._kept = self._kept, None
        if kept is not None and not await asyncio.to_thread(_is_at, kept, self._path):
            kept.close()
            kept = None
        self._claim = await asyncio.to_thread(rundir.claim_socket, self._path, in_use=kept is not None)
        try:
            await self._start_grpc()
            if kept is None:
                kept = await asyncio.to_thread(self._listen)
            self._relay = Relay(kept, self._behind)
            self._made = await asyncio.to_thread(_identity, self._path)
            self._relay.start()
            self._guard = asyncio.create_task(self._guard_socket(), name="admin socket")
        except (RuntimeError, OSError, SyshaxError) as error:
            try:
                await self.stop()
            except Exception:  # noqa: BLE001 - the first error is the one to tell
                _log.exception("the control plane could neither be started nor stopped cleanly")
            if isinstance(error, SyshaxError):
                raise
            raise SyshaxError(f"cannot listen on {self._path}: {error}") from error

    async def stop(self, *, leave_socket: bool = False) -> None:
        """Ends all calls and removes the socket. May be called at any time.

        Args:
            leave_socket: Whether another daemon takes it over, if somebody keeps it. Short calls then end well.
        """
        leave_socket = leave_socket and self._relay is not None and self._keep is not None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.cancel()
        if self._relay is not None:
            await self._relay.pause()
        if guard is not None:
            await asyncio.gather(guard, return_exceptions=True)
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            # Kept referenced: gRPC blocks the event loop while its last object is freed.
            await self._server.stop(_GRACE_S if leave_socket else None)
        if self._relay is not None:
            await self._relay.close()
            self._relay = None
        if self._server is not None:
            await asyncio.to_thread(shutil.rmtree, self._behind.parent, ignore_errors=True)
        if self._claim is not None:
            if not leave_socket:
                await asyncio.to_thread(self._path.unlink, missing_ok=True)
            os.close(self._claim)
            self._claim = None

    @property
    def _behind(self) -> Path:
        """Where gRPC listens behind the relay, in a folder for this user only."""
        return Path(f"{self._path}{rundir.BEHIND}")

    async def _start_grpc(self) -> None:
        self._server = grpc.aio.server(interceptors=(ErrorInterceptor(),))
        await self._add_services(self._server)
        await asyncio.to_thread(_make_private, self._behind.parent)
        self._server.add_insecure_port(f"unix:{quote(os.fspath(self._behind))}")
        if self._tls is not None:
            self.tls_port = await self._listen_with_tls(self._server, self._tls)
        await self._server.start()

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listening.bind(os.fspath(self._path))
            _open_to_group(self._path, self._group)  # nobody can connect before it listens
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        if self._keep is not None:
            self._keep(listening)
        return listening

    async def _guard_socket(self) -> None:
        """Recreates the socket whenever it was removed, for example by a clean-up of /tmp or /run. Never returns."""
        told = ""
        while True:
            await asyncio.sleep(self._check_interval_s)
            try:
                if await asyncio.to_thread(self._is_in_place):
                    continue
                await self._restore()
            except (RuntimeError, OSError, SyshaxError) as error:
                if str(error) != told:
                    told = str(error)
                    _log.error("the admin socket %s was removed and cannot be recreated: %s", self._path, error)
            else:
                told = ""
                _log.warning("the admin socket %s was removed; recreated it", self._path)

    def _is_in_place(self) -> bool:
        return _identity(self._path) == self._made and self._behind.is_socket()

    async def _restore(self) -> None:
        assert self._relay is not None
        if await asyncio.to_thread(_identity, self._path) != self._made:
            if self._claim is not None:
                os.close(self._claim)  # the lock file may be gone too
                self._claim = None
            self._claim = await asyncio.to_thread(rundir.claim_socket, self._path)
            await self._relay.listen_at(await asyncio.to_thread(self._listen))
            self._made = await asyncio.to_thread(_identity, self._path)
        if self._server is not None and not await asyncio.to_thread(self._behind.is_socket):
            await self._server.stop(None)
            await self._start_grpc()

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
        where = Address(tls.host, tls.port).authority
        files = {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca}
        pem = {name: await asyncio.to_thread(_read, name, path) for name, path in files.items()}
        credentials = grpc.ssl_server_credentials(
            [(pem["key"], pem["cert"])], root_certificates=pem["client_ca"], require_client_auth=True
        )
        try:
            port = server.add_secure_port(where, credentials)
        except RuntimeError as error:
            raise SyshaxError(
                f"control.tcp: cannot listen on {where}: {error}; check who has the port (ss -ltnp) and whether "
                "control.tcp.cert and control.tcp.key belong together"
            ) from error
        _log.info(
            "the control plane listens on %s for clients with a certificate from %s",
            Address(tls.host, port),
            tls.client_ca,
        )
        return port


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SyshaxError(f"control.tcp.{name}: cannot read {path}: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Identity of the file at a path; None: there is none."""
    try:
        info = path.lstat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _make_private(folder: Path) -> None:
    """Recreates a folder that only this user can enter."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _is_at(kept: socket.socket, path: Path) -> bool:
    return kept.getsockname() == os.fspath(path) and path.is_socket()


def _open_to_group(path: Path, group: str) -> None:
    path.chmod(_SOCKET_MODE)
    try:
        shutil.chown(path, group=group)
    except LookupError:
        _log.info("no group %s: only this user and its group can use the socket %s", group, path)
    except PermissionError:
        _log.info("this user is not in the group %s: only this user and its group can use the socket %s", group, path)
