# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The container runtime where no engine is needed; with one: tests/machine/docker."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock, create_autospec

import docker
import pytest
from docker.models.containers import Container

from syshaxd.core.errors import LaunchFailedError, SyshaxError
from syshaxd.core.types import ContainerSpec, RuntimeKind
from syshaxd.runtime.docker import DockerRuntime
from syshaxd.runtime.docker import api as api_module
from syshaxd.runtime.docker.api import ContainerApi
from syshaxd.runtime.docker.options import own_identity
from syshaxd.runtime.docker.pull import pull
from syshaxd.runtime.docker.threads import EventReader
from syshaxd.system.sidetasks import SideTasks
from tests.fakes.specs import make_spec

# Asks the engine until its input ends.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from syshaxd.runtime.docker import DockerRuntime

async def main():
    folder = Path(sys.argv[1])
    runtime = DockerRuntime(folder / "containers", host=f"unix://{folder}/docker.sock", timeout_s=3600)
    asking = asyncio.create_task(runtime.end_others(["gpu"]))
    (folder / "containers").mkdir()
    await asyncio.to_thread(sys.stdin.read)
    asking.cancel()
    await asyncio.wait([asking])
    await runtime.close()

asyncio.run(main())
"""


def test_an_engine_that_hangs_holds_up_no_exit(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "docker.sock"))
        silent.listen()
        silent.settimeout(50)
        with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stdin=subprocess.PIPE) as program:
            try:
                connection, _ = silent.accept()
                program.communicate(timeout=50)
                connection.close()
            finally:
                program.kill()
        assert program.returncode == 0


@pytest.mark.parametrize(
    ("image", "repository", "tag"),
    [
        ("vllm", "vllm", "latest"),
        ("hub:5000/vllm", "hub:5000/vllm", "latest"),
        ("hub:5000/vllm:0.26", "hub:5000/vllm", "0.26"),
        ("hub/vllm@sha256:" + 64 * "0", "hub/vllm", "sha256:" + 64 * "0"),
    ],
)
def test_an_image_is_fetched_by_tag_or_digest(image: str, repository: str, tag: str) -> None:
    client = Mock(api=create_autospec(docker.APIClient, instance=True))
    client.api.pull.return_value = [{"status": "Already exists"}]
    assert list(pull(client, image, lambda: True)) == ["Already exists"]
    client.api.pull.assert_called_once_with(repository, tag=tag, stream=True, decode=True)


def container(name: str, **labels: str) -> Container:
    attrs = {
        "Id": name * 8,
        "Name": f"/{name}",
        "Config": {"Labels": labels},
        "State": {"Running": True, "StartedAt": "2026-01-01T00:00:00.5Z"},
        "HostConfig": {},
    }
    return Container(attrs=attrs)


def labels(owner: str, name: str | None, generation: str = "7") -> dict[str, str]:
    found = {"org.syshax.owner": owner, "org.syshax.instance": "gpu", "org.syshax.generation": generation}
    return found | ({"org.syshax.container": name} if name else {})


@pytest.mark.parametrize(
    ("found", "is_ours"),
    [
        (container("vllm_gpu", **labels("/state", "vllm_gpu")), True),
        (container("vllm_gpu", **labels("/state", None)), True),  # made by a version that noted no name
        (container("mine", **labels("/state", "vllm_gpu")), False),  # of an image that was committed from ours
        (container("vllm_gpu", **labels("/other", "vllm_gpu")), False),
        (container("vllm_gpu", **labels("/state", "vllm_gpu", "seven")), False),
        (container("vllm_gpu"), False),
    ],
)
def test_only_containers_that_this_daemon_made_are_its_own(found: Container, is_ours: bool) -> None:
    api = ContainerApi("unix:///nowhere", owner="/state", timeout_s=1.0)
    api._client = create_autospec(docker.DockerClient, instance=True, containers=Mock())
    api._client.containers.list.return_value = [found]
    assert [state.name for state in api.find("gpu")] == ([found.name] if is_ours else [])


@pytest.mark.parametrize(("host", "emulated", "refused"), [("unix:///x", False, True), ("unix:///x", True, False)])
def test_an_image_for_other_cpus_is_refused_before_the_start_unless_they_are_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, *, emulated: bool, refused: bool
) -> None:
    if emulated:
        (tmp_path / "qemu-aarch64").touch()
    monkeypatch.setattr(api_module, "_EMULATORS", str(tmp_path))
    api = ContainerApi(host, owner="/state", timeout_s=1.0)
    api._client = create_autospec(docker.DockerClient, instance=True, images=Mock())
    api._client.images.get.return_value = Mock(attrs={"Architecture": "arm64"})
    api._client.version.return_value = {"Arch": "amd64"}
    container = ContainerSpec(name="vllm_cpu", image="vllm")
    spec = replace(make_spec("cpu", runtime=RuntimeKind.DOCKER, argv=("vllm",)), container=container)
    for ask in (lambda: api.check_image(spec), lambda: api.fetch(spec, Mock(), lambda: True)):
        with pytest.raises(LaunchFailedError, match="other CPUs") if refused else nullcontext():
            ask()


class Engine:
    """A container engine's event streams: each entry of `answers` is one connection."""

    host = "unix:///there"

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked = threading.Semaphore(0)

    def events(self) -> Iterator[dict[str, str]]:
        self.asked.release()
        answer = self.answers.pop(0) if self.answers else SyshaxError("gone")
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, list)
        return iter(answer)


@pytest.mark.parametrize("odd", [[{}], [7], ValueError("no JSON"), RecursionError(), UnicodeError("odd")], ids=repr)
async def test_an_event_that_makes_no_sense_is_told_and_listening_begins_again(tmp_path: Path, odd: object) -> None:
    tasks, reconnected = SideTasks(sleep=lambda _: asyncio.sleep(0)), asyncio.Event()
    runtime = DockerRuntime(tmp_path, tasks=tasks, reconnected=reconnected.set)
    engine = Engine(odd, SyshaxError("away"), [{"id": "a"}])
    runtime._engine.api = cast("ContainerApi", engine)
    try:
        await runtime._open()
        async with asyncio.timeout(20):
            await reconnected.wait()
        assert tasks.failures == {"docker events": 1}
        assert "docker events failed 1 times" in tasks.faults[0]
    finally:
        runtime._engine.api = Mock()
        await runtime.close()
        await tasks.close()


def test_what_a_reader_raises_while_it_is_stopped_is_no_fault() -> None:
    reader = EventReader(cast("ContainerApi", Engine(AttributeError("closed"))), ended=Mock(), connected=Mock())
    reader.stop()
    assert "closed" in reader.read()


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"]}, {"user": "7:8"}),
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}, {"user": "0:0"}),
        ({"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": True}, {"user": "0:0"}),  # podman
        ({"SecurityOptions": ["name=userns"]}, {"user": "7:8", "userns_mode": "host"}),
        ({"SecurityOptions": None, "Rootless": False}, {"user": "7:8"}),
    ],
)
def test_what_a_program_writes_is_ours_whatever_the_engine_does_to_users(
    engine: dict[str, Any], expected: dict[str, str]
) -> None:
    assert own_identity(engine, 7, 8) == expected
