# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What operators do while streams run, and what befalls the host."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ports import free_port
from tests.fakes.waiting import until_async
from tests.faults.bed import NAMES, Bed, program
from tests.faults.client import ask, under_load
from tests.faults.conftest import MakeBed
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(600)

STREAMS = sized(30, 200)


async def test_restarts(bed: Bed, row: Row) -> None:
    rounds = sized(1, 3)
    row.done = f"`syshaxctl restart` of each instance, {rounds} times, beside {STREAMS} streams"
    bed.told_to_end |= set(NAMES)
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts
        for name in NAMES * rounds:
            done = await asyncio.to_thread(bed.ctl, "restart", name, "--wait")
            assert done.returncode == 0, done.stderr
        await bed.ready()
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def test_rollouts(make_bed: MakeBed, row: Row) -> None:
    row.done = f"`syshaxctl rollout`, and a reload that changes both instances of the model, beside {STREAMS} streams"
    bed = make_bed()
    bed.told_to_end |= set(NAMES)
    config = bed.configuration()
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts
        done = await asyncio.to_thread(bed.ctl, "rollout", config["models"]["default"])
        assert done.returncode == 0, done.stderr
        assert "2 of 2  cpu  gpu answers meanwhile" in done.stdout
        await bed.ready()
        for name in NAMES:
            config["services"][name]["max_num_seqs"] += 1
        bed.config_path.write_text(json.dumps(config))
        done = await asyncio.to_thread(bed.ctl, "reload")
        assert done.returncode == 0, done.stderr
        await bed.ready()
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


async def test_reloads(make_bed: MakeBed, row: Row) -> None:
    row.done = (
        f"`syshaxctl reload`: cpu gets another port, gpu other slots, cpu goes and comes back; beside {STREAMS} streams"
    )
    bed = make_bed()
    bed.told_to_end |= set(NAMES)
    config = bed.configuration()
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts

        async def apply() -> None:
            bed.config_path.write_text(json.dumps(config))
            done = await asyncio.to_thread(bed.ctl, "reload")
            assert done.returncode == 0, done.stderr

        bed.ports["cpu"] = config["services"]["cpu"]["port"] = free_port()
        await apply()
        await bed.ready()
        config["services"]["gpu"]["max_num_seqs"] += 1
        await apply()
        await bed.ready()
        config["services"]["cpu"]["enabled"] = False
        await apply()
        config["services"]["cpu"]["enabled"] = True
        await apply()
        await bed.ready()
        got = await ask(bed.port, 0, headers="X-Syshax-Place: cpu\r\n")
        assert got.verdict == "ok", got
        before = await asyncio.to_thread(_moved, bed)
        await asyncio.to_thread(bed.ctl, "restart", "gpu", "--wait")  # once its streams have left it, or ended
        await until_async(
            lambda: asyncio.to_thread(lambda: _moved(bed) > before), 60, "streams move to the cpu at its new port"
        )
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


def _moved(bed: Bed) -> float:
    """Streams that have ended after a move from gpu to cpu."""
    return bed.metric("syshax_handovers_total{", 'target="cpu"')


async def test_configuration_is_written_by_several(row: Row, tmp_path: Path) -> None:
    rounds = sized(1, 5)
    keys: dict[str, Any] = {
        "services.gpu.port": 9001,
        "services.cpu.port": 9002,
        "services.conductor.port": 9010,
        "models.default": "m",
        "system.max_queue_size": 77,
        "parity.timeout_s": 12.0,
    }
    row.done = f"{len(keys)} `syshax config KEY VALUE` at once, {rounds} times"
    for number in range(rounds):
        path = tmp_path / f"{number}.yaml"
        path.write_text("# kept\n")
        argv = [program("syshax"), "config", "--config", str(path)]
        writers = [await asyncio.create_subprocess_exec(*argv, key, str(value)) for key, value in keys.items()]
        for writer in writers:
            row.counts.verdicts["ok" if await writer.wait() == 0 else "lost"] += 1
        said = (await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True)).stdout
        missing = [key for key in keys if key not in said]
        row.counts.verdicts["corrupt"] += len(missing)
        row.counts.verdicts["ok"] -= len(missing)
        assert not missing, f"lost: {missing}: {path.read_text()}"
    assert not row.counts.verdicts["lost"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that the test can fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk]).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


async def test_a_full_disk(small_disk: Path, make_bed: MakeBed, row: Row) -> None:
    row.done = (
        f"the state folder's disk is full: {STREAMS} streams run, and a restart ends nothing that it can't start again"
    )
    bed = make_bed(state=small_disk)
    filler = small_disk / "filler"
    async with under_load(bed.port, at_once=STREAMS, tokens=60) as load:
        row.counts = load.counts
        _fill(filler)
        before = bed.pids()
        done = await asyncio.to_thread(bed.ctl, "restart", "gpu", "--wait")
        if done.returncode == 0:
            bed.told_to_end.add("gpu")
        else:
            assert bed.pids() == before, f"a healthy instance was ended: {done.stderr}"
        assert (await ask(bed.port, 5)).verdict == "ok"
        filler.unlink()
        await bed.ready()
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()
    assert (await asyncio.to_thread(bed.ctl, "restart", "gpu", "--wait")).returncode == 0
    bed.told_to_end.add("gpu")
    await bed.ready()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


async def test_the_admin_socket_is_removed(bed: Bed, row: Row) -> None:
    row.done = "somebody removes the control plane's socket: it comes back"
    (bed.folder / "admin.sock").unlink()
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(bed.ctl, "status")).returncode:
            await asyncio.sleep(0.2)
    row.counts.add(await ask(bed.port, 1))
    assert row.counts.verdicts == {"ok": 1}, row.counts.told()
