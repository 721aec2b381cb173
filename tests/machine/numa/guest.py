# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs in the guest: sysHAX's own code reads the topology, plans, binds a process, verifies it, and sees it drift.

Prints a line for each step, `step: what was seen`, and `PASSED` at the end.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from syshaxd.core.numa import (
    Binding,
    BindingSettings,
    BindingStatus,
    Constraints,
    Dialect,
    DriftKind,
    NumaTopology,
    Rule,
    Verification,
    binding_of,
    check_binding,
    draw_topology,
    next_status,
    parse_topology,
    plan_binding,
    read_settings,
    reserve_cores,
    verify_binding,
)
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.system import host

MIB = 2**20
CGROUP = Path("/sys/fs/cgroup/instance")
WORKER = Path(__file__).with_name("worker.py")
TOUCHED_BYTES = 16 * MIB


def say(step: str, seen: object) -> None:
    print(f"{step}: {seen}", flush=True)


def read_the_topology() -> NumaTopology:
    """The kernel's files, and the texts of lscpu and numactl, tell the same."""
    topology = host.topology()
    assert [node.cpus for node in topology.nodes] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [node.distances for node in topology.nodes] == [
        (10, 12, 24, 26),
        (12, 10, 26, 24),
        (24, 26, 10, 12),
        (26, 24, 12, 10),
    ]
    printed = "".join(subprocess.check_output(command, text=True) for command in (["lscpu"], ["numactl", "-H"]))
    told = parse_topology(printed)
    for mine, theirs in zip(topology.nodes, told.nodes, strict=True):
        assert (mine.cpus, mine.distances) == (theirs.cpus, theirs.distances)
        assert abs((mine.memory_bytes or 0) - (theirs.memory_bytes or 0)) < MIB
    assert topology.cores == told.cores
    for line in draw_topology(topology):
        say("topology", line)
    return topology


def plan(topology: NumaTopology) -> tuple[BindingSettings, Constraints]:
    """One core is kept for the daemon; the plan passes the check, a wrong binding does not."""
    reserved = reserve_cores(topology, {"daemon": 1})
    assert reserved == {"daemon": (1,)}
    limits = host.allowed()
    constraints = Constraints(taken=reserved, allowed_cpus=limits.cpus, allowed_nodes=limits.nodes)
    settings = plan_binding(topology, dialect=Dialect.PATCHED, threads=4, constraints=constraints).settings()
    assert check_binding(settings, topology, constraints) == ()
    wrong = replace(settings, env=dict(settings.env) | {"CUSTOM_CPU_AFFINITY": "0-4"})
    faults = check_binding(wrong, topology, constraints)
    assert {fault.rule for fault in faults} == {Rule.THREADS, Rule.BALANCE, Rule.OVERLAP, Rule.CPUSET, Rule.NODE_ORDER}
    proposal = faults[0].proposal
    assert proposal is not None
    assert not any(fault.blocking for fault in check_binding(proposal, topology, constraints))
    say("plan", " ".join(f"{key}={value}" for key, value in settings.env.items()))
    return settings, constraints


@contextmanager
def container(settings: BindingSettings) -> Iterator[subprocess.Popen[str]]:
    """The worker, confined to a CPU set as Docker's cpuset_cpus and cpuset_mems do it."""
    CGROUP.parent.joinpath("cgroup.subtree_control").write_text("+cpuset")
    CGROUP.mkdir()
    CGROUP.joinpath("cpuset.cpus").write_text(settings.cpuset_cpus)
    CGROUP.joinpath("cpuset.mems").write_text(settings.cpuset_mems)
    worker = subprocess.Popen(
        ["sh", "-c", f"echo $$ >{CGROUP}/cgroup.procs; exec python3 {WORKER}"],
        env=dict(os.environ) | dict(settings.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    with worker:
        assert worker.stdout.readline() == "ready\n"
        yield worker
        worker.stdin.close()
    CGROUP.rmdir()


def verify(step: str, binding: Binding, pid: int) -> Verification:
    verification = verify_binding(binding, host.placement(pid), host.topology(), remote_bytes=8 * MIB)
    memory = ", ".join(f"node {node} {size // MIB} MiB" for node, size in verification.memory_bytes.items())
    say(step, f"{verification.cpus_bound} of {verification.cpus_planned} CPUs bound; {memory}")
    for drift in verification.drifts:
        say(step, drift)
    return verification


def kinds(verification: Verification) -> set[DriftKind]:
    return {drift.kind for drift in verification.drifts}


def look_twice(step: str, binding: Binding, pid: int, before: BindingStatus | None) -> BindingStatus:
    """Two readings as the daemon takes them again and again; what the first shows alone is not certain."""
    first = next_status(before, verify(step, binding, pid), at_s=time.time())
    known = next_status(first, verify(step, binding, pid), at_s=time.time())
    assert known.drifted == bool(known.verification.drifts)
    say(step, f"certain: {', '.join(drift.kind for drift in known.drifts) or 'nothing'}")
    return known


def run() -> None:
    topology = read_the_topology()
    settings, constraints = plan(topology)
    binding = binding_of(read_settings(settings, topology, constraints), topology)
    with container(settings) as worker:
        good = verify("bound", binding, worker.pid)
        assert good.ok
        assert good.cpus_bound == 4
        assert all(good.memory_bytes[node.id] >= TOUCHED_BYTES for node in topology.nodes)

        known = look_twice("watched", binding, worker.pid, None)
        assert not known.drifted

        # A thread is let go, as by `taskset`: the second reading makes it certain, a good one ends it.
        threads = {thread.cpus: thread.tid for thread in host.placement(worker.pid).threads}
        os.sched_setaffinity(threads[(4,)], {6})
        once = next_status(known, verify("a thread moved", binding, worker.pid), at_s=time.time())
        assert not once.drifted
        known = look_twice("a thread moved", binding, worker.pid, once)
        assert {drift.kind for drift in known.drifts} == {DriftKind.CPU_WITHOUT_THREAD}
        assert known.drifted_at_s is not None
        os.sched_setaffinity(threads[(4,)], {4})
        known = look_twice("and back", binding, worker.pid, known)
        assert not known.drifted
        assert known.drifted_at_s is None

        # The CPU set changes under the instance; the kernel moves threads and pages.
        CGROUP.joinpath("cpuset.mems").write_text("2")
        narrow = replace(binding, memory_nodes=(0, 1))
        assert kinds(verify("memory moved", narrow, worker.pid)) == {DriftKind.REMOTE_MEMORY}
        CGROUP.joinpath("cpuset.mems").write_text(settings.cpuset_mems)
        CGROUP.joinpath("cpuset.cpus").write_text("0-7")
        assert DriftKind.THREAD_OUTSIDE in kinds(verify("CPU set widened", binding, worker.pid))

    with container(settings) as worker:
        Path("/sys/devices/system/cpu/cpu2/online").write_text("0")
        assert DriftKind.CPU_OFFLINE in kinds(verify("a CPU off", binding, worker.pid))
        faults = check_binding(settings, host.topology(), constraints)
        assert {fault.rule for fault in faults if fault.blocking} == {Rule.ONLINE}
        proposal = faults[0].proposal
        assert proposal is not None
        assert proposal.env["CUSTOM_CPU_AFFINITY"] == "0,3-4,6"
        say("a CPU off", f"proposed instead: {', '.join(settings.changes_to(proposal))}")
        Path("/sys/devices/system/cpu/cpu2/online").write_text("1")

    # A process that has no container.
    worker = subprocess.Popen(["sleep", "1000"])
    os.sched_setaffinity(worker.pid, (6, 7))
    plain = Binding(dialect=Dialect.PLAIN, groups=((6, 7),), cpuset=(6, 7))
    assert verify("a process bound", plain, worker.pid).ok
    os.sched_setaffinity(worker.pid, {0, 6})
    assert kinds(verify("and let go", plain, worker.pid)) == {DriftKind.THREAD_OUTSIDE, DriftKind.CPU_WITHOUT_THREAD}
    worker.kill()
    worker.wait()
    say("guest", f"{os.uname().machine}, CPUs {format_cpulist(topology.online)}, Python {sys.version.split()[0]}")
    print("PASSED", flush=True)


if __name__ == "__main__":
    run()
