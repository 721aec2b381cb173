# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether a server can listen at an address, and who has its port if not. Blocking."""

import errno
import socket
from contextlib import suppress

import psutil

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import InstanceSpec
from syshaxd.system.connecting import why_no_connection


def check_port(spec: InstanceSpec, host: str, port: int) -> None:
    """Looks whether an instance can listen there.

    Raises:
        LaunchFailedError: It can't: another program does, or this host has no such address.
    """
    keys = spec.key
    try:
        owner = listener(host, port)
    except (OSError, UnicodeError) as error:
        why = why_no_connection(error, host)
        raise LaunchFailedError(
            f"{spec.name} cannot listen at {spec.address}: {why}; set {keys}.host and {keys}.port", permanent=True
        ) from error
    if owner is not None:
        raise LaunchFailedError(
            f"port {port}, which {spec.name} needs, is taken by {owner}; end that, or set {keys}.port", permanent=False
        )


def listener(host: str, port: int) -> str | None:
    """Who listens where a server for `host` and `port` would have to: `pid 42 (nginx)`, or `another program`.

    Returns:
        None if the port is free.

    Raises:
        OSError: This machine has no such address, or the port needs privileges.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.getaddrinfo(host, port, family=kind, type=socket.SOCK_STREAM)[0][4]
    with socket.socket(kind) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _owner(port)
    return None


def _owner(port: int) -> str:
    with suppress(psutil.Error, OSError):  # processes of other users keep their names to themselves
        for found in psutil.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr[1:] == (port,) and found.pid:
                return f"pid {found.pid} ({psutil.Process(found.pid).name()})"
    return "another program"
