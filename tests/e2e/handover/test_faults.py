# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whatever happens to a hand-over, the answer is right, the engines live, and nothing stays behind."""

import os
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syshax_connector.header import Header, decode, encode
from tests.e2e.handover.client import loading, new_key, prompt, saving
from tests.e2e.handover.conftest import REAPED_WITHIN_S, Engine, Engines
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)

LENGTH = 500


@pytest.fixture(autouse=True)
def _engines_live(engines: Engines) -> Iterator[None]:
    yield
    assert all(engine.is_alive() for engine in (engines.a, engines.b, engines.c))
    until(lambda: all(path.stat().st_size > 1 << 20 for path in engines.arenas()), 20, "no arena is cut off")
    until(lambda: len(engines.arenas()) == 4, 20, "each rank has its arena")
    until(lambda: _saves(engines), 20, "a saves again")


def _saves(engines: Engines) -> bool:
    """Whether `a` really does: it may have a new arena to make first."""
    engines.a.complete([5], 1, **saving(key := new_key()))
    engines.a.complete([5], 1)  # a step later
    return (engines.folder / f"{key}.kv").exists()


def _until_nothing_is_left(engines: Engines) -> None:
    until(lambda: not engines.handovers(), REAPED_WITHIN_S, "no hand-over is left")
    until(lambda: engines.a.gauge("arena_used_bytes") == 0, REAPED_WITHIN_S, "all of a's room is free again")
    until(lambda: len(engines.arenas()) == 4, REAPED_WITHIN_S, "each rank has its arena")


def _saved(engine: Engine, key: str, seed: int) -> list[int]:
    token_ids = prompt(LENGTH, seed)
    assert engine.complete(token_ids, 1, **saving(key)).transfer["state"] == "saving"
    return token_ids


def _published(engines: Engines, key: str) -> Path:
    path = engines.folder / f"{key}.kv"
    until(path.exists, 5, f"{key} is published")
    return path


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def _rewrite(change: Callable[[Header], Header]) -> Callable[[Engines, Path], None]:
    return lambda engines, path: _replace(path, encode(change(decode(path.read_bytes()))))


def _recomputed(engine: Engine, reasons: str) -> float:
    results = engine.results()
    return sum(results.get(f"load recomputed {reason}", 0) for reason in reasons.split("|"))


def _change_the_cache(change: Callable[[bytearray], None]) -> Callable[[Engines, Path], None]:
    """Changes one rank's bytes in the arena, whose header stays as it is."""

    def do(engines: Engines, path: Path) -> None:
        header = decode(path.read_bytes())
        with (engines.folder / header.parts[0].arena).open("r+b") as arena:
            arena.seek(header.offset)
            content = bytearray(arena.read(header.size))
            change(content)
            arena.seek(header.offset)
            arena.write(content)

    return do


def _flip(content: bytearray, place: int, bit: int) -> None:
    content[place] ^= 1 << bit


def _move(content: bytearray) -> None:
    content[:8192] = content[4096:8192] + content[:4096]


def _swap_the_arena(engines: Engines, path: Path) -> None:
    """Another file under its name, larger: only the engine that has mapped the old one can tell."""
    arena = engines.folder / decode(path.read_bytes()).parts[0].arena
    other = arena.with_suffix(".other")
    with other.open("wb") as file:
        file.truncate(arena.stat().st_size)
    other.rename(arena)


_FAULTS: dict[str, tuple[str, Callable[[Engines, Path], None]]] = {
    "removed": ("missing", lambda engines, path: path.unlink()),
    "cut off": ("damaged", lambda engines, path: _replace(path, path.read_bytes()[:-100])),
    "empty": ("damaged", lambda engines, path: _replace(path, b"")),
    "foreign": ("damaged", lambda engines, path: _replace(path, os.urandom(5000))),
    "another key": ("damaged", _rewrite(lambda header: replace(header, key="other"))),
    "another model": ("model", _rewrite(lambda header: replace(header, model=replace(header.model, identity="other")))),
    "another rope": ("model", _rewrite(lambda header: replace(header, model=replace(header.model, rope="other")))),
    "another text": ("tokens", _rewrite(lambda header: replace(header, token_ids=header.token_ids[::-1]))),
    "wrong size": ("damaged", _rewrite(lambda header: replace(header, size=header.size - 512))),
    "behind the arena's end": ("arena", _rewrite(lambda header: replace(header, offset=1 << 40))),
    "no such arena": ("arena", _rewrite(lambda header: replace(header, parts=(replace(header.parts[0], arena="x"),)))),
    "another arena": (
        "load",
        _rewrite(lambda header: replace(header, parts=(replace(header.parts[0], arena_id="x"),))),
    ),
    "a changed bit": ("load", _change_the_cache(lambda content: _flip(content, len(content) // 2, 0))),
    "a changed sign": ("load", _change_the_cache(lambda content: _flip(content, 4096 + 7, 7))),
    "pages that changed places": ("load", _change_the_cache(_move)),
    "overwritten with zeros": ("load", _change_the_cache(lambda content: content.__setitem__(slice(64), bytes(64)))),
    "another arena's file": ("load", _swap_the_arena),
    # Its owner's sweep may be quicker than the test, and the new arena under the same name too.
    "no arena": (
        "arena|missing|load",
        lambda engines, path: (engines.folder / decode(path.read_bytes()).parts[0].arena).unlink(),
    ),
    "an arena cut off": (
        "arena|missing|load",
        lambda engines, path: os.truncate(engines.folder / decode(path.read_bytes()).parts[0].arena, 4096),
    ),
}


@pytest.mark.parametrize("consumer", ["b", "c"])
@pytest.mark.parametrize("fault", _FAULTS)
def test_a_broken_hand_over_is_computed(engines: Engines, fault: str, consumer: str) -> None:
    reason, do = _FAULTS[fault]
    key, engine = new_key(), getattr(engines, consumer)
    token_ids = _saved(engines.a, key, hash(fault + consumer))
    do(engines, _published(engines, key))
    before = _recomputed(engine, reason)
    computed = engine.prompt_tokens("local_compute")
    answer = engine.complete(token_ids, 10, **loading(key))
    assert answer.token_ids == engines.a.complete(token_ids, 10).token_ids
    assert answer.cached_tokens == 0, "what was computed is told as computed"
    assert engine.prompt_tokens("local_compute") - computed == LENGTH
    assert _recomputed(engine, reason) == before + 1


@pytest.mark.parametrize("key", ["../../../tmp/x", "/etc/passwd", "a b", "", "k" * 200])
def test_a_key_that_names_a_path_is_not_obeyed(engines: Engines, key: str) -> None:
    before = engines.a.results().get("save refused params", 0)
    answer = engines.a.complete(prompt(40, 1), 5, **saving(key), **loading(key))
    assert answer.token_ids == engines.b.complete(prompt(40, 1), 5).token_ids
    assert answer.transfer == {}
    assert engines.a.results()["save refused params"] == before + 1


def test_entries_of_the_wrong_kind_are_not_obeyed(engines: Engines) -> None:
    whole = engines.b.complete(prompt(41, 1), 5).token_ids
    for entry in ({"save": 5}, {"load": {"key": 7}}, {"save": {"key": "k", "on": 3}}):
        assert engines.a.complete(prompt(41, 1), 5, **entry).token_ids == whole


def test_a_hand_over_that_nobody_made_is_waited_for_only_briefly(engines: Engines) -> None:
    token_ids = prompt(90, 2)
    assert (
        engines.b.complete(token_ids, 5, **loading(new_key())).token_ids == engines.a.complete(token_ids, 5).token_ids
    )


def test_a_full_arena_refuses_and_recovers(engines: Engines) -> None:
    """48 MiB hold eight hand-overs of 3,000 tokens, and none is dropped in its first 3 seconds."""
    _until_nothing_is_left(engines)
    token_ids = prompt(3000, 4)
    engines.a.complete(token_ids, 1)  # from now on in its cache
    states = []
    for _ in range(10):
        saved = engines.a.complete(token_ids, 1, **saving(key := new_key())).transfer
        states.append(saved["state"])
        if saved["state"] == "refused":
            assert "bytes are needed" in saved["reason"]
            answer = engines.b.complete(token_ids, 5, **loading(key))
            assert answer.token_ids == engines.a.complete(token_ids, 5).token_ids
    assert states == ["saving"] * 8 + ["refused"] * 2
    assert engines.a.gauge("arena_used_bytes") <= engines.a.gauge("arena_bytes")
    _until_nothing_is_left(engines)
    _saved(engines.a, new_key(), 4)


def test_a_client_that_leaves_while_its_hand_over_is_waited_for(engines: Engines) -> None:
    """Its request ends, and the hand-over that comes too late is dropped by its age."""
    key = new_key()
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        engines.b.complete(prompt(80, 3), 4000, timeout_s=0.2, **loading(key))
    _saved(engines.a, key, 3)
    _published(engines, key)


def test_after_all_that_nothing_is_left(engines: Engines) -> None:
    _until_nothing_is_left(engines)
