# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs in the guest: syshaxd itself plans an instance's cores, starts it there, and sees that it drifts and comes back.

Prints a line for each step, and `DAEMON PASSED` at the end.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from syshaxd.client import ControlClient, UnreachableError
from syshaxd.core.numa import BindingStatus, DriftKind, Verification
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import State
from syshaxd.system import host

SOCKET = Path("/run/admin.sock")
LOG = Path("/tmp/syshaxd.log")
CONFIG = Path("/tmp/config.yaml")
IN_TIME_S = 200.0
CPUS = (0, 2, 4, 6)
SYSHAXCTL = "from syshaxd.cli.syshaxctl import main; main()"

CONFIGURATION = f"""\
services:
  gpu: {{enabled: false}}
  cpu:
    runtime: process
    python: /usr/bin/python3
    cores: auto
    env: {{INFERENCE_OP_MODE: fused, OMP_NUM_THREADS: 4}}
models: {{path: /opt}}
numa: {{verify_interval_s: 1}}
control: {{socket: {SOCKET}}}
"""


def say(step: str, seen: object) -> None:
    print(f"{step} ({time.monotonic():.0f} s): {seen}", flush=True)


async def until(client: ControlClient, fits: Callable[[EngineStatus], bool]) -> EngineStatus:
    async with asyncio.timeout(IN_TIME_S):
        while True:
            try:
                status = await client.status()
            except UnreachableError:
                await asyncio.sleep(0.5)
                continue
            if fits(status):
                return status
            await asyncio.sleep(0.2)


def binding(status: EngineStatus) -> BindingStatus:
    return status.bindings["cpu"]


def read_twice(status: EngineStatus) -> bool:
    return "cpu" in status.bindings and not binding(status).drifted


async def watch() -> None:
    async with ControlClient(SOCKET) as client:
        status = await until(client, lambda status: status.instances[0].state is State.READY)
        instance = status.instances[0]
        assert instance.handle is not None
        say("started", f"bound to CPUs {instance.spec.cores}")
        assert instance.spec.cores == CPUS
        topology = await client.topology()
        assert topology.topology == host.topology()
        assert topology.owners == {"cpu": CPUS}

        good = binding(await until(client, read_twice)).verification
        say("good", f"{good.cpus_bound} of {good.cpus_planned} CPUs bound; {dict(good.memory_bytes)}")
        assert (good.cpus_bound, good.cpus_planned, good.threads_outside) == (4, 4, 0)
        assert all(good.memory_bytes[node] >= 16 * 2**20 for node in range(4))
        assert await client.check_binding("cpu", None) == ()

        # As a write to the CPU set of a container does it to every thread.
        threads = host.placement(int(instance.handle.ident)).threads
        for thread in threads:
            os.sched_setaffinity(thread.tid, range(8))
        status = await until(client, lambda status: binding(status).drifted)
        for drift in binding(status).drifts:
            say("drifted", drift)
        kinds = {DriftKind.THREAD_OUTSIDE, DriftKind.CPU_WITHOUT_THREAD}
        assert {drift.kind for drift in binding(status).drifts} == kinds
        seen = (await client.verify_bindings("cpu"))["cpu"]
        assert isinstance(seen, Verification)
        assert seen.threads_outside == seen.threads == len(threads)

        await asyncio.to_thread(see_it_elsewhere, status.endpoint)

        # What repairs it.
        async for _ in client.restart("cpu", drain=False, wait=True):
            pass
        await until(client, read_twice)
        say("restarted", "keeps to its binding again")


def see_it_elsewhere(endpoint: str) -> None:
    command = [sys.executable, "-c", SYSHAXCTL, "--socket", SOCKET, "numa", "verify", "cpu"]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    say("syshaxctl", told.stdout)
    assert told.returncode == 1
    assert "[thread-outside]" in told.stdout
    with urllib.request.urlopen(f"{endpoint}/metrics") as answer:
        metrics = answer.read().decode()
    assert 'syshax_binding_drift{kind="thread-outside",name="cpu"} 1.0' in metrics


def main() -> None:
    CONFIG.write_text(CONFIGURATION)
    Path("/opt/model.safetensors").write_bytes(bytes(1024))
    with LOG.open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "syshaxd", "--config", CONFIG], stdout=log, stderr=log)
    try:
        asyncio.run(watch())
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
        assert "cpu: drifted from its CPU binding: [thread-outside]" in LOG.read_text()
    except BaseException:
        print(LOG.read_text(), flush=True)
        raise
    print("DAEMON PASSED", flush=True)


if __name__ == "__main__":
    main()
