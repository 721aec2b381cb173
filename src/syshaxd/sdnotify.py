# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Tells systemd how the daemon does (sd_notify(3)): one datagram to $NOTIFY_SOCKET."""

import os
import socket


def notify(*assignments: str) -> None:
    """Sends lines such as `READY=1` or `STATUS=...`; does nothing where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto("\n".join(assignments).encode(), address)
