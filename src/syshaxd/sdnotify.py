# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Tells systemd how the daemon does (sd_notify(3)): one datagram to $NOTIFY_SOCKET."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress


def is_there() -> bool:
    """Whether a service manager listens."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(*assignments: str, fds: Sequence[int] = ()) -> None:
    """Sends lines such as `READY=1` or `STATUS=...`; does nothing where no service manager listens.

    Args:
        assignments: The lines.
        fds: Descriptors that go with them.

    Raises:
        OSError: The service manager takes nothing, now (BlockingIOError) or at all.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.connect(address)
        data = "\n".join(assignments).encode()
        if fds:
            socket.send_fds(sender, [data], fds)
        else:
            sender.send(data)


def reloading() -> None:
    """Says that the configuration is being read again; `READY=1` says that this is over."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


async def feed_watchdog() -> None:
    """Proves that the event loop turns, twice in each `WatchdogSec=`; returns at once where there is none."""
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if pid != str(os.getpid()) or not (interval_us := int(os.environ.get("WATCHDOG_USEC", "0"))):
        return
    while True:
        with suppress(BlockingIOError):  # much is being told: the next time will do
            notify("WATCHDOG=1")
        await asyncio.sleep(interval_us / 2e6)
