# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Checks settings that bind an instance to CPUs: finds every fault, and the nearest settings without any."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from syshaxd.core.errors import NoBindingError
from syshaxd.core.numa.binding import (
    AFFINITY,
    FUSED,
    KV_SPACE,
    NRC,
    OMP_BIND,
    QUANTIZE,
    RESERVED,
    THREADS,
    BindingSettings,
    Constraints,
    Dialect,
)
from syshaxd.core.numa.cpulist import describe_cpus, format_cpulist
from syshaxd.core.numa.model import NumaTopology
from syshaxd.core.numa.plan import plan_nearest
from syshaxd.core.numa.reading import CPUSET_CPUS, CPUSET_MEMS, ResolvedSettings, read_settings

_GIB = 2**30
_NRC_VALUES = ("2", "4")
_QUANTIZE_VALUES = ("q8_0", "q4_0")


class Rule(StrEnum):
    """The rules for settings. The exported names never change."""

    SYNTAX = "syntax"
    """Every list and number can be parsed."""
    EXISTS = "exists"
    """The CPUs and nodes exist."""
    ONLINE = "online"
    """The CPUs are online."""
    THREADS = "threads"
    """As many threads as CPUs."""
    BALANCE = "balance"
    """Each used node contributes the same number of CPUs."""
    SMT = "smt"
    """One CPU per core."""
    MEMORYLESS = "memoryless-node"
    """The CPUs' nodes have memory."""
    CPULESS = "cpuless-node"
    """Memory comes from nodes with CPUs, and every rank has some."""
    OVERLAP = "overlap"
    """CPUs belong to one instance and one rank."""
    CPUSET = "cpuset"
    """CPUs and memory are within those of the container and its cgroup."""
    NRC = "nrc"
    QUANTIZE = "quantize"
    FUSED = "fused"
    """The patched kernels and their binding work only with INFERENCE_OP_MODE=fused."""
    MEMORY = "memory"
    """Weights and KV cache fit into the nodes' memory."""
    RANKS = "ranks"
    """One group of CPUs for each rank."""
    RANK_NODE = "rank-node"
    """A rank's CPUs are on one node, as its memory is."""
    NO_EFFECT = "no-effect"
    """Every variable that is set has an effect."""
    NODE_ORDER = "node-order"
    """CPU numbers ascend node by node, as the patched kernels assign them."""
    GPU_NODE = "gpu-node"
    """An instance on GPUs has CPUs near to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of settings."""

    rule: Rule
    part: str
    """The offending part, such as `CUSTOM_CPU_AFFINITY: CPUs 160-163`."""
    detail: str
    """What is wrong and why it matters."""
    blocking: bool = True
    """False: advice; it works, but not optimally. Only blocking faults prevent a start."""
    proposal: BindingSettings | None = None
    """The nearest settings without a blocking fault; None: the host has none."""

    def __str__(self) -> str:
        return f"[{self.rule}] {self.part}: {self.detail}"


def check_binding(
    settings: BindingSettings, topology: NumaTopology, constraints: Constraints | None = None
) -> tuple[Fault, ...]:
    """Returns all faults of settings on a host; empty: they are optimal."""
    constraints = constraints or Constraints()
    faults = _faults(settings, topology, constraints)
    if not faults:
        return ()
    proposal = _proposal(read_settings(settings, topology, constraints), topology, constraints)
    return tuple(replace(fault, proposal=proposal) for fault in faults)


def _faults(settings: BindingSettings, topology: NumaTopology, constraints: Constraints) -> list[Fault]:
    reading = read_settings(settings, topology, constraints)
    return [fault for rule in _RULES for fault in rule(reading, topology, constraints)]


def _proposal(reading: ResolvedSettings, topology: NumaTopology, constraints: Constraints) -> BindingSettings | None:
    """The nearest valid settings; if possible only values are corrected."""
    settings = reading.settings
    env = dict(settings.env)
    if settings.dialect is Dialect.PATCHED:
        env |= {NRC: "4"} if env.get(NRC) not in (None, *_NRC_VALUES) else {}
        env |= {QUANTIZE: "q8_0"} if env.get(QUANTIZE) not in (None, *_QUANTIZE_VALUES) else {}
    if any(unreadable.key == KV_SPACE for unreadable in reading.unreadable):
        del env[KV_SPACE]
    candidates = [replace(settings, env=env), *_replanned(reading, env, topology, constraints)]
    passing = (item for item in candidates if not any(fault.blocking for fault in _faults(item, topology, constraints)))
    return next(passing, None)


def _replanned(
    reading: ResolvedSettings, env: Mapping[str, str], topology: NumaTopology, constraints: Constraints
) -> Iterator[BindingSettings]:
    """Settings with another binding: on the wanted CPUs as far as possible, else with one rank per node."""
    settings = reading.settings
    is_stock = settings.dialect is Dialect.STOCK
    threads = (None if is_stock else reading.threads) or len(reading.cpus)
    for ranks in dict.fromkeys((settings.ranks, len(topology.nodes) if is_stock else settings.ranks)):
        wanted = threads and not reading.auto and ranks == settings.ranks
        try:
            binding = plan_nearest(
                topology,
                dialect=settings.dialect,
                cpus=reading.cpus,
                threads=threads if wanted else None,
                ranks=ranks,
                constraints=constraints,
            )
        except NoBindingError:
            continue
        planned = replace(binding.settings(env), ranks=ranks)
        if not settings.cpuset_cpus and not settings.cpuset_mems:
            yield replace(replace(binding, cpuset=(), memory_nodes=()).settings(env), ranks=ranks)
        yield planned


def _syntax(reading: ResolvedSettings, _: NumaTopology, __: Constraints) -> Iterator[Fault]:
    for unreadable in reading.unreadable:
        yield Fault(rule=Rule.SYNTAX, part=unreadable.key, detail=unreadable.problem)


def _existence(reading: ResolvedSettings, topology: NumaTopology, _: Constraints) -> Iterator[Fault]:
    for key, cpus in reading.named.items():
        off = tuple(sorted(set(cpus) & set(topology.offline)))
        missing = tuple(sorted(set(cpus) - set(topology.online) - set(off)))
        if missing:
            detail = f"this host has CPUs {format_cpulist(topology.online)}"
            yield Fault(rule=Rule.EXISTS, part=f"{key}: {describe_cpus(missing)}", detail=detail)
        if off:
            detail = "offline: the kernel runs nothing there"
            yield Fault(rule=Rule.ONLINE, part=f"{key}: {describe_cpus(off)}", detail=detail)
    if missing := tuple(node for node in reading.mems or () if not topology.has_node(node)):
        detail = f"this host has nodes {format_cpulist(node.id for node in topology.nodes)}"
        yield Fault(rule=Rule.EXISTS, part=f"{CPUSET_MEMS}: nodes {format_cpulist(missing)}", detail=detail)


def _threads(reading: ResolvedSettings, _: NumaTopology, __: Constraints) -> Iterator[Fault]:
    dialect, threads, cpus = reading.settings.dialect, reading.threads, reading.cpus
    if dialect is Dialect.PLAIN:
        return
    if dialect is Dialect.PATCHED and reading.listed and cpus:
        if threads is None and not any(unreadable.key == THREADS for unreadable in reading.unreadable):
            detail = f"not set; {AFFINITY} names {len(cpus)} CPUs, and each needs one thread"
            yield Fault(rule=Rule.THREADS, part=THREADS, detail=detail)
        elif threads is not None and threads != len(cpus):
            detail = f"{AFFINITY} names {len(cpus)} CPUs; the number of threads must be the same"
            yield Fault(rule=Rule.THREADS, part=f"{THREADS}={threads}", detail=detail)
    elif not (reading.listed or reading.auto) and threads is not None and not 0 < threads <= len(cpus):
        detail = f"{len(cpus)} CPUs are available for them"
        yield Fault(rule=Rule.THREADS, part=f"{THREADS}={threads}", detail=detail)


def _balance(reading: ResolvedSettings, topology: NumaTopology, _: Constraints) -> Iterator[Fault]:
    if not reading.listed:
        return
    counts = {node: len(cpus) for node, cpus in topology.by_node(reading.cpus).items()}
    if len(set(counts.values())) > 1:
        spread = ", ".join(f"node {node} gives {count}" for node, count in counts.items())
        detail = f"{spread}; each used node must contribute the same number of CPUs, or all wait for the slowest"
        yield Fault(
            rule=Rule.BALANCE,
            part=reading.source,
            detail=detail,
            blocking=reading.settings.dialect is Dialect.PATCHED,  # stock vLLM's choice may be uneven
        )


def _siblings(reading: ResolvedSettings, topology: NumaTopology, _: Constraints) -> Iterator[Fault]:
    if not reading.listed:
        return
    wanted = set(reading.cpus)
    doubled = [both for core in topology.cores if len(both := tuple(cpu for cpu in core if cpu in wanted)) > 1]
    if doubled:
        extra = tuple(sorted(cpu for core in doubled for cpu in core[1:]))
        detail = (
            f"hardware threads of cores that are already named ({' and '.join(map(str, doubled[0]))} are one core): "
            "compute threads on one core slow each other down"
        )
        yield Fault(rule=Rule.SMT, part=f"{reading.source}: {describe_cpus(extra)}", detail=detail)


def _nodes(reading: ResolvedSettings, topology: NumaTopology, _: Constraints) -> Iterator[Fault]:
    if reading.listed:
        for node, cpus in topology.by_node(reading.cpus).items():
            if not topology.node(node).has_memory:
                detail = f"node {node} has no memory: all their reads are remote"
                yield Fault(rule=Rule.MEMORYLESS, part=f"{reading.source}: {describe_cpus(cpus)}", detail=detail)
    for node in reading.mems or ():
        if topology.has_node(node) and not topology.node(node).cpus:
            detail = "it has no online CPU, so its memory is remote to every thread"
            yield Fault(rule=Rule.CPULESS, part=f"{CPUSET_MEMS}: node {node}", detail=detail)
        elif topology.has_node(node) and not topology.node(node).has_memory:
            yield Fault(rule=Rule.MEMORYLESS, part=f"{CPUSET_MEMS}: node {node}", detail="it has no memory")


def _overlap(reading: ResolvedSettings, _: NumaTopology, constraints: Constraints) -> Iterator[Fault]:
    for key, cpus in reading.named.items():
        for owner, kept in constraints.taken.items():
            if shared := tuple(sorted(set(cpus) & set(kept))):
                yield Fault(rule=Rule.OVERLAP, part=f"{key}: {describe_cpus(shared)}", detail=f"reserved for {owner}")
    seen: dict[int, int] = {}
    for rank, group in enumerate(reading.groups):
        if shared := tuple(cpu for cpu in group if cpu in seen):
            detail = f"in the groups of ranks {seen[shared[0]]} and {rank}; a CPU can serve one rank"
            yield Fault(rule=Rule.OVERLAP, part=f"{reading.source}: {describe_cpus(shared)}", detail=detail)
        seen |= {cpu: rank for cpu in group if cpu not in seen}


def _cpuset(reading: ResolvedSettings, topology: NumaTopology, constraints: Constraints) -> Iterator[Fault]:
    group = "its cgroup"
    if constraints.allowed_nodes is not None and (outside := set(reading.mems or ()) - set(constraints.allowed_nodes)):
        detail = f"{group} allows only nodes {format_cpulist(constraints.allowed_nodes)}"
        yield Fault(rule=Rule.CPUSET, part=f"{CPUSET_MEMS}: nodes {format_cpulist(outside)}", detail=detail)
    for key, cpus in reading.named.items():
        limits = {CPUSET_CPUS: reading.cpuset if key != CPUSET_CPUS else None, group: constraints.allowed_cpus}
        for limit, allowed in limits.items():
            if allowed is not None and (outside := set(cpus) - set(allowed)):
                detail = f"{limit} allows only {format_cpulist(allowed)}: binding a thread to others fails"
                yield Fault(rule=Rule.CPUSET, part=f"{key}: {describe_cpus(outside)}", detail=detail)
        for limit, nodes in {CPUSET_MEMS: reading.mems, group: constraints.allowed_nodes}.items():
            for node, on_node in topology.by_node(cpus).items():
                if nodes is not None and node not in nodes:
                    detail = f"on node {node}, but {limit} allows memory only from nodes {format_cpulist(nodes)}"
                    yield Fault(rule=Rule.CPUSET, part=f"{key}: {describe_cpus(on_node)}", detail=detail)


def _values(reading: ResolvedSettings, _: NumaTopology, __: Constraints) -> Iterator[Fault]:
    if reading.settings.dialect is not Dialect.PATCHED:
        return
    env = reading.settings.env
    if NRC in env and env[NRC] not in _NRC_VALUES:
        yield Fault(
            rule=Rule.NRC, part=f"{NRC}={env[NRC]}", detail="the kernels tile by 2 or 4; any other value means 2"
        )
    if QUANTIZE in env and env[QUANTIZE] not in _QUANTIZE_VALUES:
        detail = "q8_0 and q4_0 are supported; any other value leaves the weights unchanged"
        yield Fault(rule=Rule.QUANTIZE, part=f"{QUANTIZE}={env[QUANTIZE]}", detail=detail)
    if env.get(FUSED) != "fused":
        detail = f"without {FUSED}=fused neither {AFFINITY} nor {THREADS} has any effect"
        yield Fault(rule=Rule.FUSED, part=f"{FUSED}={env[FUSED]}" if FUSED in env else FUSED, detail=detail)


def _memory(reading: ResolvedSettings, topology: NumaTopology, constraints: Constraints) -> Iterator[Fault]:
    if not (reading.listed or reading.auto):
        return
    need = _need_by_node(reading, topology, constraints)
    for node, needed in need.items():
        has = topology.node(node).memory_bytes
        if has and needed > has:
            detail = (
                f"weights and KV cache need {needed / _GIB:.1f} GiB of its memory, but it has {has / _GIB:.1f} GiB: "
                "the kernel would kill the instance; use more nodes or ranks, or smaller weights"
            )
            yield Fault(rule=Rule.MEMORY, part=f"node {node}", detail=detail)


def _need_by_node(reading: ResolvedSettings, topology: NumaTopology, constraints: Constraints) -> dict[int, int]:
    """Bytes that each node must hold: a rank uses one node, a single process spreads over all its nodes."""
    need: dict[int, int] = {}
    share = constraints.bytes_per_rank(max(1, len(reading.groups)))
    for group in reading.groups:
        nodes = list(topology.by_node(group))
        for node in nodes:
            need[node] = need.get(node, 0) + share // len(nodes)
    return need


def _ranks(reading: ResolvedSettings, topology: NumaTopology, _: Constraints) -> Iterator[Fault]:
    ranks, groups = reading.settings.ranks, reading.groups
    if reading.auto:
        if ranks > len(reading.memory_nodes):
            detail = f"vLLM wants a node with memory for each of {ranks} ranks; it sees {len(reading.memory_nodes)}"
            yield Fault(rule=Rule.RANKS, part=f"{OMP_BIND}=auto", detail=detail)
        for rank, node in enumerate(reading.memory_nodes[:ranks]):
            if not groups[rank]:
                detail = f"rank {rank} runs on node {node}, where it has no CPUs"
                yield Fault(rule=Rule.CPULESS, part=f"{OMP_BIND}=auto", detail=detail)
    elif reading.settings.dialect is Dialect.STOCK and reading.listed:
        if len(groups) != ranks:
            detail = f"{len(groups)} groups of CPUs for {ranks} ranks; vLLM needs one per rank, separated by `|`"
            yield Fault(rule=Rule.RANKS, part=f"{OMP_BIND}={reading.settings.env[OMP_BIND]}", detail=detail)
        for rank, group in enumerate(groups):
            if len(nodes := topology.by_node(group)) > 1:
                detail = f"rank {rank} spans nodes {format_cpulist(nodes)}, but all its memory is on one"
                yield Fault(rule=Rule.RANK_NODE, part=f"{OMP_BIND}: {describe_cpus(group)}", detail=detail)


def _no_effect(reading: ResolvedSettings, _: NumaTopology, __: Constraints) -> Iterator[Fault]:
    env, dialect = reading.settings.env, reading.settings.dialect
    ignored: Mapping[str, str] = {}
    if dialect is Dialect.PATCHED:
        ignored = dict.fromkeys((OMP_BIND, RESERVED), f"the sysHAX images use {AFFINITY}")
    elif dialect is Dialect.STOCK:
        bound = reading.listed or reading.auto
        ignored = {THREADS: f"vLLM uses it only with {OMP_BIND}=nobind"} if bound else {}
        free = len(set(reading.cpuset or ()) - set(reading.cpus))
        if not reading.auto and reading.reserved not in (None, free):
            ignored = dict(ignored) | {RESERVED: f"vLLM uses it only with {OMP_BIND}=auto"}
    for key, reason in ignored.items():
        if key in env:
            yield Fault(rule=Rule.NO_EFFECT, part=f"{key}={env[key]}", detail=reason, blocking=False)


def _node_order(reading: ResolvedSettings, topology: NumaTopology, _: Constraints) -> Iterator[Fault]:
    if reading.settings.dialect is not Dialect.PATCHED or not (reading.listed and reading.cpus):
        return
    by_node = topology.by_node(reading.cpus)
    with_memory = [node.id for node in topology.nodes if node.has_memory]
    if unused := [node for node in with_memory if node not in by_node]:
        detail = (
            f"nothing runs on nodes {format_cpulist(unused)}, but the fused kernels place weights on every node: "
            "that share is read remotely"
        )
        yield Fault(rule=Rule.NODE_ORDER, part=AFFINITY, detail=detail, blocking=False)
    dealt = [cpu for cpus in by_node.values() for cpu in cpus]
    if dealt != sorted(dealt):
        detail = (
            "CPU numbers alternate between nodes, but the fused kernels assign them node by node in ascending order"
        )
        yield Fault(rule=Rule.NODE_ORDER, part=AFFINITY, detail=detail, blocking=False)


def _gpu_node(reading: ResolvedSettings, topology: NumaTopology, constraints: Constraints) -> Iterator[Fault]:
    if reading.settings.dialect is not Dialect.PLAIN or not reading.cpuset or not constraints.gpu_nodes:
        return
    if not topology.by_node(reading.cpuset).keys() & set(constraints.gpu_nodes):
        near = [cpu for node in constraints.gpu_nodes if topology.has_node(node) for cpu in topology.node(node).cpus]
        detail = f"none is near the instance's GPUs, which are on node {format_cpulist(constraints.gpu_nodes)}"
        detail += f" with {describe_cpus(near)}" if near else ""
        yield Fault(rule=Rule.GPU_NODE, part=CPUSET_CPUS, detail=detail, blocking=False)


_RULES: tuple[Callable[[ResolvedSettings, NumaTopology, Constraints], Iterator[Fault]], ...] = (
    _syntax,
    _existence,
    _threads,
    _balance,
    _siblings,
    _nodes,
    _overlap,
    _cpuset,
    _values,
    _memory,
    _ranks,
    _no_effect,
    _node_order,
    _gpu_node,
)
