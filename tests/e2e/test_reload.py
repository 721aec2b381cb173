# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A real daemon over simulated instances, which start at once: configurations applied and rolled back."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import get, gone, simulated_vllm
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

IN_TIME_S = 30.0


@dataclass
class Daemon:
    """A syshaxd that can be started again; its instances are told apart by their process ids."""

    folder: Path
    url: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    seen: set[psutil.Process] = field(default_factory=set)

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            program = [str(Path(sys.executable).with_name("syshaxd")), "--config", str(self.config)]
            self.process = subprocess.Popen(program, env=self.environment, stdout=log, stderr=log)
        until(lambda: get(f"{self.url}/ready?all=1")[0] == 200, IN_TIME_S, "both instances are ready")

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(IN_TIME_S) == 0

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = [str(Path(sys.executable).with_name("syshaxctl")), *words]
        return subprocess.run(program, env=self.environment, capture_output=True, text=True, timeout=IN_TIME_S)

    def instances(self) -> dict[str, dict[str, Any]]:
        told = json.loads(self.ctl("status", "-o", "json").stdout)["instances"]
        for its in told:
            if its["ident"]:
                with suppress(psutil.NoSuchProcess):  # it has ended since
                    self.seen.add(psutil.Process(int(its["ident"])))
        return {its["name"]: its for its in told}

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    python = simulated_vllm(tmp_path, "--speed", "10")
    service = {"runtime": "process", "device": "cpu", "python": str(python), "max_num_seqs": 8}
    port = free_port()
    config = {
        "services": {
            "gpu": service | {"port": free_port()},
            "cpu": service | {"port": free_port()},
            "conductor": {"port": port},
        },
        "models": {"default": "m", "path": str(tmp_path)},
        "lifecycle": {"backoff_base_s": 0.5, "stop_grace_s": 5.0},
        "control": {"socket": str(tmp_path / "admin.sock")},
    }
    environment = os.environ | {
        "SYSHAX_SOCKET": str(tmp_path / "admin.sock"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    environment["SYSHAX_CONFIG"] = str(tmp_path / "config.yaml")
    running = Daemon(tmp_path, f"http://127.0.0.1:{port}", environment)
    running.config.write_text(json.dumps(config))
    running.start()
    try:
        running.instances()
        yield running
        if running.process is not None and running.process.poll() is None:
            running.stop()
        assert gone(running.seen), running.log()
    finally:
        if running.process is not None and running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        for left in filter(psutil.Process.is_running, running.seen):
            left.kill()


def test_reload_makes_only_the_changed_instance_anew(daemon: Daemon) -> None:
    before, port = daemon.instances(), free_port()
    done = daemon.ctl("config", "set", "services.cpu.port", str(port), "decider.gpu_cache_threshold", "0.7", "--apply")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed: services.cpu.port, decider.gpu_cache_threshold\nrestarted: cpu\n"
    now = daemon.instances()
    assert now["gpu"]["ident"] == before["gpu"]["ident"]
    assert now["cpu"]["ident"] != before["cpu"]["ident"]
    assert now["cpu"]["address"] == f"127.0.0.1:{port}"
    assert json.loads(daemon.ctl("policy", "-o", "json").stdout)["gpu_cache_threshold"] == 0.7


def test_a_change_after_which_an_instance_does_not_start_is_taken_back(daemon: Daemon) -> None:
    before, text = daemon.instances(), daemon.config.read_text()
    done = daemon.ctl("config", "set", "services.cpu.args.no-such-flag", "1", "--apply")
    assert done.returncode == 1
    assert (
        "rolled back: cpu failed: exited with code 2 (its vLLM does not know the arguments --no-such-flag"
        in done.stderr
    )
    until(lambda: get(f"{daemon.url}/ready?all=1")[0] == 200, IN_TIME_S, "both instances are ready again")
    assert daemon.instances()["gpu"]["ident"] == before["gpu"]["ident"]
    assert daemon.config.read_text() == text
    assert "no-such-flag" in (daemon.folder / "config.yaml.rejected").read_text()
    assert "rolled back" in daemon.ctl("events").stdout


def test_sighup_applies_the_file_and_a_faulty_one_changes_nothing(daemon: Daemon) -> None:
    assert daemon.process is not None
    before, good = daemon.instances(), daemon.config.read_text()
    daemon.config.write_text(good.replace('"max_num_seqs": 8', '"max_num_seqs": 0'))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "refused, nothing has changed" in daemon.log(), IN_TIME_S, "the reload was refused")
    for key in ("services.gpu.max_num_seqs", "services.cpu.max_num_seqs"):
        assert f"{key}: must be a whole number of at least 1, not 0" in daemon.log()
    assert {name: its["ident"] for name, its in daemon.instances().items()} == {
        name: its["ident"] for name, its in before.items()
    }
    daemon.config.write_text(good.replace('"max_num_seqs": 8', '"max_num_seqs": 9'))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.instances()["cpu"]["max_num_seqs"] == 9, IN_TIME_S, "the reload has begun")
    until(lambda: get(f"{daemon.url}/ready?all=1")[0] == 200, IN_TIME_S, "both instances are ready again")


def test_instances_can_outlive_the_daemon(daemon: Daemon) -> None:
    before = daemon.instances()
    assert daemon.ctl("shutdown", "--leave-running").returncode == 0
    assert daemon.process is not None
    assert daemon.process.wait(IN_TIME_S) == 0
    assert all(psutil.pid_exists(int(its["ident"])) for its in before.values())
    daemon.start()
    now = daemon.instances()
    assert {name: (its["ident"], its["launches"]) for name, its in now.items()} == {
        name: (its["ident"], its["launches"]) for name, its in before.items()
    }


def test_a_request_is_explained_by_the_id_that_its_answer_carries(daemon: Daemon) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=IN_TIME_S) as answer:
        request_id = answer.headers["X-Request-Id"]
    told = daemon.ctl("explain", request_id).stdout
    assert "run on gpu: the GPU has room" in told
    assert "ended: ok" in told
    assert json.loads(daemon.ctl("requests", "-o", "json").stdout) == []
