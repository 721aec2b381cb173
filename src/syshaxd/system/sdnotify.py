# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Notifies systemd of the daemon's state (sd_notify(3)): one datagram to $NOTIFY_SOCKET."""

import asyncio
import logging
import os
import socket
import time

_log = logging.getLogger(__name__)
_MAX_USEC_DIGITS = 15


def is_there() -> bool:
    """Whether a service manager listens."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def check() -> None:
    """Forgets a service manager that can't be reached: variables stay behind in shells and containers."""
    if not is_there():
        return
    try:
        with _connected():
            pass
    except (OSError, ValueError) as error:
        name = os.environ.pop("NOTIFY_SOCKET")
        _log.warning("no service manager listens at NOTIFY_SOCKET=%s (%s): running without one", name, error)


def notify(*assignments: str) -> bool:
    """Sends lines such as `READY=1` or `STATUS=...`; does nothing where no service manager listens.

    Args:
        assignments: The lines.

    Returns:
        Whether they were sent. What goes wrong is logged: it is no reason for the daemon to do anything else.
    """
    if not is_there():
        return False
    try:
        with _connected() as sender:
            sender.send("\n".join(assignments).encode(errors="replace"))
    except (OSError, ValueError) as error:
        _log.warning("cannot notify the service manager of %s: %s", assignments[0], error)
        return False
    return True


def _connected() -> socket.socket:
    address = os.environ.get("NOTIFY_SOCKET", "")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sender.setblocking(False)
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
    except (OSError, ValueError):
        sender.close()
        raise
    return sender


def extend_timeout(seconds: float) -> None:
    """Asks for this long, from now, before the service manager ends the daemon by force."""
    notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")


def reloading() -> None:
    """Says that the configuration is being read again; `READY=1` says that this is over."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


async def feed_watchdog() -> None:
    """Proves that the event loop turns, twice in each `WatchdogSec=`; returns at once where there is none."""
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    text = os.environ.get("WATCHDOG_USEC", "0")
    if pid != str(os.getpid()):
        return
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_USEC_DIGITS):
        _log.warning("WATCHDOG_USEC=%s is not a time: the watchdog is disabled", text[:40])
        return
    if not (interval_us := int(text)):
        return
    while True:
        notify("WATCHDOG=1")  # where it can't be told now, the next time will do
        await asyncio.sleep(interval_us / 2e6)
