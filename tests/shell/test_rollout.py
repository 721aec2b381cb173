# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances of a model are restarted or exchanged one at a time: the real Supervisor and Engine over a fake runtime."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syshaxd.core.errors import ConflictError, LaunchFailedError, NotFoundError
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.report.engine_status import RolloutStep
from syshaxd.core.types import State
from tests.fakes.daemon import FakeDaemon, fake_daemon

IN_TIME_S = 50.0
CONFIG = """\
services:
  chat: {role: gpu, model: m, port: 8001, replicas: 2, runtime: process, python: /engine/python}
  help: {role: cpu, model: m, port: 8011, runtime: process, python: /engine/python}
  other: {role: cpu, model: o, port: 8021, runtime: process, python: /engine/python}
models:
  m: {path: /models/m}
  o: {path: /models/o}
lifecycle: {drain_timeout_s: 5.0, start_timeout_s: 5.0, backoff_base_s: 0.01}
parity: {enabled: false}
"""
ALL = ("chat-0", "chat-1", "help", "other")


class Watch:
    """Notes how many instances of the model m take requests, at the least."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.fewest = 3
        self._daemon = daemon
        daemon.registry.subscribe(self._note)

    def _note(self) -> None:
        ready = sum(spec.served_model == "m" for spec in self._daemon.registry.ready)
        self.fewest = min(self.fewest, ready)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with asyncio.timeout(IN_TIME_S), fake_daemon(tmp_path, ready=ALL, text=CONFIG) as daemon:
        while len(daemon.parity.reports()) < 3:
            await asyncio.sleep(0.005)
        yield daemon


async def steps(daemon: FakeDaemon, name: str) -> list[RolloutStep]:
    return [step async for step in daemon.reconfigurer.rollout(name)]


async def test_a_rollout_restarts_one_instance_at_a_time(daemon: FakeDaemon) -> None:
    watch = Watch(daemon)
    assert await steps(daemon, "m") == [
        RolloutStep("chat-0", 1, 3, ("chat-1",)),
        RolloutStep("chat-1", 2, 3, ("chat-0",)),
        RolloutStep("help", 3, 3, ("chat-0", "chat-1")),
    ]
    assert watch.fewest == 2
    assert daemon.runtime.launched[4:] == [("chat-0", 2), ("chat-1", 2), ("help", 2)]


async def test_the_cpu_carries_the_requests_of_the_only_gpu(daemon: FakeDaemon) -> None:
    daemon.instances.stop("chat-1", drain=True)
    await daemon.offered("chat-0", "help", "other")
    assert await steps(daemon, "chat") == [RolloutStep("chat-0", 1, 1, ("help",))]
    assert daemon.states()["chat-1"] is State.STOPPED, "as an operator wants it"
    assert await steps(daemon, "other") == [RolloutStep("other", 1, 1, ())]


async def test_a_rollout_waits_for_running_requests(daemon: FakeDaemon) -> None:
    request = InferenceRequest(request_id="r", model="m", stream=False, pinned="chat-0")
    _, grant = daemon.engine.place(request)
    assert grant is not None
    rolling = asyncio.create_task(steps(daemon, "chat"))
    while daemon.states()["chat-0"] is not State.DRAINING:
        await asyncio.sleep(0.005)
    assert daemon.states()["chat-1"] is State.READY
    grant.release()
    assert len(await rolling) == 2


async def test_a_rollout_stops_at_the_first_failure(daemon: FakeDaemon) -> None:
    daemon.runtime.launch_errors["chat-0"] = [LaunchFailedError("no memory", permanent=True)]
    text = "the rollout of m stopped at chat-0: chat-0 failed: no memory; not touched: chat-1, help"
    with pytest.raises(ConflictError, match=text):
        await steps(daemon, "m")
    assert daemon.states() == {**dict.fromkeys(ALL, State.READY), "chat-0": State.FAILED}


async def test_a_rollout_of_nothing_tells_what_there_is(daemon: FakeDaemon) -> None:
    with pytest.raises(NotFoundError, match="no instance, service or model 'x'; available: m, chat-0, chat-1"):
        await steps(daemon, "x")


async def test_a_reload_exchanges_the_instances_of_a_model_one_at_a_time(daemon: FakeDaemon) -> None:
    watch = Watch(daemon)
    done = await daemon.reconfigurer.apply(await daemon.changed(models__m__path="/models/new"))
    assert done.replaced == ("chat-0", "chat-1", "help")
    assert watch.fewest == 2
    assert daemon.runtime.launched[4:] == [("chat-0", 2), ("chat-1", 2), ("help", 2)]
    assert {spec.model for spec in daemon.registry.ready} == {"/models/new", "/models/o"}


async def test_the_first_failure_of_a_reload_rolls_all_of_it_back(daemon: FakeDaemon) -> None:
    watch = Watch(daemon)
    daemon.runtime.launch_errors["chat-1"] = [LaunchFailedError("no memory", permanent=True)]
    with pytest.raises(ConflictError, match="rolled back: chat-1 failed: no memory"):
        await daemon.reconfigurer.apply(await daemon.changed(models__m__path="/models/new"))
    await daemon.offered(*ALL)
    assert {spec.model for spec in daemon.registry.ready} == {"/models/m", "/models/o"}
    assert ("help", 2) not in daemon.runtime.launched
    assert watch.fewest >= 1
