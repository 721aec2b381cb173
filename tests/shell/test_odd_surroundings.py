# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon starts, serves and stops wherever it is started, and says what it had to do without."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.ports import free_port

IN_TIME_S = 100.0


@dataclass(frozen=True)
class Daemon:
    """One that serves."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> str:
        """Returns what it has said in all."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(IN_TIME_S) == 0, self.log.read_text()
        return self.log.read_text()


@contextmanager
def started(folder: Path, *, prefix: str = "", env: Mapping[str, str | None] | None = None) -> Iterator[Daemon]:
    """Runs the daemon with one instance of somebody else's, once it answers.

    Args:
        folder: For its files.
        prefix: Shell code before the program takes over.
        env: What differs in its environment; None: not there.
    """
    port = free_port()
    config = folder / "größe.yaml"
    config.write_text(
        f"services: {{cpu: {{enabled: false}}, gpu: {{port: 1}}, conductor: {{port: {port}}}}}\n"
        f"models: {{default: größe}}\ncontrol: {{socket: {folder}/s/admin.sock}}\n",
        encoding="utf-8",
    )
    usual = os.environ | {"STATE_DIRECTORY": f"{folder}/state", "PYTHONPATH": os.pathsep.join(sys.path)}
    changed = {name: value for name, value in (usual | dict(env or {})).items() if value is not None}
    log = folder / "log"
    command = [sys.executable, "-m", "syshaxd", "--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f'{prefix}\nexec "$@"', "bash", *command], env=changed, stdout=output, stderr=output
        )
    try:
        give_up_at_s = time.monotonic() + IN_TIME_S
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at_s, log.read_text()
            time.sleep(0.05)
        yield Daemon(process, log)
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


SURROUNDINGS: dict[str, tuple[str, Mapping[str, str | None]]] = {
    "nothing but a path": ("", dict.fromkeys(os.environ) | {"PATH": os.environ["PATH"]}),
    "a home that is not there": ("", {"HOME": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere"}),
    "relative folders": ("", {"XDG_RUNTIME_DIR": "here", "XDG_STATE_HOME": "there"}),
    "closed descriptors": ("exec <&- >&- 2>&-", {}),
    "closed input": ("exec <&-", {}),
    "a terminal that has gone": ("exec >/dev/full 2>/dev/full", {}),
    "a folder that was removed": ('cd "$(mktemp -d)" && rmdir "$PWD"', {}),
    "a strict umask": ("umask 777", {}),
    "an open umask": ("umask 000", {}),
    "another alphabet": ("", {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "an unknown locale": ("", {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx"}),
    "a locale of another encoding": ("", {"LC_ALL": "ja_JP.SJIS", "LANG": "ja_JP.SJIS"}),
    "a time zone that is none": ("", {"TZ": "\x01:::Mars/Olympus+99"}),
    "variables of Python": (
        "",
        {
            "PYTHONOPTIMIZE": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONINTMAXSTRDIGITS": "0",
            "PYTHONSAFEPATH": "1",
            "PYTHONSTARTUP": "/nowhere",
        },
    ),
    "warnings that are errors": ("", {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}),
    "proxies": ("", {"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "socks5://nowhere:1", "grpc_proxy": "x"}),
    "variables of other programs": (
        "",
        {"CUDA_VISIBLE_DEVICES": "none,GPU-x", "OMP_NUM_THREADS": "many", "DOCKER_HOST": "tcp://nowhere:99999"},
    ),
    "ascii streams": ("", {"PYTHONIOENCODING": "ascii:strict"}),
    "no temporary folder": ("", {"TMPDIR": "/nowhere"}),
    "a read-only state folder": ("", {"STATE_DIRECTORY": "/proc/1/nowhere"}),
    "few descriptors": ("ulimit -n 64", {}),
    "ignored signals": ("trap '' HUP PIPE USR1 CHLD", {}),
}
TOGETHER: dict[str, tuple[str, ...]] = {
    "a poor shell": ("nothing but a path", "closed input", "a strict umask", "few descriptors"),
    "folders": ("a home that is not there", "a folder that was removed", "a read-only state folder"),
    "streams": ("ascii streams", "a terminal that has gone", "no temporary folder", "an unknown locale"),
    "a poor service manager": ("closed descriptors", "another alphabet", "ignored signals", "relative folders"),
    "nothing that protects": ("an open umask", "a locale of another encoding", "a time zone that is none"),
    "another's variables": (
        *("variables of Python", "warnings that are errors", "proxies", "variables of other programs"),
    ),
}
"""A daemon each; each of them alone has one of its own in `make test-all`."""


def test_all_surroundings_are_tried() -> None:
    assert sorted(name for names in TOGETHER.values() for name in names) == sorted(SURROUNDINGS)


@pytest.mark.parametrize("names", TOGETHER)
def test_it_serves_and_stops(tmp_path: Path, names: str) -> None:
    prefixes = [SURROUNDINGS[name][0] for name in TOGETHER[names]]
    env = {key: value for name in TOGETHER[names] for key, value in SURROUNDINGS[name][1].items()}
    with started(tmp_path, prefix="\n".join(prefixes), env=env) as daemon:
        said = daemon.stop()
    assert "Traceback" not in said
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o022], "others can write to them"
    batches = tmp_path / "state" / "batches"
    assert not batches.exists() or not batches.stat().st_mode & 0o077


@pytest.mark.long
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_it_serves_and_stops_in_each_alone(tmp_path: Path, name: str) -> None:
    prefix, env = SURROUNDINGS[name]
    with started(tmp_path, prefix=prefix, env=env) as daemon:
        said = daemon.stop()
    assert "Traceback" not in said


NO_MANAGER = "no service manager listens at NOTIFY_SOCKET"
LEFT_OVER: dict[str, tuple[str, Mapping[str, str | None], tuple[str, ...]]] = {
    "a service manager that has gone, and a strange watchdog": (
        "",
        {"NOTIFY_SOCKET": "/run/gone", "WATCHDOG_USEC": "soon", "WATCHDOG_PID": None},
        (NO_MANAGER, "WATCHDOG_USEC=soon is not a time"),
    ),
    "an abstract one, and sockets of somebody else": (
        "export LISTEN_PID=$$",
        {"NOTIFY_SOCKET": "@gone", "LISTEN_FDS": "3"},
        (NO_MANAGER, "is not a listening socket"),
    ),
    "one whose name is too long, and files for sockets": (
        "export LISTEN_PID=$$; exec 3</dev/null",
        {"NOTIFY_SOCKET": "/x" * 99, "LISTEN_FDS": "1"},
        (NO_MANAGER, "descriptor 3"),
    ),
    "something else for it, and a strange number of sockets": (
        "export LISTEN_PID=$$",
        {"NOTIFY_SOCKET": "vsock:2:1234", "LISTEN_FDS": "many"},
        (NO_MANAGER, "LISTEN_FDS=many is not a number"),
    ),
}


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_was_left_over_is_told_and_does_without(tmp_path: Path, name: str) -> None:
    prefix, env, told = LEFT_OVER[name]
    with started(tmp_path, prefix=prefix, env=env) as daemon:
        said = daemon.stop()
    for text in told:
        assert text in said
    assert "Traceback" not in said
