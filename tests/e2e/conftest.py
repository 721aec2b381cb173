# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A real daemon with two real vLLM instances of a tiny model, shared by the tests of this folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.folders import cache_folder
from syshax_embedded.model import prepare_tiny

MODEL = "tiny"
SLOTS = 8
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
BODY_LIMIT_BYTES = 1_000_000


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Asks again until the condition holds; returns its value. For states of other processes, which send no event."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
    return value


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Daemon:
    """A running syshaxd."""

    process: subprocess.Popen[bytes]
    url: str
    ports: dict[str, int]
    """Of the instances, by name."""
    log: Path
    environment: dict[str, str]

    def syshaxctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("syshaxctl"))
        return subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True, timeout=120)

    def status(self) -> dict[str, dict[str, Any]]:
        """What `syshaxctl status` says of each instance."""
        done = self.syshaxctl("status", "-o", "json")
        assert done.returncode == 0, done.stderr
        return {instance["name"]: instance for instance in json.loads(done.stdout)["instances"]}

    def wait_ready(self) -> None:
        until(self.is_ready, START_TIMEOUT_S, "both instances are ready")

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"syshaxd ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
        return get(f"{self.url}/ready?all=1")[0] == 200

    def metric(self, name: str, sample: str) -> float:
        """A sample of an instance's own metrics, summed over its labels."""
        text = get(f"http://127.0.0.1:{self.ports[name]}/metrics")[1].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample))

    def pid(self, name: str) -> int:
        """The process that listens at the instance's port."""
        (pid,) = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.ports[name]
        }
        assert pid is not None
        return pid

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of the tiny model."""
    return prepare_tiny(engine_python(), cache_folder() / "models" / "tiny-random")


def _service(port: int, core: int) -> dict[str, Any]:
    return {
        "runtime": "process",
        "device": "cpu",
        "python": str(engine_python()),
        "port": port,
        "cores": str(core),
        "max_num_seqs": SLOTS,
        # What makes vLLM start soonest and its greedy answers exact.
        "args": {
            "dtype": "float32",
            "max-model-len": 2048,
            "enforce-eager": True,
            "distributed-executor-backend": "uni",
            "kv-cache-memory-bytes": 134217728,
        },
        "env": {
            "VLLM_ENABLE_V1_MULTIPROCESSING": 0,
            "OMP_NUM_THREADS": 1,
            "HF_HUB_OFFLINE": 1,
            "VLLM_NO_USAGE_STATS": 1,
            "DO_NOT_TRACK": 1,
        },
    }


@pytest.fixture(scope="session")
def daemon(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose two instances are ready. Afterwards nothing of it may be left."""
    folder = tmp_path_factory.mktemp("d")
    cores = sorted(os.sched_getaffinity(0))
    ports = {"gpu": free_port(), "cpu": free_port()}
    url_port = free_port()
    config = {
        "services": {
            "gpu": _service(ports["gpu"], cores[0]),
            "cpu": _service(ports["cpu"], cores[-1]),
            "conductor": {"port": url_port},
        },
        "models": {"default": MODEL, "path": str(tiny_model)},
        "gateway": {"max_body_bytes": BODY_LIMIT_BYTES},
        "lifecycle": {"backoff_base_s": 0.5},
        "control": {"socket": str(folder / "admin.sock")},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "SYSHAX_SOCKET": str(folder / "admin.sock")}
    log = folder / "syshaxd.log"
    shm_before = set(os.listdir("/dev/shm"))
    program = str(Path(sys.executable).with_name("syshaxd"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "--config", str(folder / "config.yaml")], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    running = Daemon(process, f"http://127.0.0.1:{url_port}", ports, log, environment)
    children: list[psutil.Process] = []
    try:
        running.wait_ready()
        yield running
        children = running.children()
        assert process.poll() is None, log.read_text()[-4000:]
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()[-4000:]
    finally:
        for left in [psutil.Process(process.pid), *children] if process.poll() is None else children:
            if left.is_running():
                left.kill()
        process.wait()
    assert len(children) >= 2
    assert not [left for left in children if left.is_running() and left.status() != psutil.STATUS_ZOMBIE]
    assert all(get(f"http://127.0.0.1:{port}/health") == (0, b"") for port in (url_port, *ports.values()))
    assert set(os.listdir("/dev/shm")) <= shm_before
    assert not (folder / "admin.sock").exists()
