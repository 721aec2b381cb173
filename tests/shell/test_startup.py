# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What somebody who starts the daemon sees; the instances are fake."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syshaxd.core.config import ModelParams
from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import Role, State
from syshaxd.startup import progress, watch_start
from tests.fakes.daemon import BROKEN_PORT, FakeDaemon, fake_daemon
from tests.fakes.instance import FakeInstance, Request, json_answer

IN_TIME_S = 50.0


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with asyncio.timeout(IN_TIME_S), fake_daemon(tmp_path) as daemon:
        yield daemon


async def test_where_no_instance_gets_ready_nothing_is_promised(daemon: FakeDaemon) -> None:
    for name in ("gpu", "cpu"):
        daemon.runtime.launch_errors[name] = [LaunchFailedError(f"{name} is broken", permanent=True)]
        daemon.supervisor.restart(name, drain=False)
    while set(daemon.states().values()) != {State.FAILED}:
        await asyncio.sleep(0.005)
    text = await watch_start(daemon.registry, daemon.instances, ModelParams(), dashboard=True)
    assert text.startswith("\nNo instance is ready: ")
    assert "gpu is broken; see `syshaxctl logs gpu`" in text
    assert "curl" not in text


async def test_of_somebody_elses_instance_it_is_told_why_it_is_not_ready(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__gpu__runtime="external", services__gpu__port=str(BROKEN_PORT))
    change = asyncio.create_task(daemon.reconfigurer.apply(text))
    while not (gpu := daemon.supervisor.status("gpu")).reason or gpu.state is not State.STARTING:
        await asyncio.sleep(0.005)
    assert (await progress(daemon.supervisor, gpu)).endswith(f"s: {gpu.reason}")
    change.cancel()


async def test_it_waits_until_requests_can_go_to_every_instance(daemon: FakeDaemon) -> None:
    daemon.supervisor.restart("gpu", drain=False)
    while "gpu" in {spec.name for spec in daemon.registry.ready}:
        await asyncio.sleep(0)
    async with FakeInstance("endpoint", Role.GPU, _refuse) as endpoint:
        daemon.instances.endpoint = f"http://127.0.0.1:{endpoint.port}"
        await watch_start(daemon.registry, daemon.instances, ModelParams(), dashboard=True)
    assert {spec.name for spec in daemon.registry.ready} == {"gpu", "cpu"}


async def _refuse(request: Request) -> None:
    await request.send(json_answer(b'{"error": {"message": "no such model here"}}', "503 Service Unavailable"))


async def test_a_failed_connectivity_test_says_what_was_answered_and_where_to_look(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    await daemon.reconfigurer.apply(await daemon.changed(services__cpu__runtime="external"))
    await daemon.offered("gpu", "cpu")
    async with FakeInstance("endpoint", Role.GPU, _refuse) as endpoint:
        daemon.instances.endpoint = f"http://127.0.0.1:{endpoint.port}"
        await watch_start(daemon.registry, daemon.instances, ModelParams(), dashboard=True)
    told = [record.getMessage() for record in caplog.records if record.name == "syshaxd.startup"]
    failed = "failed: 503: no such model here"
    assert told == [
        f"connectivity test: gpu {failed}; `syshaxctl logs gpu` may say why",
        f"connectivity test: cpu {failed}; does http://127.0.0.1:8002/v1/models name m, as the configuration does?",
    ]
