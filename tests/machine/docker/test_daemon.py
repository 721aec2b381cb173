# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxd over containers, while requests flow and everything below it is killed, restarted and made anew."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.waiting import until
from tests.machine.docker.bed import LONG_S, Bed

pytestmark = pytest.mark.timeout(180)
PORTS = {"gpu": 18001, "cpu": 18002, "spare": 18003}
ENDPOINT = 18010


@dataclass
class Daemon:
    bed: Bed
    folder: Path
    ipc: dict[str, str | None]
    model: Path = Path("/tmp")
    services: dict[str, Any] = field(default_factory=dict)
    """Further keys of each service; `container` is merged."""
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        services: dict[str, Any] = {
            name: {
                "runtime": "docker",
                "device": "cpu",
                "role": "cpu" if name == "cpu" else "gpu",
                "port": PORTS[name],
                "args": {"dtype": "half", "enable-auto-pd-offload": True},
            }
            | self.services.get(name, {})
            | {
                "container": {"image": self.bed.image, "pull": False, "shm_size": "1g", "ipc": self.ipc[name]}
                | self.services.get(name, {}).get("container", {})
            }
            for name in self.ipc
        }
        config = {
            "services": services | {"conductor": {"port": ENDPOINT}},
            "models": {"default": "ds-32b", "path": str(self.model)},
            "docker": {"host": self.bed.url},
            "offload": {"arena_bytes": 64 << 20},
            "lifecycle": {
                "backoff_base_s": 0.2,
                "backoff_cap_s": 1.0,
                "probe_interval_s": 0.5,
                "probe_timeout_s": 5.0,
                "stop_grace_s": 5.0,
            },
            "control": {"socket": str(self.folder / "admin.sock")},
        }
        (self.folder / "config.yaml").write_text(json.dumps(config))
        self.environment = os.environ | {
            "XDG_STATE_HOME": str(self.folder / "state"),
            "SYSHAX_SOCKET": str(self.folder / "admin.sock"),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._program("syshaxd"), "--config", str(self.folder / "config.yaml")],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> Path:
        return self.folder / "syshaxd.log"

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(LONG_S) == 0

    def end(self) -> None:
        """In any case, and shows what it said."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        print(self.log.read_text()[-8000:])

    def wait_ready(self, timeout_s: float = LONG_S) -> None:
        until(self.is_ready, timeout_s, "both instances are ready")

    def is_ready(self) -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{ENDPOINT}/ready?all=1", timeout=5).status == 200)
        return False

    def syshaxctl(self, *arguments: str) -> str:
        done = self._ask(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def syshaxctl_fails(self, *arguments: str) -> str:
        done = self._ask(*arguments)
        assert done.returncode == 1, done
        return done.stderr

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = self._program("syshaxctl")
        return subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True, timeout=120)

    def generations(self) -> dict[str, int]:
        told = json.loads(self.syshaxctl("status", "-o", "json"))
        return {instance["name"]: instance["launches"] for instance in told["instances"]}

    def containers(self) -> dict[str, str]:
        lines = self.bed.docker("ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(line.split() for line in lines if line.startswith("vllm_"))

    @staticmethod
    def _program(name: str) -> str:
        return str(Path(sys.executable).with_name(name))


@dataclass
class Load:
    """Clients that ask again where they are told to, as OpenAI's own does."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _asked: Counter[int] = field(default_factory=Counter)
    """Requests of each client."""

    def run(self) -> None:
        while not self._stop.is_set():
            self._asked[threading.get_ident()] += 1
            # Each with a text of its own: what ran on two instances that were killed is not tried again.
            asked = {"role": "user", "content": f"Hi {next(self._numbers)}"}
            body = json.dumps({"model": "ds-32b", "messages": [asked], "max_tokens": 4})
            for _ in range(80):
                status, text = self._ask(body.encode())
                self.statuses[status] += 1
                if status != 429 and status < 500:
                    break
                time.sleep(0.5)
            if status != 200:
                self.lost.append(f"{status}: {text}")

    def _ask(self, body: bytes) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{ENDPOINT}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=LONG_S) as answer:
                told = json.load(answer)
                return (200, "") if told["usage"]["completion_tokens"] == 4 else (0, f"short: {told}")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")
        except (OSError, ValueError) as error:
            return 0, repr(error)

    def renew(self) -> None:
        """Returns when all requests that are running now have been answered."""
        before = dict(self._asked)
        until(
            lambda: all(self._asked[client] > asked for client, asked in before.items()),
            LONG_S,
            "answers to all clients",
        )

    @contextmanager
    def flowing(self) -> Iterator[None]:
        clients = [threading.Thread(target=self.run) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            yield
        finally:
            self._stop.set()
            for client in clients:
                client.join(LONG_S)


@pytest.fixture
def daemon(bed: Bed, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    daemon = Daemon(bed, tmp_path, request.param)
    daemon.start()
    try:
        daemon.wait_ready()
        yield daemon
        daemon.stop()
        assert not bed.docker("ps", "--all", "--quiet", "--filter", "label=org.syshax.owner")
    finally:
        daemon.end()


COUPLED: dict[str, str | None] = {"gpu": None, "cpu": None}
THREE: dict[str, str | None] = {"gpu": "shareable", "cpu": "container:vllm_gpu", "spare": "private"}
"""Two share a namespace; the third is another GPU of their model."""
DONOR: dict[str, str | None] = {"gpu": "donor", "cpu": "donor"}


def strike_all(daemon: Daemon, load: Load) -> None:
    """Everything that can happen to the containers and their engine, one after the other."""
    strikes: dict[str, Callable[[], Any]] = {
        "the cpu container is killed": lambda: daemon.bed.docker("kill", "vllm_cpu"),
        "the gpu container is killed": lambda: daemon.bed.docker("kill", "vllm_gpu"),
        "the gpu container is restarted by hand": lambda: daemon.bed.docker("restart", "--time", "2", "vllm_gpu"),
        "the gpu container is removed": lambda: daemon.bed.docker("rm", "--force", "vllm_gpu"),
        "the cpu instance is restarted": lambda: daemon.syshaxctl("restart", "cpu"),
        "the gpu instance is restarted": lambda: daemon.syshaxctl("restart", "gpu"),
    }
    for what, strike in strikes.items():
        before, answered = daemon.generations(), load.statuses[200]
        strike()
        until(lambda: daemon.generations() != before, LONG_S, f"a new generation after {what}")  # noqa: B023
        daemon.wait_ready()
        until(lambda: load.statuses[200] > answered, LONG_S, f"answers after {what}")  # noqa: B023
        print(f"{what}: generations {before} -> {daemon.generations()}")


@pytest.mark.parametrize("daemon", [DONOR], indirect=True)
def test_no_request_is_lost_while_containers_come_and_go(daemon: Daemon) -> None:
    load = Load()
    with load.flowing():
        strike_all(daemon, load)
    print(f"answers by status: {dict(load.statuses)}; lost: {len(load.lost)}")
    assert load.lost == []
    assert set(load.statuses) == {200}
    assert load.statuses[200] > 50


@pytest.mark.parametrize("daemon", [COUPLED], indirect=True)
def test_who_joined_a_namespace_is_made_anew_with_it(daemon: Daemon) -> None:
    first = daemon.containers()
    load = Load()
    with load.flowing():
        strike_all(daemon, load)
    print(f"answers by status: {dict(load.statuses)}; lost after asking again: {len(load.lost)}")
    assert load.lost == []
    last = daemon.containers()
    assert not set(first.values()) & set(last.values())
    mode = daemon.bed.docker("inspect", "--format", "{{.HostConfig.IpcMode}}", "vllm_cpu")
    assert mode == f"container:{last['vllm_gpu']}"


def kill(daemon: Daemon, load: Load, name: str) -> set[str]:
    """Kills an instance's container. Returns the instances that have another one when all are ready again."""
    before, generations, answered = daemon.containers(), daemon.generations(), load.statuses[200]
    daemon.bed.docker("kill", f"vllm_{name}")
    until(lambda: load.statuses[200] > answered + 8, LONG_S, f"answers after {name} is killed")
    until(lambda: daemon.generations() != generations, LONG_S, f"a new generation of {name}")
    daemon.wait_ready()
    load.renew()  # what ran on it must not meet the next kill, too
    after = daemon.containers()
    return {each for each in daemon.ipc if before[f"vllm_{each}"] != after[f"vllm_{each}"]}


@pytest.mark.parametrize("daemon", [THREE], indirect=True)
def test_any_of_three_containers_is_killed_and_no_request_is_lost(daemon: Daemon) -> None:
    load = Load()
    with load.flowing():
        assert kill(daemon, load, "spare") == {"spare"}
        assert kill(daemon, load, "cpu") == {"cpu"}
        assert kill(daemon, load, "gpu") == {"gpu", "cpu"}
    print(f"answers by status: {dict(load.statuses)}")
    assert load.lost == []
    assert set(load.statuses) == {200}


@pytest.mark.parametrize("daemon", [COUPLED], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_container_engine_restarts_and_the_containers_do_not(daemon: Daemon, number: signal.Signals) -> None:
    before = daemon.containers(), daemon.generations()
    load = Load()
    with load.flowing():
        until(lambda: load.statuses[200] > 4, LONG_S, "answers")
        daemon.bed.stop_engine(number)
        daemon.bed.start_engine()
        until(lambda: "answers again" in daemon.log.read_text(), LONG_S, "syshaxd is connected again")
        daemon.wait_ready()
    print(f"answers by status: {dict(load.statuses)}; lost after asking again: {len(load.lost)}")
    assert load.lost == []
    assert (daemon.containers(), daemon.generations()) == before
    daemon.bed.docker("kill", "vllm_cpu")  # it still sees what happens
    until(lambda: daemon.generations() != before[1], LONG_S, "a new generation")
    daemon.wait_ready()


@pytest.mark.parametrize("daemon", [COUPLED, DONOR], indirect=True)
def test_a_killed_daemon_finds_its_containers_again(daemon: Daemon) -> None:
    before = daemon.containers(), daemon.generations()
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    for name in daemon.ipc:  # they go on serving
        assert urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}/health", timeout=10).status == 200
    daemon.start()
    daemon.wait_ready()
    assert (daemon.containers(), daemon.generations()) == before
    load = Load()
    with load.flowing():
        until(lambda: load.statuses[200] > 4, LONG_S, "answers")
    assert load.lost == []


@pytest.mark.parametrize("daemon", [DONOR], indirect=True)
def test_a_new_configuration_makes_only_what_changed_anew(daemon: Daemon) -> None:
    before = daemon.containers()
    load = Load()
    with load.flowing():
        daemon.syshaxctl("config", "set", "--apply", "services.cpu.max_num_seqs", "7")
        daemon.wait_ready()
        after = daemon.containers()
        daemon.syshaxctl_fails("config", "set", "--apply", "services.cpu.container.image", "127.0.0.1:1/none:x")
        daemon.wait_ready()
    assert before["vllm_gpu"] == after["vllm_gpu"] == daemon.containers()["vllm_gpu"]
    assert before["vllm_cpu"] != after["vllm_cpu"]
    assert "--max-num-seqs 7" in daemon.bed.docker("inspect", "--format", '{{join .Config.Cmd " "}}', "vllm_cpu")
    assert daemon.bed.image == daemon.bed.docker("inspect", "--format", "{{.Config.Image}}", "vllm_cpu")
    assert load.lost == []
    assert set(load.statuses) == {200}
