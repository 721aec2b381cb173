# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Paths of the daemon's socket and records, for the daemon and its clients."""

import fcntl
import os
import socket
import stat
from pathlib import Path

from syshaxd.core.errors import ConflictError, SyshaxError

SERVICE_SOCKET = Path("/run/syshax/admin.sock")
SERVICE_STATE = Path("/var/lib/syshax")
_SOCKET = "admin.sock"
# The name that gRPC binds, in a folder next to the socket.
BOUND = ".d/grpc"
# `sun_path` holds 108 bytes, the last of which is a NUL.
_MAX_PATH_BYTES = 107 - len(BOUND)


def socket_path(configured: str | None) -> Path:
    """The path of the admin socket of a daemon with this environment.

    Args:
        configured: The configuration's `control.socket`.

    Raises:
        SyshaxError: The path is longer than a socket's may be.
    """
    if configured:
        try:
            path = Path(configured).expanduser().absolute()
        except RuntimeError as error:  # `~` of a user without a home, or of none
            raise SyshaxError(f"control.socket: {configured}: {error}; give the full path") from None
    elif folders := os.environ.get("RUNTIME_DIRECTORY"):  # created by systemd for this service
        path = Path(folders.split(":")[0], _SOCKET)
    else:
        path = _user_sockets()[0]
    if (size := len(os.fsencode(path))) > _MAX_PATH_BYTES:
        raise SyshaxError(
            f"the socket's path {path} has {size} bytes, and may have {_MAX_PATH_BYTES}; "
            "set control.socket to a shorter one"
        )
    return path


def find_socket(given: Path | None) -> Path:
    """The socket of the daemon to connect to; there may be no daemon.

    It is the given one, else the user's own if a daemon answers there, else the service's.
    """
    if given is not None:
        return given
    for path in _user_sockets():
        if _is_safe(path.parent) and answers(path):
            return path
    return SERVICE_SOCKET


def _is_safe(folder: Path) -> bool:
    """Whether the folder exists and is safe for this user."""
    try:
        return folder_fault(folder) is None
    except OSError:  # not there, or in a place that this user may not look into
        return False


def answers(path: Path) -> bool:
    """Whether a program listens on a socket."""
    return _connect_error(path) is None


def is_awaited(path: Path) -> bool:
    """Whether a daemon listens at a socket, or is to be expected there: it died, or is restarted."""
    error = _connect_error(path)
    return error is None or isinstance(error, ConnectionRefusedError)


def forbidden(path: Path) -> bool:
    """Whether the socket exists and this user may not use it."""
    return isinstance(_connect_error(path), PermissionError)


def _connect_error(path: Path) -> OSError | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:  # more wait there than it takes
            return None
        except OSError as error:
            return error
        return None


def make_folder(folder: Path) -> None:
    """Creates a folder that only its owner can enter, unless it exists, and ensures that no other user can write to it.

    Raises:
        SyshaxError: It can't be created, or another user owns it or can write to it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        fault = folder_fault(folder)
    except OSError as error:
        raise SyshaxError(f"cannot create the folder {folder} for the socket: {error.strerror}") from error
    if fault is not None:
        raise SyshaxError(f"{folder} {fault}: the socket would not be safe there; set control.socket to another place")


def folder_fault(folder: Path) -> str | None:
    """Why others than the user and root can write to a folder; None: they can't."""
    for info in (folder.lstat(), folder.stat()):  # a symbolic link and its target
        if info.st_uid not in (os.getuid(), 0):
            return f"belongs to another user (uid {info.st_uid})"
    if not stat.S_ISDIR(info.st_mode):
        return "is not a folder"
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        return "can be written to by all users"
    return None


def claim_socket(path: Path) -> int:
    """Claims a socket's path for this process until it ends. The socket of a dead daemon may still be there.

    Args:
        path: The socket.

    Returns:
        The descriptor that holds the claim; closing it gives the claim back.

    Raises:
        SyshaxError: Another daemon runs with this socket, or the path can't be used.
    """
    make_folder(path.parent)
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SyshaxError(f"cannot lock the admin socket with {lock_path}: {error.strerror}") from error
    try:
        had_it_before = _lock(lock, path)
        _check_stale(path, is_ours=had_it_before)
    except OSError as error:  # a full disk, say
        os.close(lock)
        raise SyshaxError(f"cannot lock the admin socket with {lock_path}: {error.strerror}") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _lock(lock: int, path: Path) -> bool:
    """Takes the lock. Returns whether a daemon before this one had it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise ConflictError(
            f"syshaxd is already running (pid {pid}) with the socket {path}; stop it first, or set control.socket"
        ) from None
    had_it_before = os.fstat(lock).st_size > 0
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return had_it_before


def _check_stale(path: Path, *, is_ours: bool) -> None:
    """Refuses what is at the path, unless a dead daemon left it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SyshaxError(f"{path} already exists and is not a socket; remove it, or set control.socket")
    if answers(path):
        raise ConflictError(f"another program listens on {path}; stop it first, or set control.socket")
    if not is_ours:
        raise SyshaxError(f"{path} already exists and was not created by syshaxd; remove it, or set control.socket")


def state_dir() -> Path:
    """The folder for logs and records of the instances. It need not exist yet."""
    if folders := os.environ.get("STATE_DIRECTORY"):  # created by systemd for this service
        return Path(folders.split(":")[0])
    return user_folder("XDG_STATE_HOME", ".local/state") / "syshax"


def user_folder(variable: str, below_home: str) -> Path:
    """A folder of the user's, as the XDG base directory specification has it: a relative path counts as unset.

    Raises:
        SyshaxError: The user has no home directory.
    """
    base = os.environ.get(variable, "")
    if base.startswith("/"):
        return Path(base)
    try:
        return Path.home() / below_home
    except RuntimeError:
        raise SyshaxError(f"the user {os.geteuid()} has no home folder; set HOME, or {variable}") from None


def _user_sockets() -> tuple[Path, ...]:
    """Where daemons that this user started by hand have their sockets; the first is where a new one goes.

    All are looked at, since a user's shells don't all have XDG_RUNTIME_DIR (su, cron).
    """
    uid = os.getuid()
    xdg = os.environ.get("XDG_RUNTIME_DIR", "")
    temporary = Path(f"/tmp/syshax-{uid}")  # noqa: S108 - make_folder refuses one that is not ours
    folders = (Path(xdg, "syshax") if xdg.startswith("/") else temporary, Path(f"/run/user/{uid}/syshax"), temporary)
    return tuple(folder / _SOCKET for folder in dict.fromkeys(folders))
