# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What somebody who starts the daemon sees; the instances are fake."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syshaxd.core.config import ModelParams
from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import State
from syshaxd.startup import progress, watch_start
from tests.fakes.daemon import BROKEN_PORT, FakeDaemon, fake_daemon

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
    text = await watch_start(daemon.engine, "m", ModelParams(), dashboard=True)
    assert text.startswith("\nNo instance is ready: ")
    assert "gpu is broken; see `syshaxctl logs gpu`" in text
    assert "curl" not in text


async def test_of_somebody_elses_instance_it_is_told_why_it_is_not_ready(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__gpu__runtime="external", services__gpu__port=str(BROKEN_PORT))
    change = asyncio.create_task(daemon.reconfigurer.apply(text))
    while not (gpu := daemon.supervisor.status("gpu")).reason or gpu.state is not State.STARTING:
        await asyncio.sleep(0.005)
    assert (await progress(daemon.engine, gpu)).endswith(f"s: {gpu.reason}")
    change.cancel()
