# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether a running instance keeps to its binding, and every way in which it may not."""

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from syshaxd.core.errors import NoBindingError
from syshaxd.core.numa import (
    Binding,
    Dialect,
    DriftKind,
    Memory,
    NumaTopology,
    NumaUsage,
    Thread,
    Verification,
    plan_binding,
    verify_binding,
)
from tests.core.topologies import GIB, KUNPENG, on_any_host, topologies

SERVER_PID = 100
MIB = 2**20


def running(binding: Binding) -> NumaUsage:
    """An instance that keeps to its binding as vLLM does: a process for each rank, one thread pinned to each CPU."""
    fence = binding.cpuset or binding.cpus
    threads = [Thread(pid=SERVER_PID, tid=SERVER_PID, name="vllm", cpus=fence)]
    memory = [Memory(pid=SERVER_PID, own_bytes={binding.memory_nodes[-1]: GIB})]
    for rank, group in enumerate(binding.groups):
        pid = SERVER_PID + 1 + rank
        threads.append(Thread(pid=pid, tid=pid, name="worker", cpus=fence))
        threads += [Thread(pid=pid, tid=1000 * pid + cpu, name="omp", cpus=(cpu,)) for cpu in group]
        nodes = binding.memory_nodes if len(binding.groups) == 1 else (binding.memory_nodes[rank],)
        memory.append(Memory(pid=pid, own_bytes=dict.fromkeys(nodes, 4 * GIB)))
    return NumaUsage(threads=tuple(threads), memory=tuple(memory))


def kinds(verification: Verification) -> list[DriftKind]:
    return [drift.kind for drift in verification.drifts]


PATCHED = plan_binding(KUNPENG, dialect=Dialect.PATCHED, threads=144)
STOCK = plan_binding(KUNPENG, dialect=Dialect.STOCK, ranks=4)


@on_any_host
@given(topologies(), st.sampled_from((Dialect.PATCHED, Dialect.STOCK)))
def test_an_instance_that_keeps_to_its_plan_has_no_drift(topology: NumaTopology, dialect: Dialect) -> None:
    try:
        binding = plan_binding(topology, dialect=dialect)
    except NoBindingError:
        assume(False)
    verification = verify_binding(binding, running(binding), topology)
    assert verification.drifts == ()
    assert verification.ok
    assert verification.cpus_bound == verification.cpus_planned == len(binding.cpus)
    assert verification.remote_memory_bytes == 0


def test_a_thread_that_was_let_go_is_outside_and_leaves_its_cpu_bare() -> None:
    placement = running(PATCHED)
    threads = tuple(replace(t, cpus=tuple(range(160))) if t.cpus == (5,) else t for t in placement.threads)
    outside, bare = verify_binding(PATCHED, replace(placement, threads=threads), KUNPENG).drifts
    assert outside.kind is DriftKind.THREAD_OUTSIDE
    assert outside.tids == (101005,)
    assert "omp (101005) may run on CPUs 0-159, not only on 0-35," in str(outside)
    assert bare.kind is DriftKind.CPU_WITHOUT_THREAD
    assert bare.cpus == (5,)


def test_a_whole_process_moved_elsewhere_is_one_drift() -> None:
    placement = running(PATCHED)
    threads = tuple(replace(thread, cpus=(159,)) for thread in placement.threads)
    verification = verify_binding(PATCHED, replace(placement, threads=threads), KUNPENG)
    assert kinds(verification) == [DriftKind.THREAD_OUTSIDE, DriftKind.CPU_WITHOUT_THREAD]
    assert verification.threads_outside == len(threads)
    assert verification.cpus_bound == 0
    assert "and 143 more" in verification.drifts[0].detail


def test_without_a_cpu_set_other_threads_are_free_but_compute_threads_are_missed() -> None:
    binding = replace(PATCHED, cpuset=(), memory_nodes=())
    placement = running(PATCHED)
    threads = tuple(replace(t, cpus=tuple(range(160))) if t.name != "omp" else t for t in placement.threads)
    assert verify_binding(binding, replace(placement, threads=threads), KUNPENG).ok
    threads = tuple(replace(thread, cpus=tuple(range(160))) for thread in threads)
    verification = verify_binding(binding, replace(placement, threads=threads), KUNPENG)
    assert kinds(verification) == [DriftKind.CPU_WITHOUT_THREAD]
    assert verification.drifts[0].cpus == PATCHED.cpus


def test_a_cpu_that_was_switched_off_is_told_apart() -> None:
    nodes = tuple(replace(node, cpus=tuple(cpu for cpu in node.cpus if cpu != 7)) for node in KUNPENG.nodes)
    cores = tuple(core for core in KUNPENG.cores if core != (7,))
    verification = verify_binding(PATCHED, running(PATCHED), replace(KUNPENG, nodes=nodes, cores=cores, offline=(7,)))
    assert [(drift.kind, drift.cpus) for drift in verification.drifts] == [(DriftKind.CPU_OFFLINE, (7,))]


def test_a_rank_whose_memory_is_on_another_ranks_node_has_drifted() -> None:
    placement = running(STOCK)
    assert verify_binding(STOCK, placement, KUNPENG).ok
    moved = replace(placement.memory[2], own_bytes={0: 4 * GIB})
    verification = verify_binding(
        STOCK, replace(placement, memory=(*placement.memory[:2], moved, *placement.memory[3:])), KUNPENG
    )
    assert kinds(verification) == [DriftKind.REMOTE_MEMORY]
    assert verification.drifts[0].nodes == (0,)
    assert verification.remote_memory_bytes == 4 * GIB
    assert verification.remote_memory_ratio == 4 / 17


def test_a_little_memory_elsewhere_is_no_drift() -> None:
    binding = plan_binding(KUNPENG, dialect=Dialect.STOCK)
    placement = running(binding)
    touched_before = Memory(pid=7, own_bytes={3: 60 * MIB})
    assert verify_binding(binding, replace(placement, memory=(*placement.memory, touched_before)), KUNPENG).ok
    a_lot = replace(touched_before, own_bytes={3: GIB})
    verification = verify_binding(binding, replace(placement, memory=(*placement.memory, a_lot)), KUNPENG)
    assert kinds(verification) == [DriftKind.REMOTE_MEMORY]
    assert "1024 MiB on node 3, remote to the planned nodes (17% of all)" in verification.drifts[0].detail


def test_an_instance_without_a_plan_has_no_drift() -> None:
    binding = Binding(dialect=Dialect.PLAIN, groups=())
    assert verify_binding(binding, running(PATCHED), KUNPENG).ok


def test_what_could_not_be_read_is_told() -> None:
    placement = replace(running(PATCHED), memory=(), unreadable=("/proc/1/numa_maps may be read only by root",))
    verification = verify_binding(PATCHED, placement, KUNPENG)
    assert verification.ok
    assert verification.unreadable == placement.unreadable
    assert verification.remote_memory_ratio == 0.0
