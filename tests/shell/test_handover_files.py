# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The connector's files: arenas, hand-overs, locks and who outlives whom. Real files, in shared memory."""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from syshax_connector import arena
from syshax_connector.arena import ArenaError
from syshax_connector.consumer import Consumer, MissError
from syshax_connector.folder import Claim, Folder, FolderError
from syshax_connector.header import Header, Model, Part
from syshax_connector.layout import Digit, Packed, Packing, Shape
from syshax_connector.producer import Producer, RefusedError
from syshax_connector.settings import Settings
from syshax_connector.sweeper import Sweeper

SHAPE = Shape(layers=2, kv_heads=2, head_size=32, item_bytes=2)  # 512 bytes a token
MODEL = Model("m", "bfloat16", "r", 2, 2, 32)
TOKENS = list(range(100))
ARENA_BYTES = 1 << 20
_ROWS = Packing((Digit(32, 32),), (Digit(32, 1),))
PACKED = Packed(32, Packing((Digit(32, 1),), (Digit(32, 32),)), _ROWS)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """One engine that saves and one that loads, in this process."""

    def __init__(self, path: Path, packed: Packed | None = None) -> None:
        self.folder = Folder(path)
        self.packed = packed
        self.clock = Clock()
        self.settings = Settings(arena_dir=path, arena_bytes=ARENA_BYTES, ttl_s=60, wait_s=1)
        self.arena = arena.create(self.folder.arena_path("e", 0), ARENA_BYTES)
        self.producer = Producer(
            self.folder,
            self.settings,
            owner="e",
            model=MODEL,
            shape=SHAPE,
            ranks=1,
            unit=1 if packed is None else packed.block_size,
            clock=self.clock,
        )
        self.consumer = self.consumer_of(MODEL)

    def consumer_of(self, model: Model) -> Consumer:
        return Consumer(self.folder, self.settings, model=model, shape=SHAPE, clock=self.clock)

    def save(self, key: str, token_ids: list[int] = TOKENS) -> None:
        self.producer.reserve(key, len(token_ids))
        self.producer.publish(key, token_ids, [Part(self.arena.path.name, self.arena.id, packed=self.packed)])

    def claim(self, key: str, token_ids: list[int] = TOKENS) -> tuple[Claim, int] | None:
        return self.consumer.claim(key, token_ids, self.clock.now_s)

    def names(self) -> set[str]:
        return set(os.listdir(self.folder.path))


@pytest.fixture
def shm() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="syshax-test-") as path:
        yield Path(path)


@pytest.fixture
def bench(shm: Path) -> Iterator[Bench]:
    bench = Bench(shm)
    yield bench
    bench.arena.give_up()


def test_what_was_saved_is_loaded_once_and_freed(bench: Bench) -> None:
    bench.save("k")
    found = bench.claim("k", [*TOKENS[:60], 7])
    assert found is not None
    claim, tokens = found
    assert tokens == 60
    assert (claim.header.tokens, claim.header.size) == (100, 51200)
    claim.free()
    assert bench.claim("k") is None
    bench.producer.sweep()
    assert bench.producer.used_bytes == 0
    assert bench.names() == {bench.arena.path.name}


def test_whole_blocks_are_saved_where_the_cache_is_packed(shm: Path) -> None:
    bench = Bench(shm, PACKED)
    bench.save("k")
    found = bench.claim("k")
    assert found is not None
    claim, tokens = found
    assert tokens == 100
    assert (claim.header.tokens, claim.header.size) == (100, 128 * 512)
    assert claim.header.parts[0].packed == PACKED
    claim.free()
    extent = bench.producer.reserve("cut", 100)
    part = Part(bench.arena.path.name, bench.arena.id, packed=PACKED)
    bench.folder.publish(Header("cut", "e", MODEL, (part,), extent.offset, 100 * 512, 0.0, tuple(TOKENS)))
    with pytest.raises(MissError, match="51200 bytes instead of 65536"):
        bench.claim("cut")


def test_a_request_waits_only_so_long(bench: Bench) -> None:
    since = bench.clock.now_s
    assert bench.consumer.claim("k", TOKENS, since) is None
    bench.clock.now_s += 1.1
    with pytest.raises(MissError) as miss:
        bench.consumer.claim("k", TOKENS, since)
    assert miss.value.reason == "missing"


def test_what_is_being_loaded_is_nobody_elses(bench: Bench) -> None:
    bench.save("k")
    found = bench.claim("k")
    assert found is not None
    with pytest.raises(MissError) as miss:
        bench.claim("k")
    assert miss.value.reason == "busy"
    bench.clock.now_s += 1000
    assert bench.producer.sweep() == 0
    found[0].close()  # as when the loading engine dies
    assert bench.producer.sweep() == 1
    assert bench.producer.used_bytes == 0


@pytest.mark.parametrize("name", ["identity", "dtype", "rope"])
def test_another_models_cache_is_left_alone(bench: Bench, name: str) -> None:
    bench.save("k")
    other = bench.consumer_of(replace(MODEL, **{name: "other"}))
    with pytest.raises(MissError, match=name) as miss:
        other.claim("k", TOKENS, bench.clock.now_s)
    assert miss.value.reason == "model"
    assert bench.claim("k") is not None, "its own model still finds it"


def test_another_text_is_not_loaded(bench: Bench) -> None:
    bench.save("k")
    with pytest.raises(MissError) as miss:
        bench.claim("k", [9999, *TOKENS])
    assert miss.value.reason == "tokens"


def test_damaged_swapped_and_foreign_files_are_refused_and_removed(bench: Bench) -> None:
    bench.save("one")
    bench.save("two", [5, *TOKENS])
    one, two = bench.folder.path / "one.kv", bench.folder.path / "two.kv"
    one.rename(bench.folder.path / "swap")
    two.rename(one)
    (bench.folder.path / "swap").rename(two)
    two.write_bytes(two.read_bytes()[:-3])
    for key in ("one", "two"):
        with pytest.raises(MissError) as miss:
            bench.claim(key)
        assert miss.value.reason == "damaged"
    (bench.folder.path / "link.kv").symlink_to("/etc/passwd")
    with pytest.raises(MissError, match="link"):
        bench.claim("link")
    assert bench.names() == {bench.arena.path.name}
    bench.producer.sweep()
    assert bench.producer.used_bytes == 0


def test_an_arena_that_is_gone_or_cut_off_is_noticed(bench: Bench) -> None:
    other = arena.attach(bench.arena.path, bench.arena.id)
    other.check()
    with pytest.raises(ArenaError, match="another arena"):
        arena.attach(bench.arena.path, "0" * 32)
    bench.save("k")
    os.truncate(bench.arena.path, 8192)
    with pytest.raises(MissError) as miss:
        bench.claim("k")
    assert miss.value.reason == "arena"
    with pytest.raises(ArenaError, match="cut off"):
        other.check()
    bench.arena.path.unlink()
    with pytest.raises(MissError) as miss:
        bench.claim("k")
    assert miss.value.reason == "arena"
    with pytest.raises(ArenaError, match="removed"):
        other.check()
    with pytest.raises(RefusedError) as refusal:
        bench.producer.reserve("k2", 1)
    assert refusal.value.reason == "arena"
    other.close()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "x").touch()


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))


def _holes(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


@contextmanager
def in_time() -> Iterator[None]:
    """Ends what would wait for ever."""

    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("put", [_pipe, _folder, _link, _socket, _holes])
def test_whatever_is_in_the_place_of_a_file_costs_that_hand_over_alone(
    bench: Bench, put: Callable[[Path], None]
) -> None:
    put(bench.folder.path / "odd.kv")
    bench.save("good")
    with in_time():
        with pytest.raises(MissError) as miss:
            bench.claim("odd")
        assert miss.value.reason == "damaged"
        claimed = bench.claim("good")
        assert claimed is not None
        claimed[0].close()
        bench.producer.sweep()
        bench.folder.survey()
    assert bench.claim("good") is not None


@pytest.mark.parametrize("put", [_pipe, _folder, _link, _socket, _holes])
def test_whatever_is_in_the_place_of_an_arena_is_none(bench: Bench, put: Callable[[Path], None]) -> None:
    bench.save("lost")
    bench.save("other")
    bench.arena.path.unlink()
    put(bench.arena.path)
    put(bench.folder.path / "aside.kv")
    put(bench.folder.path / "dead.0.arena")
    with in_time():
        with pytest.raises(OSError):  # noqa: PT011 - each kind has a reason of its own
            arena.attach(bench.arena.path, bench.arena.id)
        assert not bench.folder.has_arena("e")
        bench.folder.reap(0.0, -1.0)
        bench.folder.survey()
    assert not {"lost.kv", "other.kv"} & bench.names(), "the odd ones keep no dead one from being removed"


def test_no_room_in_the_tmpfs_is_an_error_that_leaves_nothing(shm: Path) -> None:
    too_much = os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize + (1 << 20)
    with pytest.raises(OSError, match=r"no room for .* --shm-size.* arena_bytes.*e\.0\.arena"):
        arena.create(shm / "e.0.arena", too_much)
    assert not list(shm.iterdir())


def test_a_full_arena_drops_the_oldest_unclaimed_but_no_young_one(bench: Bench) -> None:
    tokens = 1000  # half of the arena
    bench.save("old", list(range(tokens)))
    with pytest.raises(RefusedError) as refusal:
        bench.producer.reserve("much", 1500)
    assert refusal.value.reason == "budget"
    bench.clock.now_s += 2
    bench.save("new", list(range(tokens)))
    held = bench.claim("old", list(range(tokens)))
    assert held is not None
    with pytest.raises(RefusedError):
        bench.producer.reserve("third", tokens)
    held[0].close()
    bench.save("third", list(range(tokens)))
    assert not bench.folder.exists("old")
    assert bench.folder.exists("new")
    with pytest.raises(RefusedError, match="arena_bytes"):
        bench.producer.reserve("huge", 5000)


def test_a_key_is_used_once(bench: Bench) -> None:
    bench.save("k")
    with pytest.raises(RefusedError) as refusal:
        bench.save("k")
    assert refusal.value.reason == "key"


def test_stopping_takes_back_what_nobody_loads(bench: Bench) -> None:
    bench.save("one")
    bench.save("two")
    held = bench.claim("two")
    bench.producer.close()
    assert bench.names() == {bench.arena.path.name, "two.kv"}
    assert held is not None
    held[0].free()


def test_a_folder_that_others_can_write_to_is_refused(shm: Path) -> None:
    shm.chmod(0o777)
    with pytest.raises(FolderError, match="0777"):
        Folder(shm).make()
    with pytest.raises(FolderError):
        Folder(Path("/proc/syshax")).make()
    shm.chmod(0o700)
    (shm / "link").symlink_to(shm)
    with pytest.raises(FolderError, match="a link"):
        Folder(shm / "link").make()
    (shm / "file").touch(mode=0o600)
    with pytest.raises(FolderError):
        Folder(shm / "file").make()
    Folder(shm / "new").make()
    assert (shm / "new").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_get_at_later_is_not_used_any_more(bench: Bench) -> None:
    bench.save("k")
    bench.folder.path.chmod(0o755)
    with pytest.raises(MissError, match="0755") as miss:
        bench.claim("k")
    assert miss.value.reason == "arena"
    with pytest.raises(RefusedError, match="0755") as refusal:
        bench.producer.reserve("new", 1)
    assert refusal.value.reason == "arena"
    with pytest.raises(FolderError):
        bench.folder.reap(ttl_s=0, grace_s=-1)
    bench.folder.path.chmod(0o700)
    assert bench.claim("k") is not None


def test_a_sweep_reads_no_more_of_a_hand_over_than_its_head(bench: Bench) -> None:
    """However long the prompts are that wait."""
    bench.save("k", list(range(1000)))
    path = bench.folder.path / "k.kv"
    content = path.read_bytes()
    path.write_bytes(content[:-4000] + bytes(4000))
    assert bench.folder.reap(ttl_s=60, grace_s=0) == 0, "the head says whose it is"
    with pytest.raises(MissError, match="token ids"):
        bench.claim("k", list(range(1000)))


def test_a_long_head_is_read_whole(bench: Bench) -> None:
    parts = tuple(Part(f"e.{rank}.arena", bench.arena.id, packed=PACKED) for rank in range(64))
    bench.folder.publish(Header("k", "e", MODEL, parts, 4096, 512, 0.0, (1,)))
    assert len((bench.folder.path / "k.kv").read_bytes()) > 4096
    assert bench.folder.reap(ttl_s=math.inf, grace_s=0) == 0


_OWNER = """
import os, signal, sys
from pathlib import Path
from syshax_connector import arena
from syshax_connector.folder import Folder
from syshax_connector.header import Header, Model, Part
folder = Folder(Path(sys.argv[1]))
made = arena.create(folder.arena_path("dead", 0), 1 << 20)
model = Model("m", "bfloat16", "r", 2, 2, 32)
folder.publish(Header("left", "dead", model, (Part(made.path.name, made.id),), 4096, 512, 0.0, (1,)))
print("ready", flush=True)
signal.pause()
"""


def test_what_a_killed_engine_left_is_removed_after_the_grace(bench: Bench) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, bench.folder.path], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    before = bench.names()
    assert {"dead.0.arena", "left.kv"} < before
    assert bench.folder.reap(ttl_s=60, grace_s=0) == 0, "its owner lives"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert bench.folder.reap(ttl_s=60, grace_s=60) == 0, "somebody may be about to load it"
    assert bench.names() == before
    claim = bench.folder.claim("left")
    assert claim is not None
    assert bench.folder.reap(ttl_s=60, grace_s=0) == 0, "it is being loaded, so its arena stays too"
    claim.close()
    assert bench.folder.reap(ttl_s=60, grace_s=0) == 2
    assert bench.names() == {bench.arena.path.name}


def test_a_new_engine_takes_the_name_of_a_dead_one_but_not_of_a_living_one(bench: Bench) -> None:
    with pytest.raises(FileExistsError):
        arena.create(bench.arena.path, ARENA_BYTES)
    bench.arena.close()  # the lock goes, the file stays: as when it was killed
    del bench.arena
    bench.arena = arena.create(bench.folder.arena_path("e", 0), ARENA_BYTES)
    bench.arena.check()


def test_what_a_dead_engine_saved_does_not_live_on_by_the_name_of_a_new_one(bench: Bench) -> None:
    bench.save("k")
    bench.arena.close()
    del bench.arena
    bench.arena = arena.create(bench.folder.arena_path("e", 0), ARENA_BYTES)
    bench.folder.publish(Header("own", "e", MODEL, (Part("e.0.arena", bench.arena.id),), 4096, 512, 0.0, (1,)))
    assert bench.folder.reap(ttl_s=60, grace_s=-1) == 1
    assert bench.names() == {bench.arena.path.name, "own.kv"}


def test_nothing_is_older_than_its_time(bench: Bench) -> None:
    bench.save("k")
    long_ago = time.time() - 100
    os.utime(bench.folder.path / "k.kv", (long_ago, long_ago))
    assert bench.folder.survey()[0] == 1
    assert bench.folder.survey()[1] == pytest.approx(100, abs=5)
    assert bench.folder.reap(ttl_s=200, grace_s=1) == 0
    assert bench.folder.reap(ttl_s=60, grace_s=1) == 1


class BookMachine(RuleBasedStateMachine):
    """The producer's book against what the folder really holds, under any order of events."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.holder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="syshax-test-")
        self.bench = Bench(Path(self.holder.name))
        self.made = 0
        self.claims: list[Claim] = []

    @rule(tokens=st.integers(1, 900))
    def save(self, tokens: int) -> None:
        self.made += 1
        with suppress(RefusedError):
            self.bench.save(f"k{self.made}", list(range(tokens)))

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        keys = sorted(path.stem for path in self.bench.folder.path.glob("*.kv"))
        if keys:
            key = data.draw(st.sampled_from(keys))
            if key in {claim.header.key for claim in self.claims}:
                with pytest.raises(MissError, match="another engine"):
                    self.bench.claim(key, list(range(900)))
            else:
                found = self.bench.claim(key, list(range(900)))
                assert found is not None
                self.claims.append(found[0])

    @rule(free=st.booleans())
    def end_claim(self, free: bool) -> None:
        if self.claims:
            claim = self.claims.pop()
            claim.free() if free else claim.close()

    @rule(seconds=st.sampled_from([0.1, 5.0, 100.0]))
    def sweep_later(self, seconds: float) -> None:
        self.bench.clock.now_s += seconds
        self.bench.producer.sweep()

    @invariant()
    def no_bytes_are_used_twice(self) -> None:
        held = [claim.header for claim in self.claims]
        waiting = [self.bench.folder.claim(path.stem) for path in self._unclaimed()]
        headers = sorted(held + [claim.header for claim in waiting if claim], key=lambda header: header.offset)
        for claim in waiting:
            assert claim is not None
            claim.close()
        assert all(one.offset + one.size <= two.offset for one, two in pairwise(headers))
        assert sum(header.size for header in headers) <= self.bench.producer.used_bytes <= ARENA_BYTES

    def _unclaimed(self) -> list[Path]:
        held = {claim.path for claim in self.claims}
        return [path for path in self.bench.folder.path.glob("*.kv") if path not in held]

    def teardown(self) -> None:
        for claim in self.claims:
            claim.close()
        self.bench.producer.close()
        assert self.bench.producer.used_bytes == 0
        self.bench.arena.give_up()
        assert not list(self.bench.folder.path.iterdir())
        self.holder.cleanup()


def test_the_book_is_right_in_any_order_of_events() -> None:
    run_state_machine_as_test(
        BookMachine,
        settings=hypothesis_settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_a_sweeper_goes_on_after_an_error_and_stops() -> None:
    calls = 0

    def sweep() -> None:
        nonlocal calls
        calls += 1
        raise OSError("no room")

    sweeper = Sweeper("sweeper that fails", 0.001, sweep)
    deadline = time.monotonic() + 50
    while calls < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    sweeper.stop()
    assert "sweeper that fails" not in {thread.name for thread in threading.enumerate()}
