# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Sockets that systemd holds for the daemon across restarts: see sd_listen_fds(3)."""

import logging
import os
import socket
from itertools import zip_longest

_log = logging.getLogger(__name__)
_FIRST_FD = 3
_MAX_COUNT_DIGITS = 4
_UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a socket without a name."""


def take_sockets() -> dict[str, list[socket.socket]]:
    """Returns the sockets that systemd passed to this process, by `FileDescriptorName=`. A second call returns none.

    Child processes inherit neither the sockets nor the variables that announce them.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "0")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()):
        return {}
    if not (count.isascii() and count.isdecimal() and len(count) <= _MAX_COUNT_DIGITS):
        _log.warning("LISTEN_FDS=%s is not a number of sockets: no socket is taken over", count[:40])
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for name, fd in zip_longest(names[: len(fds)], fds, fillvalue=_UNNAMED):
        if (ready := _listening(int(fd))) is None:
            _log.warning("descriptor %s, of LISTEN_FDS=%s, is not a listening socket: ignoring it", fd, count)
        else:
            ready.set_inheritable(False)
            sockets.setdefault(str(name), []).append(ready)
    return sockets


def _listening(fd: int) -> socket.socket | None:
    """The listening socket behind a descriptor; None, with the descriptor untouched, if it is anything else."""
    try:
        ready = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if ready.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ready
    except OSError:
        pass
    ready.detach()
    return None


def listens_at(ready: socket.socket, host: str, port: int) -> bool:
    """Whether a listening socket accepts connections to an address (it may accept others too)."""
    if ready.family == socket.AF_UNIX:
        return False
    own_host, own_port = ready.getsockname()[:2]
    return own_port == port and own_host in {"0.0.0.0", "::", "127.0.0.1" if host == "localhost" else host}  # noqa: S104
