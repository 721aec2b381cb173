# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Engines that are killed in the middle. These tests come last: each of them costs an engine."""

import threading
from collections.abc import Callable

import pytest

from tests.e2e.handover.client import loading, new_key, prompt, saving
from tests.e2e.handover.conftest import REAPED_WITHIN_S, Engine, Engines
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)

LENGTH = 3000


def _until_killed(engine: Engine, request: Callable[[], object], enough: Callable[[], object]) -> None:
    """Requests one after the other in four threads, kills the engine in between."""

    def run() -> None:
        while engine.process.poll() is None:
            try:
                request()
            except OSError:  # it is dead
                return

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(enough, 30, "the engine is at work")
    finally:
        engine.kill()
        for thread in threads:
            thread.join()


def test_a_producer_is_killed_while_it_saves(engines: Engines) -> None:
    keys: dict[str, int] = {}

    def save() -> None:
        key = new_key()
        keys[key] = len(keys) % 5
        engines.a.complete(prompt(LENGTH, keys[key]), 1, **saving(key))

    _until_killed(engines.a, save, lambda: len(engines.handovers()) >= 3)
    # The last ones: published or not, the answer is right.
    for key, seed in list(keys.items())[-6:]:
        token_ids = prompt(LENGTH, seed)
        assert engines.b.complete(token_ids, 5, **loading(key)).token_ids == engines.c.complete(token_ids, 5).token_ids
    until(lambda: not engines.handovers(), REAPED_WITHIN_S, "the dead engine's hand-overs are gone")
    until(lambda: not list(engines.folder.glob("a.*")), REAPED_WITHIN_S, "and so is its arena")
    assert engines.b.is_alive()
    assert engines.c.is_alive()


def test_a_consumer_is_killed_while_it_loads(engines: Engines) -> None:
    loads = 0

    def save_and_load() -> None:
        nonlocal loads
        key, token_ids = new_key(), prompt(LENGTH, loads)
        loads += 1
        engines.c.complete(token_ids, 1, **saving(key))
        engines.b.complete(token_ids, 2, **loading(key))

    _until_killed(engines.b, save_and_load, lambda: loads >= 12)
    token_ids = prompt(LENGTH, 0)
    first = engines.c.complete(token_ids, 5).token_ids
    until(lambda: not engines.handovers(), REAPED_WITHIN_S, "what was not loaded is dropped")
    until(lambda: engines.c.gauge("arena_used_bytes") == 0, REAPED_WITHIN_S, "its room is free again")
    until(lambda: [path.name for path in engines.arenas()] == ["c.0.arena", "c.1.arena"], REAPED_WITHIN_S, "arenas")
    # What is left works, with itself too.
    key = new_key()
    assert engines.c.complete(token_ids, 1, **saving(key)).transfer["state"] == "saving"
    assert engines.c.complete(token_ids, 5, **loading(key)).token_ids == first


@pytest.fixture(autouse=True)
def _survivors(engines: Engines) -> None:
    """The tests of this file need what the ones before left."""
    assert engines.c.is_alive()
