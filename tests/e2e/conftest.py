# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A real daemon with two real vLLM instances of a tiny model, shared by the tests of this folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.folders import cache_folder, only_one
from syshax_embedded.model import prepare_tiny
from syshaxd.core.config import parse
from syshaxd.system.enginefiles import read_launch_host
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

MODEL = "tiny"
SLOTS = 8
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
BODY_LIMIT_BYTES = 1_000_000
_SHM = Path("/dev/shm")
_OURS = f"syshax-e2e-{os.getpid()}"
_OF_THE_USER = (
    Path(read_launch_host(parse({})).arena_dir),
    Path.home() / ".config/syshax",
    Path.home() / ".local/state/syshax",
)
_TAIL_BYTES = 6000


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


_RUNNING = pytest.StashKey["Daemon"]()


def shared_memory(processes: Iterable[psutil.Process]) -> set[int]:
    """Inodes of the shared memory that the processes use.

    Names would not do: a semaphore is mapped under another one than it has in the folder.
    """
    inodes: set[int] = set()
    for process in processes:
        with suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                fields = line.split(maxsplit=5)
                if len(fields) == 6 and fields[5].startswith(f"{_SHM}/"):
                    inodes.add(int(fields[4]))
    return inodes


def left_in_shared_memory(inodes: set[int]) -> list[str]:
    return [entry.name for entry in os.scandir(_SHM) if entry.inode() in inodes]


@dataclass
class Daemon:
    """A running syshaxd."""

    process: subprocess.Popen[bytes]
    url: str
    ports: dict[str, int]
    """Of the instances, by name."""
    log: Path
    environment: dict[str, str]
    arenas: Path
    """Folder of hand-overs."""
    shared_memory: set[int] = field(default_factory=set)
    """Inodes of what its instances were seen to use."""
    seen: set[psutil.Process] = field(default_factory=set)
    """Processes of its instances, dead ones too."""

    def log_tail(self) -> str:
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def syshaxctl(self, *arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        program = [str(Path(sys.executable).with_name("syshaxctl")), *arguments]
        return subprocess.run(program, env=self.environment, capture_output=True, text=True, timeout=limit_s)

    def status(self) -> dict[str, dict[str, Any]]:
        """What `syshaxctl status` says of each instance."""
        done = self.syshaxctl("status", "-o", "json")
        assert done.returncode == 0, done.stderr
        return {instance["name"]: instance for instance in json.loads(done.stdout)["instances"]}

    def wait_ready(self) -> None:
        until(self.is_ready, START_TIMEOUT_S, "both instances are ready and compared")

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"syshaxd ended with {self.process.returncode}")
        if get(f"{self.url}/ready?all=1")[0] != 200:
            return False
        # Nothing is handed over before the instances have been compared, and that computes prompts of its own.
        return self.parity_allowed() == 1

    def parity_allowed(self) -> float | None:
        """Whether requests may move between the instances, by the daemon's metrics; None: not known yet."""
        text = get(f"{self.url}/metrics")[1].decode()
        found = re.search(r'^syshax_parity_allowed\{[^}]*peer="cpu"[^}]*\} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else None

    def metric(self, name: str, sample: str) -> float:
        """A sample of an instance's own metrics, summed over its labels."""
        text = get(f"http://127.0.0.1:{self.ports[name]}/metrics")[1].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample))

    def handovers(self, **labels: str) -> float:
        """Hand-overs by the daemon's count: those with all of these labels."""
        text = get(f"{self.url}/metrics")[1].decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith("syshax_handovers_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(part in line for part in wanted))

    def pid(self, name: str) -> int:
        """The process that listens at the instance's port."""
        (pid,) = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.ports[name]
        }
        assert pid is not None
        return pid

    def family(self, name: str) -> list[psutil.Process]:
        """All processes of an instance, its server first."""
        server = psutil.Process(self.pid(name))
        return [server, *server.children(recursive=True)]

    def children(self) -> list[psutil.Process]:
        """All processes of all instances. Notes them and their shared memory."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.seen.update(children)
        self.shared_memory |= shared_memory(children)
        return children


def gone(processes: Iterable[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the daemon said."""
    report = yield
    running = item.session.stash.get(_RUNNING, None)
    if report.failed and running is not None:
        report.sections.append(("syshaxd's log", running.log_tail()))
    return report


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of the tiny model."""
    assert engine_python().exists(), "run this first: .venv/bin/python -m syshax_embedded prepare --engine-only"
    with only_one(cache_folder()):  # the two halves of `make e2e` run at once
        return prepare_tiny(engine_python(), cache_folder() / "models" / "tiny-random")


def service(port: int, core: int) -> dict[str, Any]:
    """The configuration of an instance of the tiny model."""
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
            # With the engine inside the server's process, a first compilation would stall its health probes, too.
            "TORCHDYNAMO_DISABLE": 1,
        },
    }


def simulated_vllm(folder: Path, *flags: str) -> Path:
    """Makes an interpreter, by its path, whose vLLM is a simulated one, which starts at once."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -m syshax_sim {" ".join(flags)} "$@"\n')
    python.chmod(0o755)
    return python


def save_kv_cache(port: int) -> None:
    """Has an instance save what it computed for a request."""
    order = {"syshax": {"save": {"key": f"unclaimed-{port}", "on": "finish"}}}
    body = {"model": MODEL, "prompt": "one two three", "max_tokens": 1, "kv_transfer_params": order}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["kv_transfer_params"]["syshax"]["state"] == "saving"


def run_syshaxd(config: dict[str, Any], folder: Path, ports: dict[str, int]) -> Daemon:
    """Starts a daemon on a configuration whose files are all in the folder, perhaps those of an earlier daemon.

    Who calls this removes `arenas`, which is in shared memory.
    """
    arenas = _SHM / f"{_OURS}-{folder.name}"
    config["offload"] = config.get("offload", {}) | {"arena_dir": str(arenas)}
    config["control"] = {"socket": str(folder / "admin.sock")}
    (folder / "config.yaml").write_text(json.dumps(config))
    temporary = folder / "t"  # vLLM's sockets go there, and their paths may not be long
    temporary.mkdir(exist_ok=True)
    environment = os.environ | {
        "XDG_STATE_HOME": str(folder / "state"),
        "SYSHAX_SOCKET": str(folder / "admin.sock"),
        "TMPDIR": str(temporary),
    }
    log = folder / "syshaxd.log"
    program = str(Path(sys.executable).with_name("syshaxd"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "--config", str(folder / "config.yaml")], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{config['services']['conductor']['port']}"
    return Daemon(process, url, ports, log, environment, arenas)


@contextmanager
def beside(config: dict[str, Any], folder: Path, ports: dict[str, int]) -> Iterator[Daemon]:
    """A further daemon, which shows its log if the block fails. Afterwards no hand-over may be left."""
    another = run_syshaxd(config, folder, ports)
    try:
        yield another
    except BaseException:
        print(another.log_tail())
        raise
    finally:
        another.process.send_signal(signal.SIGINT)
        another.process.wait(STOP_TIMEOUT_S)
        left = list(another.arenas.iterdir()) if another.arenas.exists() else []
        shutil.rmtree(another.arenas, ignore_errors=True)
    assert not left


def wait_up(daemon: Daemon) -> None:
    until(lambda: get(f"{daemon.url}/ready?all=1")[0] == 200, START_TIMEOUT_S, "all instances are ready")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No module of this folder leaves hand-overs in shared memory, or uses a folder of the user's own syshaxd."""
    before = [folder for folder in _OF_THE_USER if folder.exists()]
    yield
    assert not list(_SHM.glob(f"{_OURS}*"))
    assert [folder for folder in _OF_THE_USER if folder.exists()] == before


@pytest.fixture(scope="session")
def daemon(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Daemon]:
    """A daemon whose two instances are ready. Afterwards nothing of it may be left."""
    folder = tmp_path_factory.mktemp("d")
    cores = sorted(os.sched_getaffinity(0))
    ports = {"gpu": free_port(), "cpu": free_port()}
    url_port = free_port()
    config = {
        "services": {
            "gpu": service(ports["gpu"], cores[0]),
            "cpu": service(ports["cpu"], cores[-1]),
            "conductor": {"port": url_port},
        },
        "models": {"default": MODEL, "path": str(tiny_model)},
        "gateway": {"max_body_bytes": BODY_LIMIT_BYTES},
        "offload": {"arena_bytes": 64 * 1024 * 1024},
        "scheduler": {"policy": "turn", "holdout": 0},  # both work, whether that pays or not
        # So that an instance that hangs is given up in seconds.
        "lifecycle": {
            "backoff_base_s": 0.5,
            "probe_interval_s": 1.0,
            "probe_timeout_s": 3.0,
            "probe_failures": 2,
            "stop_grace_s": 5.0,
        },
    }
    running = run_syshaxd(config, folder, ports)
    process, arenas = running.process, running.arenas
    request.session.stash[_RUNNING] = running
    try:
        running.wait_ready()
        running.children()
        yield running
        running.wait_ready()
        until(lambda: len(list(arenas.glob("*.arena"))) == 2, 60, "instances that ended before have left no arena")
        for port in ports.values():
            save_kv_cache(port)
        # Those that tests have given up are dropped a minute after they were made.
        until(lambda: len(list(arenas.glob("*.kv"))) == 2, 90, "there are hand-overs that nobody will load")
        children = running.children()
        for name in ports:  # stopped alone: the first leaves it to the other to clear away, the other to the daemon
            assert running.syshaxctl("stop", name, "--wait").returncode == 0
        until(lambda: not list(arenas.iterdir()), 60, "nothing of them is left in the folder of hand-overs")
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT_S) == 0
        assert len(children) >= 2
        assert gone(children)
        assert all(get(f"http://127.0.0.1:{port}/health") == (0, b"") for port in (url_port, *ports.values()))
        assert not left_in_shared_memory(running.shared_memory)
        assert not (folder / "admin.sock").exists()
    finally:
        if process.poll() is None:
            running.children()
            process.kill()
            process.wait()
        for left in running.seen:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        shutil.rmtree(arenas, ignore_errors=True)
