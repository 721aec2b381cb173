# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A real syshaxd, as in production, with two simulated instances that it starts; and what is looked at from outside."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.fakes.ports import free_port
from tests.fakes.waiting import until
from tests.faults.report import Leaks, Row, sized
from tests.faults.secure import AUTHORIZATION, SCHEME, trusting, write

NAMES = ("gpu", "cpu")
READY_S = 60.0
QUIET_S = 60.0
MB = 2**20
_ROOT = Path(__file__).parents[2]
_TAIL_BYTES = 8000


def get(url: str, timeout_s: float = 10.0) -> tuple[int, str]:
    """Status and body; 0: no answer."""
    try:
        order = urllib.request.Request(url, headers=AUTHORIZATION)
        context = trusting() if url.startswith("https:") else None
        with urllib.request.urlopen(order, timeout=timeout_s, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def program(name: str) -> str:
    """One of this environment's."""
    return str(Path(sys.executable).with_name(name))


@dataclass
class Before:
    """How things were before a scenario."""

    pids: dict[str, int]
    files: int
    memory_bytes: int
    log_bytes: int


@dataclass
class Bed:
    """A daemon and its two instances. All its files are in one folder."""

    folder: Path
    slots: int = 512
    step_s: float = sized(0.01, 0.02)
    """What a token takes."""
    files: int = 0
    """Files that the daemon may have open; 0: as many as this process."""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sections of the configuration: what differs from the bed's own."""
    engine_env: dict[str, str] = field(default_factory=dict)
    external: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Instances that the scenario runs itself: their configuration, by name."""
    state: Path | None = None
    """Where it keeps its state, if not in its folder."""
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    told_to_end: set[str] = field(default_factory=set)
    """What a scenario ended itself: "daemon", or an instance's name."""

    # Starting and ending.

    def start(self) -> None:
        """Starts a daemon; instances that an earlier one left running are its own."""
        if not self.port:
            self._prepare()
        argv = [program("syshaxd"), "--config", str(self.config_path)]
        if self.files:
            argv = ["/bin/sh", "-c", f'ulimit -S -n {self.files}; exec "$@"', "sh", *argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=self.environment, cwd=_ROOT)

    def _prepare(self) -> None:
        self.port, *ports = (free_port() for _ in range(3))
        self.ports = dict(zip(NAMES, ports, strict=True))
        self.ports |= {name: its["port"] for name, its in self.external.items()}
        for name in ("kv", "model", "t"):
            (self.folder / name).mkdir()
        (self.folder / "model" / "config.json").write_text("{}")
        python = self.folder / "python"
        # `python -m vllm...`, as far as syshaxd knows.
        engine = f'exec {sys.executable} {Path(__file__).with_name("engine.py")} "$@"'
        python.write_text(f"#!/bin/sh\nshift 2\nexport PYTHONPATH={_ROOT / 'src'}:{_ROOT}\n{engine}\n")
        python.chmod(0o755)
        self.config_path.write_text(json.dumps(self.configuration()))

    def configuration(self) -> dict[str, Any]:
        env = {"FAULTS_KV": str(self.folder / "kv"), "FAULTS_STEP_S": str(self.step_s)} | self.engine_env
        service = {
            "runtime": "process",
            "device": "cpu",
            "python": str(self.folder / "python"),
            "max_num_seqs": self.slots,
            "protocol": "connector",
            "env": env,
        }
        config: dict[str, Any] = {
            "services": {
                **(
                    {name: service | {"port": port} for name, port in self.ports.items()}
                    if not self.external
                    else self.external
                ),
                "conductor": {"port": self.port},
            },
            "models": {"default": "m", "path": str(self.folder / "model")},
            "control": {"socket": str(self.folder / "admin.sock")},
            "offload": {"arena_dir": f"/dev/shm/syshax-faults-{self.port}"},
            "system": {"max_queue_size": 100_000},
            "numa": {"enforce": False},
            "gateway": write(self.folder, self.state or self.folder / "state"),
            "lifecycle": {
                "backoff_base_s": 0.2,
                "backoff_cap_s": 2.0,
                "probe_interval_s": 0.5,
                "probe_timeout_s": 2.0,
                "stop_grace_s": 5.0,
            },
        }
        for section, values in self.changes.items():
            config[section] = config.get(section, {}) | values
        return config

    @property
    def config_path(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "syshaxd.log"

    @property
    def url(self) -> str:
        return f"{SCHEME}://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": f"{_ROOT / 'src'}",
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.state or self.folder / "state"),
            "XDG_RUNTIME_DIR": str(self.folder),
            "SYSHAX_SOCKET": str(self.folder / "admin.sock"),
            "TMPDIR": str(self.folder / "t"),
        }

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"syshaxd has ended with {self.process.returncode}"
        # Nothing moves before the instances have been compared.
        return get(f"{self.url}/ready?all=1")[0] == 200 and self.metric("syshax_parity_allowed{", 'peer="cpu"') == 1

    def wait_ready(self) -> None:
        until(self.is_ready, READY_S, "both instances are ready and compared")

    async def ready(self) -> None:
        await asyncio.to_thread(self.wait_ready)

    def stop(self) -> None:
        """Ends it in order, and whatever would be left."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            finally:
                self.kill("daemon")
        for name in () if self.external else NAMES:
            with suppress(psutil.NoSuchProcess, LookupError):
                self.kill(name)
        shutil.rmtree(f"/dev/shm/syshax-faults-{self.port}", ignore_errors=True)

    def kill(self, name: str) -> None:
        """SIGKILL: "daemon", or all processes of an instance."""
        self.told_to_end.add(name)
        if name == "daemon":
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            return
        server = psutil.Process(self.pid(name))
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def crash(self, name: str) -> None:
        """SIGKILL of all processes of an instance; returns once the daemon starts it again."""
        launches = f'syshax_instance_launches_total{{name="{name}"}}'
        before = self.metric(launches)
        self.kill(name)
        until(lambda: self.metric(launches) > before, READY_S, f"{name} is started again")

    # Looking at it.

    def pid(self, name: str) -> int:
        """Of the process that listens at an instance's port. Raises LookupError: there is none."""
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.ports[name] and connection.pid:
                return int(connection.pid)
        raise LookupError(name)

    def metrics(self) -> str:
        return get(f"{self.url}/metrics")[1]

    def metric(self, start: str, label: str = "") -> float:
        """The sum of the samples whose lines begin so, and have that label."""
        lines = (line for line in self.metrics().splitlines() if line.startswith(start) and label in line)
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [program("syshaxctl"), *arguments]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=120)

    def status(self) -> dict[str, Any]:
        done = self.ctl("status", "-o", "json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def fault(self, name: str, **faults: Any) -> None:
        """Puts faults of the simulator in force."""
        data = json.dumps(faults).encode()
        order = urllib.request.Request(f"http://127.0.0.1:{self.ports[name]}/sim/fault", data)
        with suppress(ConnectionError), urllib.request.urlopen(order, timeout=30) as answer:
            assert answer.status == 200

    def stats(self, name: str) -> dict[str, Any]:
        return dict(json.loads(get(f"http://127.0.0.1:{self.ports[name]}/sim/stats", timeout_s=60)[1]))

    def log_tail(self) -> str:
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""

    def traces(self, since_bytes: int = 0) -> list[str]:
        """Tracebacks in the log."""
        text = self.log.read_bytes()[since_bytes:].decode(errors="replace")
        return [part[:1500] for part in text.split("Traceback (most recent call last)")[1:]]

    def memory_bytes(self) -> int:
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_full_info().uss)

    def open_files(self) -> int:
        """Without connections to instances, of which some are kept for the next request."""
        assert self.process is not None
        its = psutil.Process(self.process.pid)
        kept = sum(bool(c.raddr) and c.raddr.port in self.ports.values() for c in its.net_connections("tcp"))
        return int(its.num_fds()) - kept

    def connections(self) -> int:
        """That clients have open at the endpoint."""
        assert self.process is not None
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(c.laddr.port == self.port and c.status != psutil.CONN_LISTEN for c in found)

    def pids(self) -> dict[str, int]:
        assert self.process is not None
        return {"daemon": self.process.pid} | {name: self.pid(name) for name in NAMES}

    def before(self) -> Before:
        self.told_to_end.clear()
        return Before(self.pids(), self.open_files(), self.memory_bytes(), self.log.stat().st_size)

    def settle(self, before: Before, row: Row, *, memory_mb: int) -> None:
        """Waits until all is quiet, notes what is left, and finds fault with it."""
        self.wait_ready()
        counted = ("syshax_requests_inflight{", "syshax_requests_queued")
        row.leaks.slots = -1
        until(
            lambda: not sum(self.metric(start) for start in counted) and not self.connections(),
            QUIET_S,
            lambda: f"no request and no connection is left: {self.connections()} connections, {self.metrics()[:3000]}",
        )
        until(
            lambda: self.memory_bytes() - before.memory_bytes < memory_mb * MB,
            QUIET_S,
            lambda: f"memory: +{(self.memory_bytes() - before.memory_bytes) / MB:.0f} MB",
        )
        status = self.status()
        inflight = sum(instance.get("inflight") or 0 for instance in status["instances"])
        row.leaks = Leaks(
            slots=inflight + status["queued"],
            files=max(0, self.open_files() - before.files),
            memory_mb=round((self.memory_bytes() - before.memory_bytes) / MB),
            connections=self.connections(),
        )
        after = self.pids()
        ended = {name for name, pid in before.pids.items() if after[name] != pid}
        row.crashed = len(ended - self.told_to_end)
        assert not row.crashed, f"ended by themselves: {ended - self.told_to_end}"
        assert not row.leaks.slots, status
        assert row.leaks.files <= 2, row.leaks
        for name in () if self.external else NAMES:
            stats = self.stats(name)
            assert not stats["running"] + stats["waiting"], f"{name} still works: {stats}"
        assert not self.traces(before.log_bytes), self.traces(before.log_bytes)[0]
