# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the last instance leaves in the folder of hand-overs. Real files and locks, in shared memory."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syshax_connector import arena
from syshax_connector.arena import Arena
from syshax_connector.folder import Folder
from syshax_connector.header import Header, Model, Part
from syshaxd.core.handover.connector import connector_flags
from syshaxd.core.types import ContainerSpec, HandoverProtocol, InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.instances.arenas import ArenaSweeper, arena_fault
from tests.fakes.specs import make_spec

ARENA_BYTES = 1 << 20
ENDED = (State.STOPPED, State.BACKOFF, State.FAILED)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="syshax-test-") as holder:
        yield Path(holder) / "arena"


def hand_over(path: Path, name: str) -> Arena:
    """What an engine of that name has in the folder: an arena that it holds, and a hand-over."""
    folder = Folder(path)
    folder.make()
    mine = arena.create(folder.arena_path(name, 0), ARENA_BYTES)
    model = Model("m", "bfloat16", "r", 1, 1, 32)
    parts = (Part(mine.path.name, mine.id),)
    folder.publish(Header(f"of-{name}", name, model, parts, 0, 4096, time.time(), (1, 2)))
    return mine


def spec_with(path: Path, name: str) -> InstanceSpec:
    flags = connector_flags(engine_id=name, arena_dir=str(path), arena_bytes=ARENA_BYTES)
    argv = ("vllm", *(part for flag, value in flags.items() for part in (f"--{flag}", str(value))))
    return replace(make_spec(name, argv=argv), protocol=HandoverProtocol.CONNECTOR)


class Bench:
    """Two instances, whose states the test says."""

    def __init__(self, *specs: InstanceSpec) -> None:
        self.statuses = {spec.name: InstanceStatus(spec=spec, state=State.READY) for spec in specs}
        self.callbacks: list[Callable[[InstanceStatus], None]] = []
        self.sweeper = ArenaSweeper(self.statuses.values, self.callbacks.append)

    async def becomes(self, name: str, state: State) -> None:
        self.statuses[name] = replace(self.statuses[name], state=state)
        for callback in self.callbacks:
            callback(self.statuses[name])
        await self.sweeper.close()


@pytest.mark.parametrize("state", ENDED)
async def test_only_when_the_last_instance_has_ended_the_folder_is_swept(folder: Path, state: State) -> None:
    bench = Bench(spec_with(folder, "gpu"), spec_with(folder, "cpu"))
    hand_over(folder, "g").close()  # as when its engine dies: the lock is gone
    living = hand_over(folder, "c")
    await bench.becomes("gpu", state)
    assert len(os.listdir(folder)) == 4, "the other one sweeps, once it has loaded what it may want"
    await bench.becomes("cpu", State.STOPPING)
    assert len(os.listdir(folder)) == 4
    await bench.becomes("cpu", State.STOPPED)
    assert sorted(os.listdir(folder)) == ["c.0.arena", "of-c.kv"], "somebody holds the lock: that engine lives"
    living.close()
    del living  # its memory keeps the lock, too
    await bench.becomes("cpu", State.STOPPED)
    assert not os.listdir(folder)


async def test_instances_with_folders_of_their_own_do_not_wait_for_each_other(folder: Path) -> None:
    other = folder.with_name("other")
    bench = Bench(spec_with(folder, "gpu"), spec_with(other, "cpu"))
    hand_over(folder, "g").close()
    hand_over(other, "c").close()
    await bench.becomes("gpu", State.STOPPED)
    assert not os.listdir(folder)
    assert len(os.listdir(other)) == 2


@pytest.mark.parametrize(("ipc", "left"), [("host", 0), ("shareable", 2), ("private", 2)])
async def test_a_container_s_folder_is_this_one_only_in_the_host_s_namespace(folder: Path, ipc: str, left: int) -> None:
    container = ContainerSpec(name="vllm_gpu", image="vllm", ipc=ipc)
    bench = Bench(replace(spec_with(folder, "gpu"), runtime=RuntimeKind.DOCKER, container=container))
    hand_over(folder, "g").close()
    await bench.becomes("gpu", State.STOPPED)
    assert len(os.listdir(folder)) == left


async def test_instances_that_hand_nothing_over_have_no_folder(folder: Path) -> None:
    external = replace(make_spec("cpu"), runtime=RuntimeKind.EXTERNAL, protocol=HandoverProtocol.CONNECTOR)
    bench = Bench(replace(spec_with(folder, "gpu"), protocol=HandoverProtocol.NONE), external)
    hand_over(folder, "g").close()
    await bench.becomes("gpu", State.STOPPED)
    await bench.becomes("cpu", State.STOPPED)
    assert len(os.listdir(folder)) == 2


async def test_a_folder_that_is_not_there_is_not_made(folder: Path) -> None:
    bench = Bench(spec_with(folder, "gpu"))
    await bench.becomes("gpu", State.STOPPED)
    assert not os.listdir(folder.parent)


async def test_a_folder_that_others_can_write_to_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(spec_with(folder, "gpu"))
    hand_over(folder, "g").close()
    os.chmod(folder, 0o777)  # noqa: PTH101
    with caplog.at_level(logging.WARNING):
        await bench.becomes("gpu", State.STOPPED)
    assert len(os.listdir(folder)) == 2
    assert "mode 0777" in caplog.text


def test_an_instance_without_an_arena_cannot_keep_kv_caches(folder: Path) -> None:
    spec = spec_with(folder, "gpu")
    assert "arena_dir" in arena_fault(spec), "the folder is not there"
    Folder(folder).make()
    assert "no arena" in arena_fault(spec)
    mine = arena.create(Folder(folder).arena_path("gpu", 0), ARENA_BYTES)
    assert arena_fault(spec) == ""
    mine.close()
    del mine  # as when its engine was killed: the mapping had the lock, too
    assert "no arena" in arena_fault(spec)
    folder.chmod(0o755)
    assert "0755" in arena_fault(spec)
    folder.chmod(0o700)
    assert arena_fault(replace(spec, protocol=HandoverProtocol.NONE)) == "", "it cannot be seen"
