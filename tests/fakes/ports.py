# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Ports for servers that are started later, by other processes."""

import random
import socket

# Under the range from which Linux takes ports for outgoing connections: nobody gets one of these by chance.
_PORTS = range(15_000, 32_000)
_choose = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens; never the same twice."""
    while True:
        port = _choose.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
