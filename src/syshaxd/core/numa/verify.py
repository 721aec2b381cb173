# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Verifies a running instance against its binding: thread affinities and the NUMA nodes of its pages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from syshaxd.core.numa.binding import Binding, Dialect
from syshaxd.core.numa.cpulist import describe_cpus, format_cpulist
from syshaxd.core.numa.model import NumaTopology

_MIB = 2**20
_REMOTE_MEMORY_RATIO = 0.05
_REMOTE_MEMORY_BYTES = 64 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """One thread and its CPU affinity."""

    pid: int
    tid: int
    name: str
    cpus: tuple[int, ...]
    """Ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one process, by node.

    File pages are left out: they are shared, and stay on the node that read them first.
    """

    pid: int
    own_bytes: Mapping[int, int] = field(default_factory=dict)
    """Heap, stacks, anonymous and shared memory, huge pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaUsage:
    """Threads and memory of an instance's processes at one moment."""

    threads: tuple[Thread, ...]
    memory: tuple[Memory, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Why the memory of some processes is unknown."""
    walk_s: float = 0.0
    """Seconds for which the kernel walked the processes' page tables and blocked them from mapping memory."""


class DriftKind(StrEnum):
    """Kinds of drift from a binding. The exported names never change."""

    THREAD_OUTSIDE = "thread-outside"
    """A thread may run outside the instance's CPU set."""
    CPU_WITHOUT_THREAD = "cpu-without-thread"
    """A planned CPU has no compute thread bound to it."""
    CPU_OFFLINE = "cpu-offline"
    """A planned CPU is offline or gone."""
    REMOTE_MEMORY = "remote-memory"
    """Memory is on other nodes than planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One deviation of a running instance from its binding."""

    kind: DriftKind
    detail: str
    tids: tuple[int, ...] = ()
    """Affected threads."""
    cpus: tuple[int, ...] = ()
    """Affected CPUs."""
    nodes: tuple[int, ...] = ()
    """Affected nodes."""

    def __str__(self) -> str:
        return f"[{self.kind}] {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of verifying a binding."""

    drifts: tuple[Drift, ...]
    threads: int
    threads_outside: int
    cpus_planned: int
    cpus_bound: int
    """Planned CPUs to which at least one compute thread is bound."""
    memory_bytes: Mapping[int, int]
    """The instance's own memory, by node."""
    remote_memory_bytes: int
    """The part of it on other nodes than planned."""
    unreadable: tuple[str, ...] = ()
    walk_s: float = 0.0
    """As in NumaUsage."""

    @property
    def ok(self) -> bool:
        """Whether the instance keeps to its binding, as far as it could be checked."""
        return not self.drifts

    @property
    def remote_memory_ratio(self) -> float:
        """0..1; 0 if unknown."""
        total = sum(self.memory_bytes.values())
        return self.remote_memory_bytes / total if total else 0.0


def verify_binding(
    binding: Binding,
    placement: NumaUsage,
    topology: NumaTopology,
    *,
    remote_bytes: int = _REMOTE_MEMORY_BYTES,
) -> Verification:
    """Compares a running instance with its binding.

    Compute threads are those that may run on one group's CPUs only; the patched kernels pin each of theirs to a single
    one. Any other thread is free within the CPU set, or anywhere without one. A process whose threads compute for one
    of several ranks must have its memory on that rank's node.

    Args:
        binding: The planned binding.
        placement: The actual use of CPUs and memory.
        topology: The host at the same moment.
        remote_bytes: Bytes that may be remote in any case.
    """
    confined = set(binding.cpuset)
    outside = tuple(thread for thread in placement.threads if confined and not confined.issuperset(thread.cpus))
    computing = [thread for group in binding.groups for thread in _computing(binding, placement.threads, group)]
    bound = {cpu for thread in computing for cpu in thread.cpus}
    remote = [_remote(memory, _planned_nodes(binding, placement, memory.pid, topology)) for memory in placement.memory]
    total = _sum_by_node([memory.own_bytes for memory in placement.memory])
    remote_total = _sum_by_node(remote)
    drifts = [*_off_line(binding, topology), *_outside(binding, outside), *_unbound(binding, bound, topology)]
    if (amount := sum(remote_total.values())) > max(remote_bytes, _REMOTE_MEMORY_RATIO * sum(total.values())):
        where = ", ".join(f"{size / _MIB:.0f} MiB on node {node}" for node, size in remote_total.items())
        detail = f"{where}, remote to the planned nodes ({amount / sum(total.values()):.0%} of all)"
        drifts.append(Drift(kind=DriftKind.REMOTE_MEMORY, detail=detail, nodes=tuple(remote_total)))
    return Verification(
        drifts=tuple(drifts),
        threads=len(placement.threads),
        threads_outside=len(outside),
        cpus_planned=len(binding.cpus),
        cpus_bound=len(bound & set(binding.cpus)),
        memory_bytes=total,
        remote_memory_bytes=amount,
        unreadable=placement.unreadable,
        walk_s=placement.walk_s,
    )


def _computing(binding: Binding, threads: Sequence[Thread], group: tuple[int, ...]) -> list[Thread]:
    """The compute threads of a group."""
    cpus, most = set(group), 1 if binding.dialect is Dialect.PATCHED else len(group)
    return [thread for thread in threads if len(thread.cpus) <= most and cpus.issuperset(thread.cpus)]


def _outside(binding: Binding, outside: Sequence[Thread]) -> Iterator[Drift]:
    """One drift for all threads with the same affinity, so that a moved process is one line."""
    by_cpus: dict[tuple[int, ...], list[Thread]] = {}
    for thread in outside:
        by_cpus.setdefault(thread.cpus, []).append(thread)
    for cpus, threads in by_cpus.items():
        tids = tuple(thread.tid for thread in threads)
        names = ", ".join(f"{thread.name} ({thread.tid})" for thread in threads[:3])
        more = f" and {len(threads) - 3} more" if len(threads) > 3 else ""
        detail = f"{names}{more} may run on {describe_cpus(cpus)}, not only on {format_cpulist(binding.cpuset)}"
        yield Drift(kind=DriftKind.THREAD_OUTSIDE, detail=detail, tids=tids, cpus=cpus)


def _off_line(binding: Binding, topology: NumaTopology) -> Iterator[Drift]:
    if off := tuple(sorted(set(binding.cpus) - set(topology.online))):
        detail = f"planned {describe_cpus(off)} offline: threads bound there run elsewhere"
        yield Drift(kind=DriftKind.CPU_OFFLINE, detail=detail, cpus=off)


def _unbound(binding: Binding, bound: set[int], topology: NumaTopology) -> Iterator[Drift]:
    if idle := tuple(sorted(set(binding.cpus) & set(topology.online) - bound)):
        detail = f"no compute thread is bound to the planned {describe_cpus(idle)}"
        yield Drift(kind=DriftKind.CPU_WITHOUT_THREAD, detail=detail, cpus=idle)


def _planned_nodes(binding: Binding, placement: NumaUsage, pid: int, topology: NumaTopology) -> tuple[int, ...]:
    """Nodes for the memory of one process; empty: any."""
    threads = [thread for thread in placement.threads if thread.pid == pid]
    computing = {group: len(_computing(binding, threads, group)) for group in binding.groups}
    group = max(computing, key=computing.__getitem__, default=())
    if len(binding.groups) > 1 and computing[group]:
        return tuple(topology.by_node(group))
    return binding.memory_nodes


def _remote(memory: Memory, nodes: tuple[int, ...]) -> dict[int, int]:
    return {node: size for node, size in memory.own_bytes.items() if nodes and node not in nodes}


def _sum_by_node(parts: Sequence[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for part in parts:
        for node, size in part.items():
            total[node] = total.get(node, 0) + size
    return dict(sorted(total.items()))
