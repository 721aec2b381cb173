# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Sockets that systemd holds for the daemon, so that they stay open while it restarts: see sd_listen_fds(3)."""

import os
import socket

from syshaxd import sdnotify

_FIRST_FD = 3


def take_sockets() -> dict[str, list[socket.socket]]:
    """Returns the sockets that were handed to this process, by their `FileDescriptorName=`. A second call finds none.

    Nothing that this process starts gets them, nor the variables that tell of them.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "0")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()):
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    for name, fd in zip(names, range(_FIRST_FD, _FIRST_FD + int(count)), strict=True):
        os.set_inheritable(fd, False)
        sockets.setdefault(name, []).append(socket.socket(fileno=fd))
    return sockets


def keep(name: str, listening: socket.socket) -> None:
    """Has systemd hold a socket until the service is stopped; the next start finds it under `name`.

    It replaces one that is held already. See `FileDescriptorStoreMax=` in systemd.service(5).
    """
    sdnotify.notify("FDSTOREREMOVE=1", f"FDNAME={name}")
    sdnotify.notify("FDSTORE=1", f"FDNAME={name}", fds=[listening.fileno()])


def listens_at(ready: socket.socket, host: str, port: int) -> bool:
    """Whether a listening socket takes what is sent to an address, perhaps among others."""
    if ready.family == socket.AF_UNIX:
        return False
    own_host, own_port = ready.getsockname()[:2]
    return own_port == port and own_host in {"0.0.0.0", "::", "127.0.0.1" if host == "localhost" else host}  # noqa: S104
