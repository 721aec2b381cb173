# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""On-demand models: the real Supervisor and Engine over a fake runtime."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syshaxd.core.errors import ConflictError, LaunchFailedError, UnavailableError
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.slots import Grant
from syshaxd.core.types import Handle, State
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.system import configfile
from tests.fakes.daemon import FakeDaemon, fake_daemon
from tests.fakes.runtime import FakeHost, FakeServer

IN_TIME_S = 50.0
CONFIG = """\
services:
  a: {role: gpu, model: m-a, port: 8001, runtime: process, python: /engine/python, gpus: [0]}
  b: {role: gpu, model: m-b, port: 8002, runtime: process, python: /engine/python, gpus: [0]}
  c: {role: cpu, model: m-c, port: 8020, runtime: process, python: /engine/python}
models:
  m-a: {path: /models/a, start: on-demand, min_up_s: 0.05, idle_ttl_s: IDLE, start_wait_s: 20}
  m-b: {path: /models/b, start: on-demand, min_up_s: 0.05, idle_ttl_s: IDLE, start_wait_s: 20}
  m-c: {path: /models/c}
lifecycle: {drain_timeout_s: 5.0, start_timeout_s: 5.0, backoff_base_s: 0.01}
"""


@asynccontextmanager
async def running(
    folder: Path, *, idle_s: str = "1000", stopped: StoppedInstances | None = None
) -> AsyncIterator[FakeDaemon]:
    text = CONFIG.replace("IDLE", idle_s)
    async with asyncio.timeout(IN_TIME_S), fake_daemon(folder, ready=("c",), text=text, stopped=stopped) as daemon:
        yield daemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with running(tmp_path) as daemon:
        yield daemon


def ask(daemon: FakeDaemon, model: str, **more: str) -> "asyncio.Task[Grant]":
    request = InferenceRequest(request_id="r", model=model, stream=False, **more)  # type: ignore[arg-type]
    return asyncio.create_task(daemon.engine._grants.get(Claim(request)))


async def state(daemon: FakeDaemon, name: str, state: State) -> None:
    await daemon.supervisor.wait_until(name, lambda status: status.state is state, IN_TIME_S)


async def test_a_request_starts_its_model_and_waits(daemon: FakeDaemon) -> None:
    assert daemon.states() == {"a": State.STOPPED, "b": State.STOPPED, "c": State.READY}
    assert daemon.supervisor.status("a").reason == "the first request for its model starts it"
    daemon.runtime.gate.clear()
    asking = [ask(daemon, "m-a"), ask(daemon, "m-a"), ask(daemon, "m-a", pinned="a")]
    await state(daemon, "a", State.STARTING)
    status = daemon.instances.status()
    assert status.on_demand["m-a"].text == "starting for 3 requests"
    assert status.queued_models == {"m-a": 3}
    daemon.runtime.gate.set()
    for grant in await asyncio.gather(*asking):
        assert grant.placement.places == ("a",)
        grant.release()
    assert daemon.runtime.launched == [("c", 1), ("a", 1)]
    told = [event.text for event in daemon.engine.events.latest() if event.kind == "model"]
    assert told == ["m-a: starting for 3 requests"] or told == ["m-a: starting for 1 request"]


async def test_what_an_earlier_daemon_left_running_is_adopted(tmp_path: Path) -> None:
    text, host = CONFIG.replace("IDLE", "1000"), FakeHost()
    spec = instance_specs(await asyncio.to_thread(configfile.parse_file, text))[0]
    host.servers["a"] = FakeServer(spec, Handle("a", 7, "left", 1000.0))
    async with (
        asyncio.timeout(IN_TIME_S),
        fake_daemon(tmp_path, ready=("a", "c"), text=text, host=host) as daemon,
    ):
        (await ask(daemon, "m-a")).release()
        assert daemon.runtime.launched == [("c", 1)]
        (await ask(daemon, "m-b")).release()
        assert daemon.states()["a"] is State.STOPPED, "it makes room as any other"


async def test_models_that_are_down_are_listed(daemon: FakeDaemon) -> None:
    assert [model["id"] for model in daemon.registry.models()] == ["m-a", "m-b", "m-c"]


async def test_two_models_take_turns_and_nothing_is_lost(daemon: FakeDaemon) -> None:
    async def client(model: str) -> None:
        for _ in range(40):
            grant = await ask(daemon, model)
            await asyncio.sleep(0.005)
            grant.release()

    await asyncio.gather(*(client(model) for model in ("m-a", "m-b") for _ in range(3)))
    names = [name for name, _ in daemon.runtime.launched if name != "c"]
    assert all(first != second for first, second in itertools.pairwise(names)), "started twice"
    stops = daemon.instances.status().on_demand["m-a"].stops
    assert stops["room"] >= 1


async def test_an_idle_model_is_stopped_and_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, idle_s="0.05") as daemon:
        (await ask(daemon, "m-a")).release()
        await state(daemon, "a", State.STOPPED)
        assert daemon.supervisor.status("a").reason == (
            "stopped after 0.05 s without a request; a request starts it again"
        )
        (await ask(daemon, "m-a")).release()
        assert daemon.runtime.launched == [("c", 1), ("a", 1), ("a", 2)]
        assert daemon.instances.status().on_demand["m-a"].starts == 2


async def test_a_start_that_fails_is_told_to_those_who_wait(daemon: FakeDaemon) -> None:
    daemon.runtime.launch_errors["a"] = [LaunchFailedError("no such file: /engine/python", permanent=True)]
    asking = [ask(daemon, "m-a"), ask(daemon, "m-a")]
    for request in asking:
        with pytest.raises(UnavailableError, match="the model m-a could not be started: a: no such file") as caught:
            await request
        assert caught.value.retry_after_s == 1.0
    assert daemon.states()["a"] is State.FAILED
    assert daemon.instances.status().on_demand["m-a"].failures == 1
    (await ask(daemon, "m-b")).release()  # its room is free


async def test_a_client_that_leaves_is_not_waited_for(daemon: FakeDaemon) -> None:
    daemon.runtime.gate.clear()
    asking = ask(daemon, "m-a")
    await state(daemon, "a", State.STARTING)
    asking.cancel()
    await asyncio.wait((asking,))
    other = ask(daemon, "m-b")
    daemon.runtime.gate.set()
    (await other).release()
    assert daemon.states()["a"] is State.STOPPED


async def test_a_request_waits_for_its_time_only(daemon: FakeDaemon) -> None:
    await daemon.reconfigurer.apply(await daemon.changed(**{"models__m-a__start_wait_s": "0.05"}))
    daemon.runtime.gate.clear()
    with pytest.raises(UnavailableError, match=r"m-a is on-demand: starting for 1 request; see `syshaxctl status`"):
        await ask(daemon, "m-a")
    daemon.runtime.gate.set()


async def test_an_operators_stop_wins_until_it_is_started(daemon: FakeDaemon) -> None:
    daemon.instances.stop("a", drain=True)
    with pytest.raises(UnavailableError):
        await ask(daemon, "m-a")
    daemon.instances.start("a")
    (await ask(daemon, "m-a")).release()


async def test_an_operators_stop_of_what_starts_refuses_those_who_wait(daemon: FakeDaemon) -> None:
    daemon.runtime.gate.clear()
    asking = ask(daemon, "m-a")
    await state(daemon, "a", State.STARTING)
    daemon.instances.stop("a", drain=True)
    with pytest.raises(UnavailableError):
        await asking
    daemon.runtime.gate.set()
    await state(daemon, "a", State.STOPPED)


async def test_a_reload_while_it_starts_starts_it_anew(daemon: FakeDaemon) -> None:
    daemon.runtime.gate.clear()
    asking = ask(daemon, "m-a")
    await state(daemon, "a", State.STARTING)
    applying = asyncio.create_task(daemon.reconfigurer.apply(await daemon.changed(services__a__port="8011")))
    await state(daemon, "a", State.STOPPING)
    daemon.runtime.gate.set()
    await applying
    (await asking).release()
    assert daemon.ports()["a"] == 8011


async def test_a_reload_leaves_what_is_down_as_it_is(daemon: FakeDaemon) -> None:
    await daemon.reconfigurer.apply(await daemon.changed(services__a__port="8011"))
    assert daemon.states()["a"] is State.STOPPED
    await daemon.reconfigurer.apply(await daemon.changed(services__b__replicas="2", services__b__gpus="[0, 1]"))
    assert daemon.states() == {
        "a": State.STOPPED,
        "b-0": State.STOPPED,
        "b-1": State.STOPPED,
        "c": State.READY,
    }
    grant = await ask(daemon, "m-b")
    await daemon.offered("b-0", "b-1", "c")
    grant.release()


async def test_a_model_that_is_no_longer_on_demand_is_started(daemon: FakeDaemon) -> None:
    await daemon.reconfigurer.apply(
        await daemon.changed(**{"models__m-a__start": "always", "services__b__gpus": "[1]"})
    )
    assert daemon.states() == {"a": State.READY, "b": State.STOPPED, "c": State.READY}
    await daemon.reconfigurer.apply(await daemon.changed(**{"models__m-a__start": "on-demand"}))
    assert daemon.states()["a"] is State.READY, "until it is idle for its time"


async def test_a_change_that_fails_leaves_what_is_down_as_it_is(daemon: FakeDaemon) -> None:
    daemon.runtime.launch_errors["c"] = [LaunchFailedError("no", permanent=True)]
    change = await daemon.changed(services__c__port="8021", services__a__port="8011")
    with pytest.raises(ConflictError, match="rolled back"):
        await daemon.reconfigurer.apply(change)
    assert daemon.states()["a"] is State.STOPPED
    (await ask(daemon, "m-a")).release()
    await daemon.offered("a", "c")
    assert daemon.ports() == {"a": 8001, "c": 8020}
