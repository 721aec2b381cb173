# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Sockets that the service manager hands over."""

import json
import os
import socket
import subprocess
import sys

import pytest

from syshaxd.system.activation import listens_at, take_sockets

# Stands in for systemd: descriptors 3 and up, and the variables with the pid of the program that comes next.
CHILD = """
import json, os, sys
from syshaxd.system.activation import take_sockets
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
taken = take_sockets()
names = {name: [s.getsockname()[1] for s in sockets] for name, sockets in taken.items()}
inheritable = [s.get_inheritable() for sockets in taken.values() for s in sockets]
left = [key for key in os.environ if key.startswith("LISTEN_")]
print(json.dumps([names, inheritable, left, len(take_sockets())]))
"""


@pytest.mark.parametrize("other_pid", [0, 1])
def test_sockets_come_by_name_and_only_to_the_process_they_are_for(other_pid: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        command = f'exec 3<&{first.fileno()} 4<&{second.fileno()}; exec "$@"'
        done = subprocess.run(
            ["bash", "-c", command, "bash", sys.executable, "-c", CHILD, str(other_pid)],
            env=os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:http"},
            pass_fds=(first.fileno(), second.fileno()),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        ports = [ready.getsockname()[1] for ready in (first, second)]
    expected = [{}, [], [], 0] if other_pid else [{"http": ports}, [False, False], [], 0]
    assert json.loads(done.stdout) == expected


def test_without_a_service_manager_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert take_sockets() == {}


@pytest.mark.parametrize(
    ("bound", "host", "same_port", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True, True),
        ("127.0.0.1", "localhost", True, True),
        ("0.0.0.0", "127.0.0.1", True, True),
        ("127.0.0.1", "0.0.0.0", True, False),
        ("127.0.0.1", "127.0.0.1", False, False),
    ],
)
def test_which_addresses_a_socket_covers(bound: str, host: str, same_port: bool, expected: bool) -> None:
    with socket.create_server((bound, 0)) as ready:
        port = ready.getsockname()[1]
        assert listens_at(ready, host, port if same_port else port - 1) is expected
