# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The arenas of a rank, which two threads share: nothing that a copy uses is let go. Real files, in shared memory."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from syshax_connector import arena
from syshax_connector.arena import Arena, ArenaError
from syshax_connector.arenas import Arenas
from syshax_connector.folder import Folder, FolderError

SIZE = 1 << 20


class Device:
    """What is registered with it."""

    def __init__(self) -> None:
        self.pinned: set[str] = set()

    def pin(self, mapped: Arena) -> None:
        assert mapped.id not in self.pinned
        self.pinned.add(mapped.id)

    def unpin(self, mapped: Arena) -> None:
        self.pinned.discard(mapped.id)


@pytest.fixture
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="syshax-test-") as path:
        yield Folder(Path(path) / "arenas")


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def arenas(folder: Folder, device: Device) -> Iterator[Arenas]:
    made = Arenas(folder, folder.arena_path("me", 0), SIZE, pin=device.pin, unpin=device.unpin)
    yield made
    made.close()
    assert not folder.arena_path("me", 0).exists()


def test_the_own_arena_is_made_and_made_anew(folder: Folder, arenas: Arenas, device: Device) -> None:
    with pytest.raises(ArenaError, match="does not exist yet"):
        arenas.take_own()
    arenas.keep(pins=True)
    first = arenas.take_own()
    assert device.pinned == {first.id}
    folder.arena_path("me", 0).unlink()
    arenas.keep(pins=True)
    with pytest.raises(ArenaError, match="removed"):
        arenas.take_own()
    first.memory[0:1] = b"x"  # a copy under way may go on
    arenas.give_back(first)
    arenas.keep(pins=True)
    second = arenas.take_own()
    assert second.id != first.id
    assert device.pinned == {second.id}, "the first one's memory is not registered any more"
    arenas.give_back(second)


def test_an_arena_that_is_gone_is_let_go_when_nothing_uses_it(folder: Folder, arenas: Arenas, device: Device) -> None:
    arenas.keep(pins=True)
    other = arena.create(folder.arena_path("other", 0), SIZE)
    taken, is_new = arenas.take("other.0.arena", other.id)
    again, is_new_again = arenas.take("other.0.arena", other.id)
    assert (taken is again, is_new, is_new_again) == (True, True, False)
    arenas.keep(pins=True)
    assert taken.id in device.pinned
    other.give_up()
    arenas.give_back(again)
    arenas.keep(pins=True)
    os.fstat(taken.fd)  # it is still open
    assert taken.id in device.pinned
    arenas.give_back(taken)
    arenas.keep(pins=True)
    assert taken.id not in device.pinned
    with pytest.raises(ArenaError):
        arenas.take("other.0.arena", other.id)


def test_another_arena_under_the_same_name_takes_nothing_from_a_copy_under_way(folder: Folder, arenas: Arenas) -> None:
    arenas.keep(pins=False)
    path = folder.arena_path("other", 0)
    first = arena.create(path, SIZE)
    taken, _ = arenas.take(path.name, first.id)
    first.give_up()
    second = arena.create(path, SIZE)
    newer, is_new = arenas.take(path.name, second.id)
    assert is_new
    arenas.keep(pins=False)
    os.fstat(taken.fd)
    arenas.give_back(taken)
    fd = taken.fd
    arenas.keep(pins=False)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    arenas.give_back(newer)
    second.give_up()


def test_a_folder_that_is_not_ours_costs_hand_overs_and_heals(folder: Folder, arenas: Arenas) -> None:
    folder.path.mkdir(mode=0o755)
    folder.path.chmod(0o755)
    for _ in range(2):
        with pytest.raises(FolderError, match="0755"):
            arenas.keep(pins=True)
        with pytest.raises(FolderError):
            arenas.take("other.0.arena", "x")
        with pytest.raises(ArenaError):
            arenas.take_own()
    folder.path.rmdir()
    arenas.keep(pins=True)
    arenas.give_back(arenas.take_own())


def test_a_copy_beside_the_keeper_never_loses_its_arena(folder: Folder, arenas: Arenas) -> None:
    """Threads that change as often as they can: what is taken is open and whole until it is given back."""
    interval_s = sys.getswitchinterval()
    stop = threading.Event()
    faults: list[BaseException] = []
    rounds = 0

    def run(work: object) -> None:
        assert callable(work)
        try:
            while not stop.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - told by the test
            faults.append(error)
            stop.set()

    def copy() -> None:
        nonlocal rounds
        with suppress(ArenaError):
            own = arenas.take_own()
            os.fstat(own.fd)
            arenas.give_back(own)
        for path in folder.path.glob("other.*.arena"):
            with suppress(OSError, ValueError):
                content = path.read_bytes()[:100]
                found, _ = arenas.take(path.name, content.split()[1].split(b"\n")[0].decode())
                try:
                    os.fstat(found.fd)
                    assert found.memory[:12] == b"SYSHAXARENA1"
                except OSError as error:
                    raise AssertionError("closed while in use") from error
                finally:
                    arenas.give_back(found)
        rounds += 1

    arenas.keep(pins=True)
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=run, args=(work,)) for work in (copy, copy, lambda: arenas.keep(pins=True))]
    try:
        for thread in threads:
            thread.start()
        for _ in range(60):
            other = arena.create(folder.arena_path("other", 0), 1 << 16)
            seen = rounds
            while rounds < seen + 2 and not stop.is_set():
                stop.wait(0.001)
            other.give_up()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        sys.setswitchinterval(interval_s)
    assert not faults
    arenas.keep(pins=True)
