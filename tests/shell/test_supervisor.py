# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from syshaxd.core.errors import InstanceFailedError, LaunchFailedError, NotFoundError, SyshaxError
from syshaxd.core.lifecycle import RestartPolicy
from syshaxd.core.types import ExitStatus, InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.instances.settings import SupervisorSettings
from syshaxd.instances.supervisor import Supervisor
from syshaxd.runtime.external import ExternalRuntime
from tests.fakes.clock import FakeClock
from tests.fakes.runtime import FakeRuntime
from tests.fakes.specs import make_spec

POLICY = RestartPolicy(
    start_timeout_s=900,
    probe_failures=3,
    backoff_base_s=1,
    backoff_cap_s=60,
    max_attempts=3,
    stable_s=50,
    drain_timeout_s=30,
)
PROBE_INTERVAL_S = 2.0
GPU, CPU = make_spec("gpu"), make_spec("cpu")
CPU_ON_GPU = make_spec("cpu", depends_on="gpu")
EXTERNAL = make_spec("gpu", runtime=RuntimeKind.EXTERNAL)


class Bench:
    """A supervisor over a fake runtime, a fake clock, and a health that the test sets."""

    def __init__(self, specs: Sequence[InstanceSpec], runtime: FakeRuntime | None, policy: RestartPolicy) -> None:
        self.runtime = runtime or FakeRuntime()
        self.host = self.runtime.host
        self.clock = FakeClock()
        self.sick: dict[str, Exception] = {}
        self.probed: list[str] = []
        self.at_work = False
        """Its processes use CPU time."""
        self.late = False
        """The event loop stands still again and again."""
        self.supervisor = Supervisor(
            specs,
            {RuntimeKind.PROCESS: self.runtime, RuntimeKind.EXTERNAL: ExternalRuntime()},
            SupervisorSettings(
                policy=policy, probe_interval_s=PROBE_INTERVAL_S, probe_timeout_s=5.0, stop_grace_s=15.0
            ),
            probe=self.probe,
            clock=self.clock,
            computes=self.computes,
            was_late_since=lambda _: self.late,
        )
        self.states: list[tuple[str, State]] = []
        self.supervisor.subscribe(self.note)

    def note(self, status: InstanceStatus) -> None:
        entry = (status.spec.name, status.state)
        if [seen for seen in self.states if seen[0] == entry[0]][-1:] != [entry]:
            self.states.append(entry)

    async def probe(self, spec: InstanceSpec) -> None:
        self.probed.append(spec.name)
        if spec.name in self.sick:
            raise self.sick[spec.name]

    async def computes(self, pid: int) -> bool:
        return self.at_work

    async def calm(self) -> None:
        """Returns when everything that follows from what has happened is done."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Lets time pass, call by call."""
        until_s = self.clock.time() + seconds
        await self.calm()
        while (wait_s := self.clock.next_call_in_s()) is not None and self.clock.time() + wait_s <= until_s:
            self.clock.advance(wait_s)
            await self.calm()
        self.clock.advance(until_s - self.clock.time())

    def state(self, name: str = "gpu") -> State:
        return self.supervisor.status(name).state

    def status(self, name: str = "gpu") -> InstanceStatus:
        return self.supervisor.status(name)


@asynccontextmanager
async def bench(
    *specs: InstanceSpec, runtime: FakeRuntime | None = None, policy: RestartPolicy = POLICY, ready: bool = True
) -> AsyncIterator[Bench]:
    """A running bench; `ready`: with all its instances READY, if nothing hinders them."""
    bench = Bench(specs or (GPU,), runtime, policy)
    task = asyncio.create_task(bench.supervisor.run())
    await bench.calm()
    if ready:
        await bench.advance(2.0)
        assert {status.state for status in bench.supervisor.statuses()} == {State.READY}
    try:
        yield bench
    finally:
        bench.runtime.gate.set()
        await bench.supervisor.shutdown(leave_running=False, drain=False)
        await task


class TestStart:
    async def test_everything_starts_and_becomes_ready(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with bench(GPU, CPU, ready=False) as b:
            assert (b.state("gpu"), b.state("cpu")) == (State.STARTING, State.STARTING)
            await b.advance(0.5)
            assert (b.state("gpu"), b.state("cpu")) == (State.READY, State.READY)
            assert b.status().handle is not None
            assert (b.status().generation, b.status().wanted, b.status().reason) == (1, True, "")
        assert "gpu: STARTING -> READY (0.5 s)" in caplog.messages

    async def test_a_slow_start_tells_why_it_is_not_ready(self) -> None:
        async with bench(ready=False) as b:
            b.sick["gpu"] = InstanceFailedError("connection refused")
            await b.advance(10.0)
            assert (b.state(), b.status().reason) == (State.STARTING, "does not answer yet: connection refused")
            assert len(b.probed) == 20
            del b.sick["gpu"]
            await b.advance(0.5)
            assert b.state() is State.READY

    async def test_it_is_not_probed_before_it_is_launched(self) -> None:
        runtime = FakeRuntime()
        runtime.gate.clear()
        async with bench(runtime=runtime, ready=False) as b:
            await b.advance(10.0)
            assert b.probed == []

    async def test_a_start_that_takes_too_long(self) -> None:
        async with bench(ready=False) as b:
            b.sick["gpu"] = InstanceFailedError("connection refused")
            await b.advance(900.0)
            assert b.state() is State.BACKOFF
            assert b.status().reason.startswith("not ready within 900 s")

    async def test_a_launch_that_fails_is_tried_again_until_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        runtime = FakeRuntime()
        runtime.launch_errors["gpu"] = [LaunchFailedError("port taken", permanent=False), OSError("no memory")]
        runtime.launch_errors["gpu"] += [LaunchFailedError("port taken", permanent=False)]
        async with bench(runtime=runtime, ready=False) as b:
            assert (b.state(), b.status().reason) == (State.BACKOFF, "port taken; next attempt (2 of 3) in 1 s")
            await b.advance(1.0)
            assert (b.state(), b.status().reason) == (State.BACKOFF, "no memory; next attempt (3 of 3) in 2 s")
            await b.advance(2.0)
            assert (b.state(), b.status().reason) == (State.FAILED, "given up after 3 failed attempts: port taken")
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]
            b.supervisor.start("gpu")
            await b.advance(1.0)
            assert (b.state(), b.status().attempts) == (State.READY, 0)

    async def test_a_launch_that_can_never_work_is_not_tried_again(self) -> None:
        async with bench(make_spec(argv=("broken",)), ready=False) as b:
            assert (b.state(), b.status().reason) == (State.FAILED, "gpu is broken")
            assert b.clock.next_call_in_s() is None


class TestHealth:
    async def test_one_failed_probe_makes_it_unhealthy_and_a_good_one_ready(self) -> None:
        async with bench() as b:
            b.sick["gpu"] = TimeoutError()
            await b.advance(PROBE_INTERVAL_S)
            assert (b.state(), b.status().reason) == (State.UNHEALTHY, "failed probe (1 of 3): TimeoutError")
            del b.sick["gpu"]
            await b.advance(PROBE_INTERVAL_S)
            assert b.state() is State.READY
            assert b.runtime.launched == [("gpu", 1)]

    async def test_several_failed_probes_bring_a_new_generation(self) -> None:
        async with bench() as b:
            b.sick["gpu"] = InstanceFailedError("500")
            await b.advance(2.5 * PROBE_INTERVAL_S)
            assert b.runtime.terminated == ["gpu"]
            assert b.state() is State.BACKOFF
            b.sick.clear()
            await b.advance(2.0)
            assert (b.state(), b.status().generation, b.status().attempts) == (State.READY, 2, 1)
            await b.advance(POLICY.stable_s)
            assert b.status().attempts == 0

    async def test_an_exit_unasked(self) -> None:
        async with bench() as b:
            b.host.exit("gpu", ExitStatus(code=0))
            await b.calm()
            assert b.state() is State.BACKOFF
            assert b.status().reason == "exited with code 0 unasked; next attempt (2 of 3) in 1 s"
            assert b.status().handle is None
            await b.advance(2.0)
            assert (b.state(), b.status().generation) == (State.READY, 2)

    async def test_a_server_that_cannot_be_watched_any_more_is_replaced(self) -> None:
        runtime = FakeRuntime()
        runtime.wait_errors["gpu"] = [SyshaxError("no answer")]
        async with bench(runtime=runtime, ready=False) as b:
            assert b.state() is State.BACKOFF
            assert "can no longer be watched: no answer" in b.status().reason
            b.host.exit("gpu", ExitStatus())
            await b.advance(3.0)
            assert (b.state(), b.status().generation) == (State.READY, 2)

    async def test_failed_probes_do_not_count_while_its_runtime_is_away(self) -> None:
        async with bench() as b:
            b.runtime.away = True
            b.sick["gpu"] = InstanceFailedError("connection refused")
            await b.advance(10 * PROBE_INTERVAL_S)
            assert (b.state(), b.status().generation) == (State.UNHEALTHY, 1)
            b.runtime.away = False
            b.sick.clear()
            await b.advance(PROBE_INTERVAL_S)
            assert b.state() is State.READY

    async def test_a_suspicion_is_looked_into_at_once(self) -> None:
        async with bench() as b:
            b.sick["gpu"] = InstanceFailedError("connection refused")
            probes = len(b.probed)
            b.supervisor.report_failure("gpu")
            b.supervisor.report_failure("gpu")
            await b.calm()
            assert b.state() is State.UNHEALTHY
            b.supervisor.report_failure("gpu")
            await b.calm()
            assert len(b.probed) == probes + 1
            await b.advance(PROBE_INTERVAL_S)
            assert len(b.probed) == probes + 2

    async def test_who_is_found_not_to_be_well_is_unhealthy_at_once_which_is_no_failed_probe(self) -> None:
        async with bench() as b:
            assert await b.supervisor.is_well("gpu")
            assert b.state() is State.READY
            b.sick["gpu"] = InstanceFailedError("connection refused")
            for _ in range(5):
                assert not await b.supervisor.is_well("gpu")
                await b.calm()
            assert (b.state(), b.status().reason) == (State.UNHEALTHY, "connection refused")
            del b.sick["gpu"]
            await b.advance(PROBE_INTERVAL_S)
            assert b.state() is State.READY


class TestCommands:
    async def test_stop_waits_for_running_requests(self) -> None:
        async with bench() as b:
            b.supervisor.stop("gpu")
            await b.calm()
            assert (b.state(), b.runtime.terminated) == (State.DRAINING, [])
            b.supervisor.drained("gpu")
            await b.calm()
            assert (b.state(), b.status().wanted, b.status().reason) == (State.STOPPED, False, "stop requested")
            await b.advance(1000.0)
            assert b.state() is State.STOPPED

    async def test_draining_takes_no_longer_than_allowed(self) -> None:
        async with bench() as b:
            b.supervisor.stop("gpu")
            await b.advance(POLICY.drain_timeout_s)
            assert b.state() is State.STOPPED

    async def test_drained_may_be_said_from_within_the_callback(self) -> None:
        async with bench() as b:
            b.supervisor.subscribe(
                lambda status: b.supervisor.drained("gpu") if status.state is State.DRAINING else None
            )
            b.supervisor.stop("gpu")
            await b.calm()
            assert b.state() is State.STOPPED

    async def test_restart_is_a_new_generation(self) -> None:
        async with bench() as b:
            b.supervisor.restart("gpu", drain=False)
            waiting = asyncio.create_task(
                b.supervisor.wait_until("gpu", lambda status: status.state is State.READY, timeout_s=30.0)
            )
            await b.advance(1.0)
            status = await waiting
            assert (status.generation, status.attempts) == (2, 0)

    async def test_several_commands_end_in_the_last_ones_wish(self) -> None:
        async with bench() as b:
            b.supervisor.restart("gpu")
            b.supervisor.restart("gpu", drain=False)
            b.supervisor.stop("gpu")
            await b.advance(5.0)
            assert b.state() is State.STOPPED
            b.supervisor.start("gpu")
            b.supervisor.stop("gpu")
            b.supervisor.start("gpu")
            await b.advance(5.0)
            assert b.state() is State.READY
            assert b.runtime.terminated == ["gpu"]  # what was not launched yet was not launched for nothing

    async def test_a_stop_in_the_middle_of_a_launch(self) -> None:
        runtime = FakeRuntime()
        runtime.gate.clear()
        async with bench(runtime=runtime, ready=False) as b:
            b.supervisor.stop("gpu")
            await b.calm()
            assert (b.state(), runtime.terminated) == (State.STOPPING, [])
            runtime.gate.set()
            await b.calm()
            assert (b.state(), runtime.terminated) == (State.STOPPED, ["gpu"])

    async def test_a_stop_while_an_image_is_fetched_does_not_wait_for_it(self) -> None:
        runtime = FakeRuntime()
        runtime.fetching = asyncio.Event()
        async with bench(runtime=runtime, ready=False) as b:
            b.supervisor.stop("gpu")
            await b.calm()
            assert (b.state(), runtime.launched) == (State.STOPPED, [("gpu", 1)])

    async def test_a_stop_before_a_launch_has_begun_leaves_nothing_to_launch(self) -> None:
        async with bench() as b:
            terminating = asyncio.Event()
            b.runtime.after_terminate["gpu"] = terminating
            b.supervisor.restart("gpu", drain=False)
            await b.calm()
            assert b.state() is State.STARTING
            b.supervisor.stop("gpu")
            await b.calm()
            terminating.set()
            await b.calm()
            assert (b.state(), b.runtime.launched) == (State.STOPPED, [("gpu", 1)])

    async def test_only_a_server_that_was_ready_gets_the_whole_grace(self) -> None:
        async with bench(ready=False) as b:
            b.supervisor.stop("gpu")
            await b.calm()
            b.supervisor.start("gpu")
            await b.advance(5.0)
            assert b.state() is State.READY
            b.supervisor.stop("gpu", drain=False)
            await b.calm()
            assert b.runtime.graces_s == [1.0, 15.0]

    async def test_a_server_that_cannot_be_ended_is_tried_again(self) -> None:
        async with bench() as b:
            b.runtime.terminate_errors["gpu"] = [SyshaxError("no daemon"), OSError("no daemon")]
            b.supervisor.stop("gpu", drain=False)
            await b.calm()
            assert (b.state(), b.status().reason) == (State.STOPPING, "cannot be stopped: no daemon")
            await b.advance(2.0)
            assert b.state() is State.STOPPED

    async def test_unknown_names(self) -> None:
        async with bench() as b:
            for command in (b.supervisor.start, b.supervisor.stop, b.supervisor.restart, b.supervisor.drained):
                with pytest.raises(NotFoundError, match="no instance 'x'; available: gpu"):
                    command("x")
            with pytest.raises(NotFoundError):
                b.supervisor.logs("x", tail=None, follow=False)
            with pytest.raises(NotFoundError):
                await b.supervisor.wait_until("x", lambda _: True, 1.0)


class TestDependency:
    async def test_it_waits_and_goes_and_comes_with_its_dependency(self) -> None:
        async with bench(GPU, CPU_ON_GPU, ready=False) as b:
            assert (b.state("cpu"), b.status("cpu").reason) == (State.STOPPED, "waiting for gpu")
            await b.advance(1.0)
            assert b.state("cpu") is State.READY
            b.host.exit("gpu", ExitStatus(signal=9))
            await b.calm()
            assert (b.state("gpu"), b.state("cpu")) == (State.BACKOFF, State.STOPPED)
            await b.advance(5.0)
            assert (b.state("gpu"), b.state("cpu")) == (State.READY, State.READY)
            assert b.runtime.launched == [("gpu", 1), ("cpu", 1), ("gpu", 2), ("cpu", 2)]

    async def test_it_drains_with_its_dependency(self) -> None:
        async with bench(GPU, CPU_ON_GPU) as b:
            b.supervisor.restart("gpu")
            await b.calm()
            assert (b.state("gpu"), b.state("cpu")) == (State.DRAINING, State.DRAINING)
            b.supervisor.drained("cpu")
            await b.calm()
            assert (b.state("gpu"), b.state("cpu")) == (State.DRAINING, State.STOPPED)
            b.supervisor.drained("gpu")
            await b.advance(2.0)
            assert (b.state("gpu"), b.state("cpu")) == (State.READY, State.READY)


class TestAdopt:
    async def test_a_running_server_is_taken_over(self) -> None:
        runtime = FakeRuntime()
        handle = await runtime.launch(GPU, 7)
        async with bench(runtime=runtime, ready=False) as b:
            assert (b.state(), b.status().handle) == (State.READY, handle)
            assert runtime.launched == [("gpu", 7)]
            b.host.exit("gpu", ExitStatus())
            await b.advance(2.0)
            assert (b.state(), b.status().generation) == (State.READY, 8)

    async def test_one_that_does_not_answer_gets_the_rest_of_its_time(self) -> None:
        runtime = FakeRuntime()
        await runtime.launch(GPU, 7)
        bench = Bench((GPU,), runtime, POLICY)
        bench.sick["gpu"] = InstanceFailedError("connection refused")
        task = asyncio.create_task(bench.supervisor.run())
        await bench.calm()
        assert bench.state() is State.UNHEALTHY  # the fake's servers are older than the time to start
        await bench.advance(2 * PROBE_INTERVAL_S)
        assert bench.state() is State.BACKOFF
        await bench.supervisor.shutdown(leave_running=False, drain=False)
        await task

    async def test_if_nobody_can_tell_it_is_launched(self, caplog: pytest.LogCaptureFixture) -> None:
        runtime = FakeRuntime()
        runtime.adopt_errors["gpu"] = [OSError("no permission")]
        async with bench(runtime=runtime) as b:
            assert b.state() is State.READY
        assert "gpu: cannot tell whether it runs already: no permission" in caplog.messages


class TestExternal:
    async def test_it_is_only_watched(self) -> None:
        async with bench(EXTERNAL, ready=False) as b:
            b.sick["gpu"] = InstanceFailedError("connection refused")
            await b.advance(1000.0)
            assert (b.state(), b.status().generation) == (State.STARTING, 1)
            b.sick.clear()
            await b.advance(0.5)
            assert b.state() is State.READY
            b.sick["gpu"] = InstanceFailedError("connection refused")
            await b.advance(1000.0)
            assert (b.state(), b.status().reason) == (State.UNHEALTHY, "connection refused")
            b.sick.clear()
            await b.advance(PROBE_INTERVAL_S)
            assert (b.state(), b.status().generation) == (State.READY, 1)

    async def test_stop_takes_it_out_of_use_and_start_back(self) -> None:
        async with bench(EXTERNAL) as b:
            b.supervisor.stop("gpu", drain=False)
            await b.advance(10.0)
            assert b.state() is State.STOPPED
            b.supervisor.start("gpu")
            await b.advance(1.0)
            assert b.state() is State.READY
            assert [line async for line in b.supervisor.logs("gpu", tail=None, follow=True)] == [
                "gpu was not started by syshaxd (runtime: external): see the program that started it"
            ]


class TestShutdown:
    async def test_dependants_end_first(self) -> None:
        async with bench(GPU, CPU_ON_GPU) as b:
            await b.supervisor.shutdown(leave_running=False, drain=False)
            assert b.runtime.terminated == ["cpu", "gpu"]
            assert {status.state for status in b.supervisor.statuses()} == {State.STOPPED}

    async def test_running_requests_get_their_time(self) -> None:
        async with bench(GPU, CPU) as b:
            b.supervisor.subscribe(
                lambda status: b.supervisor.drained("cpu") if status.state is State.DRAINING else None
            )
            ending = asyncio.create_task(b.supervisor.shutdown(leave_running=False, drain=True))
            await b.calm()
            assert (b.state("gpu"), b.state("cpu")) == (State.DRAINING, State.STOPPED)
            b.supervisor.drained("gpu")
            await ending
            assert b.state() is State.STOPPED

    async def test_but_no_more_than_that(self) -> None:
        policy = RestartPolicy(drain_timeout_s=0.01)
        async with bench(GPU, CPU_ON_GPU, policy=policy, ready=False) as b:
            await b.advance(1.0)
            await b.supervisor.shutdown(leave_running=False, drain=True)
            assert b.runtime.terminated == ["cpu", "gpu"]

    async def test_it_can_be_hurried(self) -> None:
        async with bench() as b:
            slow = asyncio.create_task(b.supervisor.shutdown(leave_running=False, drain=True))
            await b.calm()
            assert b.state() is State.DRAINING
            await b.supervisor.shutdown(leave_running=False, drain=False)
            await slow
            assert b.state() is State.STOPPED

    async def test_servers_can_be_left_running(self) -> None:
        async with bench(GPU, CPU) as b:
            handle = b.status().handle
            await b.supervisor.shutdown(leave_running=True, drain=False)
            assert b.runtime.terminated == []
        async with bench(GPU, CPU, runtime=FakeRuntime(b.host), ready=False) as later:
            assert (later.state(), later.status().handle) == (State.READY, handle)
            assert later.runtime.launched == []

    async def test_in_the_middle_of_the_start(self) -> None:
        bench = Bench((GPU, CPU_ON_GPU), None, POLICY)
        task = asyncio.create_task(bench.supervisor.run())
        await asyncio.sleep(0)
        await bench.supervisor.shutdown(leave_running=False, drain=True)
        await task
        assert not any(not server.ended.is_set() for server in bench.host.servers.values())

    async def test_before_the_start(self) -> None:
        bench = Bench((GPU,), None, POLICY)
        task = asyncio.create_task(bench.supervisor.run())
        await bench.supervisor.shutdown(leave_running=False, drain=True)
        await task
        assert bench.runtime.launched == []

    async def test_in_the_middle_of_a_pause(self) -> None:
        async with bench() as b:
            b.host.exit("gpu", ExitStatus(code=1))
            await b.calm()
            assert b.state() is State.BACKOFF
            await b.supervisor.shutdown(leave_running=False, drain=True)
            assert b.state() is State.STOPPED
            assert b.clock.next_call_in_s() is None


class TestWatching:
    async def test_subscribers_see_every_change_until_they_leave(self) -> None:
        async with bench() as b:
            seen: list[State] = []
            unsubscribe = b.supervisor.subscribe(lambda status: seen.append(status.state))
            b.supervisor.stop("gpu", drain=False)
            await b.calm()
            unsubscribe()
            b.supervisor.start("gpu")
            await b.calm()
            assert seen == [State.STOPPING, State.STOPPED]

    async def test_one_that_fails_breaks_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        async with bench() as b:

            def fail(status: InstanceStatus) -> None:
                raise ValueError(status.spec.name)

            b.supervisor.subscribe(fail)
            b.supervisor.restart("gpu", drain=False)
            await b.advance(1.0)
            assert (b.state(), b.status().generation) == (State.READY, 2)
        assert "gpu: a subscriber failed" in caplog.messages

    async def test_waiting_has_a_limit(self) -> None:
        async with bench() as b:
            with pytest.raises(TimeoutError):
                await b.supervisor.wait_until("gpu", lambda status: status.state is State.FAILED, timeout_s=0.01)

    async def test_times_are_those_of_the_states(self) -> None:
        async with bench() as b:
            since_s = b.status().since_s
            await b.advance(100.0)
            assert b.status().since_s == since_s
            b.supervisor.stop("gpu", drain=False)
            await b.calm()
            assert b.status().since_s == b.clock.time()

    async def test_logs_are_the_runtimes(self) -> None:
        async with bench() as b:
            assert [line async for line in b.supervisor.logs("gpu", tail=1, follow=False)] == ["generation 1"]
