# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the supervisor makes of faults that are its own, or a library's, and of instances that are only busy."""

import asyncio
import errno
import os
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, ProcessGoneError, TopologyError
from syshaxd.core.lifecycle import RestartPolicy
from syshaxd.core.types import Handle, InstanceStatus, RuntimeKind, State
from syshaxd.instances.activity import is_at_work
from syshaxd.instances.settings import SupervisorSettings
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.monitor import probe_health
from syshaxd.system import host
from tests.fakes.ports import free_port
from tests.fakes.runtime import FakeRuntime
from tests.shell.test_supervisor import CPU, GPU, PROBE_INTERVAL_S, bench

STRAY = [
    ValueError("embedded null byte"),
    UnicodeError("odd"),
    OverflowError("int too large"),
    RecursionError("deep"),
    KeyError("nobody knows"),
    AssertionError(),
]
SHORTAGES = [MemoryError(), RuntimeError("can't start new thread")]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
async def test_a_launch_that_our_own_shortage_prevents_is_tried_again(error: Exception) -> None:
    runtime = FakeRuntime()
    runtime.launch_errors["gpu"] = [error]
    async with bench(GPU, CPU, runtime=runtime, ready=False) as b:
        await b.advance(0.5)
        assert (b.state("gpu"), b.state("cpu")) == (State.BACKOFF, State.READY)
        assert type(error).__name__ in b.status("gpu").reason
        await b.advance(30.0)
        assert b.state("gpu") is State.READY


@pytest.mark.parametrize("error", STRAY, ids=lambda error: type(error).__name__)
class TestStrayExceptions:
    """One instance has it, the other runs on, and so does the supervisor."""

    async def test_in_a_launch(self, error: Exception) -> None:
        runtime = FakeRuntime()
        runtime.launch_errors["gpu"] = [error]
        async with bench(GPU, CPU, runtime=runtime, ready=False) as b:
            await b.advance(2.0)
            assert (b.state("gpu"), b.state("cpu")) == (State.FAILED, State.READY)
            assert type(error).__name__ in b.status("gpu").reason
            b.supervisor.start("gpu")
            await b.advance(2.0)
            assert b.state("gpu") is State.READY

    async def test_in_watching(self, error: Exception) -> None:
        runtime = FakeRuntime()
        runtime.wait_errors["gpu"] = [error]
        async with bench(GPU, CPU, runtime=runtime, ready=False) as b:
            await b.advance(60.0)
            assert (b.state("gpu"), b.state("cpu")) == (State.FAILED, State.READY)
            assert type(error).__name__ in b.status("gpu").reason
            assert "may still run" in b.status("gpu").reason
            assert runtime.launched.count(("gpu", 1)) == len([name for name, _ in runtime.launched if name == "gpu"])
            b.host.exit("gpu", b.host.servers["gpu"].status)  # the fake holds no two generations
            b.supervisor.restart("gpu")
            await b.advance(10.0)
            assert b.state("gpu") is State.READY

    async def test_in_ending(self, error: Exception) -> None:
        async with bench(GPU, CPU) as b:
            b.runtime.terminate_errors["gpu"] = [error]
            b.supervisor.stop("gpu", drain=False)
            await b.calm()
            assert b.state("gpu") is State.STOPPING
            assert type(error).__name__ in b.status("gpu").reason
            await b.advance(5.0)
            assert (b.state("gpu"), b.state("cpu")) == (State.STOPPED, State.READY)

    async def test_in_finding_what_runs(self, error: Exception) -> None:
        runtime = FakeRuntime()
        runtime.adopt_errors["gpu"] = [error]
        async with bench(GPU, CPU, runtime=runtime) as b:
            assert (b.state("gpu"), b.state("cpu")) == (State.READY, State.READY)

    async def test_in_a_probe(self, error: Exception) -> None:
        async with bench(GPU, CPU) as b:
            b.sick["gpu"] = error
            await b.advance(60 * PROBE_INTERVAL_S)
            assert b.state("cpu") is State.READY
            assert b.runtime.terminated == []  # it is not the instance's fault
            del b.sick["gpu"]
            await b.advance(2 * PROBE_INTERVAL_S)
            assert b.state("gpu") is State.READY

    async def test_in_a_subscriber(self, error: Exception) -> None:
        async with bench(GPU, CPU, ready=False) as b:

            def fail(_: InstanceStatus) -> None:
                raise error

            b.supervisor.subscribe(fail)
            await b.advance(2.0)
            assert (b.state("gpu"), b.state("cpu")) == (State.READY, State.READY)


class TestOwnShortage:
    """What this process is short of is never counted against an instance."""

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
    async def test_a_probe_without_descriptors_does_not_count(
        self, code: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with bench(GPU) as b:
            error = InstanceFailedError("GET /health: no connection")
            error.__cause__ = OSError(code, os.strerror(code))
            b.sick["gpu"] = error
            asked = len(b.probed)
            await b.advance(60.0)
            assert b.state() is State.READY
            assert len(b.probed) > asked + 10  # it is repeated
            assert sum("does not count" in message for message in caplog.messages) == 1
            b.sick["gpu"] = InstanceFailedError("connection refused")
            await b.advance(2 * PROBE_INTERVAL_S)
            assert b.state() is State.UNHEALTHY

    async def test_a_probe_during_which_the_loop_stood_still_does_not_count(self) -> None:
        async with bench(GPU) as b:
            b.sick["gpu"], b.late = TimeoutError(), True
            await b.advance(60.0)
            assert b.state() is State.READY
            b.late = False
            await b.advance(60.0)
            assert b.runtime.terminated == ["gpu"]


class TestBusy:
    @pytest.mark.parametrize("error", [TimeoutError(), InstanceTimeoutError("no answer within 5 s")])
    async def test_one_that_is_at_work_gets_much_more_time(self, error: Exception) -> None:
        async with bench(GPU) as b:
            b.sick["gpu"], b.at_work = error, True
            await b.advance(PROBE_INTERVAL_S)
            assert b.state() is State.UNHEALTHY  # no new requests
            assert b.status().reason.startswith("busy: ")
            await b.advance(200.0)
            assert b.runtime.terminated == []
            b.sick.clear()
            await b.advance(PROBE_INTERVAL_S)
            assert (b.state(), b.status().generation) == (State.READY, 1)

    async def test_not_for_ever(self) -> None:
        async with bench(GPU) as b:
            b.sick["gpu"], b.at_work = TimeoutError(), True
            await b.advance(299.0)
            assert b.runtime.terminated == []
            reasons: list[str] = []
            b.supervisor.subscribe(lambda status: reasons.append(status.reason))
            await b.advance(10.0)
            assert b.runtime.terminated == ["gpu"]
            assert any("busy and not answering" in reason for reason in reasons)

    async def test_one_that_stops_working_is_dead_soon(self) -> None:
        async with bench(GPU) as b:
            b.sick["gpu"], b.at_work = TimeoutError(), True
            await b.advance(60.0)
            b.at_work = False
            await b.advance(4 * PROBE_INTERVAL_S)
            assert b.runtime.terminated == ["gpu"]

    async def test_one_that_says_it_is_ill_is_not_busy(self) -> None:
        async with bench(GPU) as b:
            b.sick["gpu"], b.at_work = InstanceFailedError("GET /health: status 503"), True
            await b.advance(4 * PROBE_INTERVAL_S)
            assert b.runtime.terminated == ["gpu"]

    async def test_processes_that_compute_are_at_work(self) -> None:
        loop = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        idle = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
        try:
            async with asyncio.timeout(60):
                while not await is_at_work(loop.pid):  # on a machine with much else to do
                    pass
                while await is_at_work(idle.pid):
                    pass
        finally:
            for process in (loop, idle):
                process.kill()
                await process.wait()
        assert not await is_at_work(idle.pid)
        with pytest.raises(ProcessGoneError):
            await asyncio.to_thread(host.cpu_time_s, idle.pid)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_odd_answers_of_the_kernel_about_cpu_time(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    for pid, text in enumerate(texts, 1):
        folder = root / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "status").write_text(f"Name: x\nPPid: {pid - 1}\n")
        (folder / "stat").write_text(text)
    with suppress(ProcessGoneError, TopologyError):
        assert host.cpu_time_s(1, root) >= 0.0


class _SimRuntime(FakeRuntime):
    """Knows the process of a server that is really there."""

    sim_pid = 0

    async def pid(self, handle: Handle) -> int | None:
        return self.sim_pid


async def test_a_server_whose_api_is_blocked_for_a_while_is_not_ended() -> None:
    """As vLLM is by `prompt_logprobs: -1`: its only thread computes, and answers nothing meanwhile."""
    port = free_port()
    sim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "syshax_sim", "--port", str(port)), stdout=asyncio.subprocess.DEVNULL
    )
    runtime = _SimRuntime()
    runtime.sim_pid = sim.pid
    spec = replace(GPU, host="127.0.0.1", port=port)
    seen: list[tuple[State, str]] = []
    try:
        async with aiohttp.ClientSession() as session:
            supervisor = Supervisor(
                (spec,),
                {RuntimeKind.PROCESS: runtime},
                SupervisorSettings(
                    policy=RestartPolicy(probe_failures=3), probe_interval_s=0.1, probe_timeout_s=0.3, stop_grace_s=1.0
                ),
                probe=partial(probe_health, session),
            )
            supervisor.subscribe(lambda status: seen.append((status.state, status.reason)))
            running = asyncio.create_task(supervisor.run())
            await supervisor.wait_until("gpu", lambda status: status.state is State.READY, 40.0)
            async with session.post(f"http://127.0.0.1:{port}/sim/fault", json={"busy_s": 3.0}) as answer:
                assert answer.ok
            await supervisor.wait_until("gpu", lambda status: status.state is State.UNHEALTHY, 40.0)
            await supervisor.wait_until("gpu", lambda status: status.state is State.READY, 60.0)
            assert runtime.terminated == []
            assert any(reason.startswith("busy: ") for _, reason in seen)
            await supervisor.shutdown(leave_running=False, drain=False)
            await running
    finally:
        sim.kill()
        await sim.wait()
