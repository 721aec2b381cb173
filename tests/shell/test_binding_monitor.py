# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""BindingMonitor: on a real process of this machine, and on processes that are where the test says."""

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle

import pytest

from syshaxd.core.config import parse
from syshaxd.core.errors import ConflictError, NotFoundError, ProcessGoneError, TopologyError
from syshaxd.core.launch.bound import Bound, Host
from syshaxd.core.launch.cpu_binding import bind_instances
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.numa import (
    BindingSettings,
    BindingStatus,
    DriftKind,
    NumaTopology,
    NumaUsage,
    Rule,
    Thread,
    Unverified,
    Verification,
    plan_binding,
)
from syshaxd.core.numa.binding import Dialect
from syshaxd.core.types import Handle, InstanceStatus, State
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.system import host
from tests.core.topologies import KUNPENG

IN_TIME_S = 50.0
PIDS = {"gpu": 4241, "cpu": 4242}
PID = PIDS["cpu"]
OUTSIDE = {DriftKind.THREAD_OUTSIDE}


def bound_instances(topology: NumaTopology = KUNPENG, **services: object) -> Bound:
    """The role cpu on two CPUs, the role gpu wherever it likes."""
    ours = {"runtime": "process", "python": "/venv/bin/python"}
    env = {"INFERENCE_OP_MODE": "fused", "CUSTOM_CPU_AFFINITY": "0-1", "OMP_NUM_THREADS": 2, "HF_TOKEN": "hush"}
    default = {"gpu": ours, "cpu": ours | {"cores": "0-1", "env": env}}
    config = parse({"services": default | services, "models": {"path": "/models/m"}})
    return bind_instances(config, instance_specs(config), Host(topology=topology))


def running(*cpus: tuple[int, ...]) -> NumaUsage:
    threads = (Thread(pid=PID, tid=PID + 1 + tid, name="omp", cpus=its) for tid, its in enumerate(cpus))
    return NumaUsage(threads=(Thread(pid=PID, tid=PID, name="vllm", cpus=(0, 1)), *threads))


GOOD, LOST = running((0,), (1,)), running((0,), tuple(range(160)))


@dataclass
class Stage:
    """A supervisor's statuses, and what the kernel would say."""

    bound: Bound = field(default_factory=bound_instances)
    placement: NumaUsage | Exception | Callable[[int], NumaUsage] = GOOD
    topology: NumaTopology | Exception = KUNPENG
    statuses: dict[str, InstanceStatus] = field(default_factory=dict)
    looks: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for spec in self.bound.specs:
            self.statuses[spec.name] = InstanceStatus(
                spec=spec, state=State.READY, handle=Handle(spec.name, 1, "1", 0.0)
            )

    def become(self, name: str, state: State, generation: int = 1) -> None:
        handle = None if state is State.STOPPED else Handle(name, generation, "1", float(generation))
        self.statuses[name] = replace(self.statuses[name], state=state, handle=handle)

    async def pid(self, status: InstanceStatus) -> int | None:
        return None if status.handle is None else PIDS[status.spec.name]

    def read_numa_usage(self, pid: int) -> NumaUsage:
        self.looks.update(name for name in PIDS if PIDS[name] == pid)
        if isinstance(self.placement, Exception):
            raise self.placement
        return self.placement(pid) if callable(self.placement) else self.placement

    def read_topology(self) -> NumaTopology:
        if isinstance(self.topology, Exception):
            raise self.topology
        return self.topology

    def monitor(self) -> BindingMonitor:
        return BindingMonitor(
            self.bound,
            self.statuses.values,
            self.pid,
            interval_s=0.001,
            read_numa_usage=self.read_numa_usage,
            read_topology=self.read_topology,
        )

    async def looked(self, times: int, name: str = "cpu") -> None:
        """Returns after so many more looks at an instance."""
        wanted = self.looks[name] + times
        async with asyncio.timeout(IN_TIME_S):
            while self.looks[name] < wanted:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def at_work(monitor: BindingMonitor) -> AsyncIterator[None]:
    task = asyncio.create_task(monitor.run())
    yield
    task.cancel()
    await asyncio.wait([task])


async def until(monitor: BindingMonitor, kinds: set[DriftKind]) -> BindingStatus:
    """What is known of the instance cpu, once these kinds of drift are certain."""
    async with asyncio.timeout(IN_TIME_S):
        while True:
            status = monitor.latest().get("cpu")
            if status is not None and {drift.kind for drift in status.drifts} == kinds:
                return status
            await asyncio.sleep(0.001)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    code = "print('here', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"  # an interpreter that is still loading has hardly any memory
    yield process
    process.communicate(b"\n")


async def test_a_real_process_drifts_and_comes_back(
    child: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    here, cpus = await asyncio.to_thread(host.topology), tuple(sorted(os.sched_getaffinity(0)))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    (home,) = plan_binding(here, dialect=Dialect.PATCHED, threads=1).cpus
    env = {"INFERENCE_OP_MODE": "fused", "CUSTOM_CPU_AFFINITY": str(home), "OMP_NUM_THREADS": 1}
    service = {"runtime": "process", "python": "/venv/bin/python", "cores": str(home), "env": env}
    stage = Stage(bound_instances(here, cpu=service))

    async def pid(status: InstanceStatus) -> int:
        return child.pid

    monitor = BindingMonitor(stage.bound, stage.statuses.values, pid, interval_s=0.01)
    events: list[tuple[str, bool]] = []
    monitor.subscribe(lambda name, status: events.append((name, status.drifted)))
    os.sched_setaffinity(child.pid, [home])
    async with at_work(monitor):
        good = await until(monitor, set())
        assert (good.verification.cpus_bound, good.verification.threads) == (1, 1)
        assert sum(good.verification.memory_bytes.values()) > 2**20 or good.verification.unreadable
        os.sched_setaffinity(child.pid, cpus)
        drifted = await until(monitor, {DriftKind.THREAD_OUTSIDE, DriftKind.CPU_WITHOUT_THREAD})
        assert drifted.drifted_at_s is not None
        os.sched_setaffinity(child.pid, [home])
        await until(monitor, set())
    assert events == [("cpu", True), ("cpu", False)]
    assert "cpu: drifted from its CPU binding: [thread-outside]" in caplog.text
    assert "cpu: back on its CPU binding" in caplog.text


async def test_one_odd_reading_is_no_drift(caplog: pytest.LogCaptureFixture) -> None:
    placements = cycle([GOOD, LOST])
    stage = Stage(placement=lambda pid: next(placements))
    async with at_work(stage.monitor()):
        await stage.looked(7)
    assert "drifted from" not in caplog.text


async def test_only_ready_instances_are_looked_at() -> None:
    stage = Stage(bound_instances(gpu={"runtime": "process", "python": "p", "cores": "2-3"}))
    for state in set(State) - {State.READY}:
        stage.become("cpu", state)
        async with at_work(stage.monitor()):
            await stage.looked(3, "gpu")
    assert not stage.looks["cpu"]


async def test_a_new_generation_starts_anew() -> None:
    stage = Stage(placement=LOST)
    monitor = stage.monitor()
    async with at_work(monitor):
        await until(monitor, OUTSIDE | {DriftKind.CPU_WITHOUT_THREAD})
        stage.placement = GOOD
        stage.become("cpu", State.READY, generation=2)
        assert monitor.latest() == {}
        await until(monitor, set())


async def test_what_is_read_while_the_instance_ends_does_not_count() -> None:
    stage = Stage(bound_instances(gpu={"runtime": "process", "python": "p", "cores": "2-3"}))

    def ends(pid: int) -> NumaUsage:
        if pid == PID:
            stage.become("cpu", State.DRAINING)
        return LOST

    stage.placement = ends
    monitor = stage.monitor()
    async with at_work(monitor):
        await stage.looked(1)
        await stage.looked(3, "gpu")
    stage.become("cpu", State.READY)
    assert "cpu" not in monitor.latest()


async def test_a_host_that_cannot_be_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(topology=TopologyError("/sys is missing"))
    async with at_work(stage.monitor()):
        await stage.looked(5)
        assert caplog.text.count("/sys is missing") == 1
        stage.topology = KUNPENG
        stage.placement = replace(GOOD, unreadable=("process 8 is somebody else's",))
        await stage.looked(5)
    assert caplog.text.count("process 8 is somebody else's") == 1


async def test_after_a_slow_reading_comes_a_rest() -> None:
    bound = bound_instances(gpu={"runtime": "process", "python": "p", "cores": "2-3"})
    stage = Stage(bound, placement=lambda pid: replace(GOOD, walk_s=1e6 if pid == PID else 0.0))
    async with at_work(stage.monitor()):
        await stage.looked(1)
        await stage.looked(10, "gpu")
    assert stage.looks["cpu"] == 1, "the next one is not due for years"


async def test_an_instance_that_nobody_bound_is_left_alone() -> None:
    service = {"runtime": "process", "python": "/venv/bin/python"}
    stage = Stage(bound_instances(cpu=service, gpu=service | {"cores": "2-3"}))
    async with at_work(stage.monitor()):
        await stage.looked(3, "gpu")
    assert not stage.looks["cpu"]


# What is asked.


async def test_verifying_tells_of_every_instance_why_or_what() -> None:
    stage = Stage(bound_instances(gpu={"runtime": "external"}), placement=LOST)
    monitor = stage.monitor()
    gpu, cpu = (await monitor.verify()).values()
    assert gpu == Unverified("syshaxd does not start it (runtime: external)")
    assert isinstance(cpu, Verification)
    assert {drift.kind for drift in cpu.drifts} == OUTSIDE | {DriftKind.CPU_WITHOUT_THREAD}
    stage.placement = ProcessGoneError("gone")
    assert await monitor.verify("cpu") == {"cpu": Unverified("it has just ended")}
    stage.become("cpu", State.STOPPED)
    assert await monitor.verify("cpu") == {"cpu": Unverified("not running: STOPPED")}
    with pytest.raises(NotFoundError, match="no instance 'npu'; available: gpu, cpu"):
        await monitor.verify("npu")
    assert await Stage().monitor().verify("gpu") == {"gpu": Unverified("not bound: it names no CPUs")}


async def test_checking_counts_the_others_and_hides_secrets() -> None:
    monitor = Stage(bound_instances(gpu={"runtime": "process", "python": "p", "cores": "2-3"})).monitor()
    assert {fault.rule for fault in await monitor.check("cpu", None)} == {Rule.NODE_ORDER}
    wanted = BindingSettings(
        dialect=Dialect.PATCHED,
        env={"INFERENCE_OP_MODE": "fused", "CUSTOM_CPU_AFFINITY": "0-2", "OMP_NUM_THREADS": "3", "HF_TOKEN": "hush"},
    )
    faults = await monitor.check("cpu", wanted)
    assert Rule.OVERLAP in {fault.rule for fault in faults}
    assert faults[0].proposal is not None
    assert "HF_TOKEN" not in faults[0].proposal.env
    (fault,) = await monitor.check("gpu", BindingSettings(dialect=Dialect.STOCK, cpuset_cpus="0"))
    assert (fault.rule, str(fault.part)) == (Rule.OVERLAP, "cpuset_cpus: CPU 0")


async def test_checking_what_is_somebody_elses() -> None:
    monitor = Stage(bound_instances(gpu={"runtime": "external"})).monitor()
    with pytest.raises(ConflictError, match="syshaxd does not start it"):
        await monitor.check("gpu", None)
    with pytest.raises(NotFoundError):
        await monitor.check("npu", None)


async def test_the_host_and_whose_its_cpus_are() -> None:
    monitor = Stage(bound_instances(gpu={"runtime": "process", "python": "p", "cores": "2-3"})).monitor()
    told = await monitor.topology()
    assert told.topology == KUNPENG
    assert told.owners == {"gpu": (2, 3), "cpu": (0, 1)}
