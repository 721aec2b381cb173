# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances that an operator has stopped stay so over a restart of the daemon."""

import asyncio
import stat
from pathlib import Path

import pytest

from syshaxd.core.types import State
from syshaxd.instances.stopped import StoppedInstances
from tests.fakes.daemon import fake_daemon

IN_TIME_S = 50.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/stopped.json"


async def test_the_next_daemon_knows_what_was_stopped_and_not_started_again(path: Path) -> None:
    stopped = StoppedInstances.load(path)
    stopped.add("gpu")
    stopped.add("cpu")
    stopped.discard("gpu")
    stopped.discard("other")
    await stopped.close()
    found = await asyncio.to_thread(StoppedInstances.load, path)
    assert ("gpu" in found, "cpu" in found) == (False, True)
    assert stat.S_IMODE((await asyncio.to_thread(path.stat)).st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{}", "[1]", '"gpu"', "\xff"])
def test_a_file_that_makes_no_sense_is_told_and_all_start(
    path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    assert "gpu" not in StoppedInstances.load(path)
    assert "starting all" in caplog.text


async def test_a_folder_that_cannot_be_written_costs_only_the_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = StoppedInstances(tmp_path / "file/stopped.json")
    await asyncio.to_thread((tmp_path / "file").touch)
    stopped.add("gpu")
    await stopped.close()
    assert "gpu" in stopped
    assert "can't be written" in caplog.text


async def test_a_stop_outlives_the_daemon_until_a_start(tmp_path: Path, path: Path) -> None:
    async with asyncio.timeout(IN_TIME_S):
        async with fake_daemon(tmp_path, stopped=StoppedInstances(path)) as daemon:
            daemon.instances.stop("cpu", drain=False)
            await daemon.offered("gpu")
            await daemon.reconfigurer.apply(await daemon.changed(services__gpu__port="8005"))
            assert daemon.states()["cpu"] is State.STOPPED
        left = await asyncio.to_thread(StoppedInstances.load, path)
        async with fake_daemon(tmp_path, stopped=left, ready=("gpu",)) as daemon:
            assert daemon.states() == {"gpu": State.READY, "cpu": State.STOPPED}
            assert not daemon.supervisor.status("cpu").wanted
            assert "stays stopped" in daemon.supervisor.status("cpu").reason
            daemon.instances.start("cpu")
            await daemon.offered("gpu", "cpu")
        left = await asyncio.to_thread(StoppedInstances.load, path)
        async with fake_daemon(tmp_path, stopped=left) as daemon:
            daemon.instances.stop("cpu", drain=False)
            daemon.instances.restart("cpu", drain=False)
            await daemon.offered("gpu", "cpu")
        assert "cpu" not in await asyncio.to_thread(StoppedInstances.load, path)


async def test_an_instance_that_is_configured_anew_starts(tmp_path: Path, path: Path) -> None:
    async with asyncio.timeout(IN_TIME_S), fake_daemon(tmp_path, stopped=StoppedInstances(path)) as daemon:
        daemon.instances.stop("cpu", drain=False)
        await daemon.offered("gpu")
        await daemon.reconfigurer.apply(await daemon.changed(services__cpu__enabled="false"))
        await daemon.reconfigurer.apply(await daemon.changed(services__cpu__enabled="true"))
        await daemon.offered("gpu", "cpu")
        assert not daemon.instances.is_stopped("cpu")
