# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Serves the control plane on a socket for the daemon's user and a group, and optionally on TCP with mutual TLS."""

import asyncio
import logging
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from syshaxd.api.v1 import admin_pb2, scheduling_pb2
from syshaxd.api.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from syshaxd.api.v1.scheduling_pb2_grpc import add_SchedulingServiceServicer_to_server
from syshaxd.control.errors import ErrorInterceptor
from syshaxd.control.operations import Operations
from syshaxd.control.scheduling import SchedulingServicer
from syshaxd.control.servicer import AdminServicer
from syshaxd.core.address import Address
from syshaxd.core.config import TcpConfig
from syshaxd.core.errors import SyshaxError
from syshaxd.system import rundir, smallfile

_log = logging.getLogger(__name__)
_SOCKET_MODE = 0o660
_CHECK_INTERVAL_S = 5.0
_GRACE_S = 1.0
"""For calls that run when another daemon is to take the socket over."""
GROUP = "syshax"
"""Members of this group, if it exists, may use the socket."""
_ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_SCHEDULING = scheduling_pb2.DESCRIPTOR.services_by_name["SchedulingService"].full_name
# Above 1000 calls that wait to be taken up, gRPC by default drops them at random, without a reason.
_OPTIONS = tuple((f"grpc.server.max_pending_requests{limit}", 2**31 - 1) for limit in ("", "_hard_limit"))


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

    @classmethod
    def from_config(cls, tcp: TcpConfig) -> Self | None:
        """The endpoint of a configuration; None: it has none."""
        if tcp.port is None or tcp.cert is None or tcp.key is None or tcp.client_ca is None:
            return None
        return cls(host=tcp.host, port=tcp.port, cert=Path(tcp.cert), key=Path(tcp.key), client_ca=Path(tcp.client_ca))


class ControlServer:
    """Serves the admin and the scheduling service, health and reflection."""

    def __init__(
        self,
        operations: Operations,
        path: Path,
        *,
        tls: TlsEndpoint | None = None,
        group: str = GROUP,
        check_interval_s: float = _CHECK_INTERVAL_S,
    ) -> None:
        """Does no I/O yet.

        Args:
            operations: Carries out the commands.
            path: The socket.
            tls: Where to listen besides the socket; None: nowhere.
            group: Whose members may use the socket.
            check_interval_s: How often it looks whether the socket is still there.
        """
        self._operations = operations
        self._path = path
        self._tls = tls
        self._group = group
        self._check_interval_s = check_interval_s
        self._guard: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._claim: int | None = None
        self._published: os.stat_result | None = None
        self.tls_port: int | None = None
        """The TLS port in use."""

    async def start(self) -> None:
        """Listens.

        Raises:
            SyshaxError: Another daemon has the socket, it can't be created, or the TCP port or its files can't be used.
        """
        self._claim = await asyncio.to_thread(rundir.claim_socket, self._path)
        try:
            await self._start_grpc()
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
            leave_socket: Another daemon follows at once: clients that find the socket wait for it, and short calls end
                well.
        """
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            # Kept referenced: gRPC blocks the event loop while its last object is freed.
            await self._server.stop(_GRACE_S if leave_socket else None)
            await asyncio.to_thread(self._clear, leave_socket=leave_socket)
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    @property
    def _bound(self) -> Path:
        """The path that gRPC binds, in a folder for this user only; the socket is a second name of it.

        So it has its rights before anybody else can connect, replaces a dead daemon's in one step, and comes back by a
        new link where its name was removed: gRPC can do none of that.
        """
        return Path(f"{self._path}{rundir.BOUND}")

    async def _start_grpc(self) -> None:
        self._server = grpc.aio.server(interceptors=(ErrorInterceptor(),), options=_OPTIONS)
        await self._add_services(self._server)
        await asyncio.to_thread(_remove_bound, self._bound)
        await asyncio.to_thread(self._bound.parent.mkdir, mode=0o700)
        self._server.add_insecure_port(f"unix:{quote(os.fspath(self._bound))}")
        if self._tls is not None:
            self.tls_port = await self._listen_with_tls(self._server, self._tls)
        await self._server.start()
        await asyncio.to_thread(self._publish)

    def _publish(self) -> None:
        """Gives the socket its name."""
        _open_to_group(self._bound, self._group)
        self._published = self._bound.lstat()
        link = self._path.with_name(f"{self._path.name}.new")
        link.unlink(missing_ok=True)
        link.hardlink_to(self._bound)
        link.replace(self._path)

    def _clear(self, *, leave_socket: bool) -> None:
        """Removes what this server has created; nothing that somebody else has put in its place."""
        if not leave_socket and self._published is not None and _identity(self._path) == _file(self._published):
            self._path.unlink()
        try:
            _remove_bound(self._bound)
        except SyshaxError as error:
            _log.warning("%s", error)

    async def _guard_socket(self) -> None:
        """Recreates the socket whenever it was removed, for example by a clean-up of /tmp or /run. Never returns."""
        reported = ""
        while True:
            await asyncio.sleep(self._check_interval_s)
            try:
                if await asyncio.to_thread(self._is_in_place):
                    await asyncio.to_thread(self._restore_rights)
                    continue
                await self._restore()
            except (RuntimeError, OSError, SyshaxError) as error:
                if str(error) != reported:
                    reported = str(error)
                    _log.error("the admin socket %s was removed and cannot be recreated: %s", self._path, error)
            else:
                reported = ""
                _log.warning("the admin socket %s was removed; recreated it", self._path)

    def _is_in_place(self) -> bool:
        return self._bound.is_socket() and _identity(self._path) == _identity(self._bound)

    def _restore_rights(self) -> None:
        """Whoever may use the socket may do everything, so nobody but this server says who that is."""
        was, now = self._published, self._bound.lstat()
        if was is None or _rights(was) == _rights(now):
            return
        os.chown(self._bound, was.st_uid, was.st_gid)
        self._bound.chmod(_SOCKET_MODE)
        _log.warning(
            "the admin socket %s had other rights (mode %04o, uid %d, gid %d); restored them", self._path, *_rights(now)
        )

    async def _restore(self) -> None:
        is_bound = await asyncio.to_thread(self._bound.is_socket)
        if not is_bound and self._server is not None:
            await self._server.stop(None)
        if self._claim is not None:
            os.close(self._claim)  # the lock file may be gone too
            self._claim = None
        self._claim = await asyncio.to_thread(rundir.claim_socket, self._path)
        if is_bound:
            await asyncio.to_thread(self._publish)
        else:
            await self._start_grpc()

    async def _add_services(self, server: grpc.aio.Server) -> None:
        admin, scheduling = AdminServicer(self._operations), SchedulingServicer(self._operations)
        add_AdminServiceServicer_to_server(admin, server)  # type: ignore[no-untyped-call]
        add_SchedulingServiceServicer_to_server(scheduling, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for name in ("", _ADMIN, _SCHEDULING):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((_ADMIN, _SCHEDULING, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

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
        return smallfile.read(path)
    except OSError as error:
        raise SyshaxError(f"control.tcp.{name}: cannot read {path}: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Identity of the file at a path; None: there is none."""
    try:
        info = path.lstat()
    except OSError:
        return None
    return _file(info)


def _file(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _rights(info: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid


def _remove_bound(bound: Path) -> None:
    """Removes a socket that gRPC has bound, and its folder. Raises SyshaxError: something else is in its place."""
    try:
        if not bound.parent.is_symlink() and stat.S_ISSOCK(bound.lstat().st_mode):
            bound.unlink()
    except OSError:  # the folder tells what is wrong, if anything is
        pass
    try:
        bound.parent.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SyshaxError(
            f"{bound.parent} is where the admin socket needs a folder of its own: {error.strerror}; remove it, or set "
            "control.socket to another place"
        ) from error


def _open_to_group(path: Path, group: str) -> None:
    path.chmod(_SOCKET_MODE)
    try:
        shutil.chown(path, group=group)
    except LookupError:
        _log.info("no group %s: only this user and its group can use the socket %s", group, path)
    except PermissionError:
        _log.info("this user is not in the group %s: only this user and its group can use the socket %s", group, path)
