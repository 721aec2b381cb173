# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Resolves settings as written to what they mean on a host, as far as they can be parsed."""

from dataclasses import dataclass

from syshaxd.core.numa.binding import (
    AFFINITY,
    KV_SPACE,
    OMP_BIND,
    RESERVED,
    THREADS,
    Binding,
    BindingSettings,
    Constraints,
    Dialect,
)
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.numa.model import NumaTopology

Cpus = tuple[int, ...]
CPUSET_CPUS, CPUSET_MEMS = "cpuset_cpus", "cpuset_mems"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A part of the settings that can't be parsed."""

    key: str
    """Variable, or `cpuset_cpus`, `cpuset_mems`."""
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSettings:
    """What settings mean on a host. Unparsable parts count as not set, and are listed."""

    settings: BindingSettings
    groups: tuple[Cpus, ...]
    """CPUs of each rank's compute threads, whether they exist or not. Empty groups are kept."""
    listed: bool
    """The settings name the CPUs of the compute threads explicitly."""
    auto: bool
    """vLLM chooses the CPUs itself."""
    memory_nodes: Cpus
    """Nodes with memory that are visible to the instance, ascending."""
    threads: int | None
    """OMP_NUM_THREADS."""
    reserved: int | None
    """VLLM_CPU_NUM_OF_RESERVED_CPU."""
    cpuset: Cpus | None
    mems: Cpus | None
    unreadable: tuple[Unreadable, ...]

    @property
    def source(self) -> str:
        """The key that sets the compute threads' CPUs."""
        if self.settings.dialect is Dialect.PLAIN or not (self.listed or self.auto):
            return CPUSET_CPUS
        return AFFINITY if self.settings.dialect is Dialect.PATCHED else OMP_BIND

    @property
    def cpus(self) -> Cpus:
        """All CPUs of compute threads, ascending, each once."""
        return tuple(sorted({cpu for group in self.groups for cpu in group}))

    @property
    def named(self) -> dict[str, Cpus]:
        """Every CPU that the settings name, by key; each CPU under one key."""
        named = {self.source: self.cpus} if self.listed or self.auto else {}
        if others := tuple(cpu for cpu in self.cpuset or () if cpu not in named.get(self.source, ())):
            named[CPUSET_CPUS] = others
        return named


class _Reader:
    """Parses keys one by one and collects those that it can't parse."""

    def __init__(self, settings: BindingSettings) -> None:
        self._settings = settings
        self.unreadable: list[Unreadable] = []

    def cpulist(self, key: str, text: str, *, steps: bool = False) -> Cpus | None:
        """CPUs (or nodes) of a list; None if the text is empty or can't be parsed."""
        if not text:
            return None
        try:
            if ":" in text and not steps:
                raise ValueError(f"{text!r} has a step, which only {AFFINITY} supports: list the CPUs")
            return parse_cpulist(text)
        except ValueError as error:
            self.unreadable.append(Unreadable(key, str(error)))
            return None

    def number(self, key: str) -> int | None:
        """A variable's number; None if it is not set or can't be parsed."""
        text = self._settings.env.get(key, "")
        if not text:
            return None
        if not (text.isascii() and text.isdecimal()):
            self.unreadable.append(Unreadable(key, f"{text!r} is not a number"))
            return None
        return int(text)


def read_settings(
    settings: BindingSettings, topology: NumaTopology, constraints: Constraints | None = None
) -> ResolvedSettings:
    """Returns what settings mean on a host. Never fails: parts that can't be parsed are listed in the result."""
    reader = _Reader(settings)
    cpuset = reader.cpulist(CPUSET_CPUS, settings.cpuset_cpus)
    mems = reader.cpulist(CPUSET_MEMS, settings.cpuset_mems)
    threads, reserved = reader.number(THREADS), reader.number(RESERVED)
    reader.number(KV_SPACE)
    constraints = constraints or Constraints()
    confined = next(cpus for cpus in (cpuset, constraints.allowed_cpus, topology.online) if cpus is not None)
    visible = mems if mems is not None else constraints.allowed_nodes
    with_memory = (node.id for node in topology.nodes if node.has_memory)
    memory_nodes = tuple(node for node in with_memory if visible is None or node in visible)
    groups: tuple[Cpus, ...] = (confined,)
    listed = auto = False
    if settings.dialect is Dialect.PLAIN:
        groups = () if cpuset is None else (cpuset,)
    elif settings.dialect is Dialect.PATCHED:
        if listed := bool(settings.env.get(AFFINITY)):
            groups = (reader.cpulist(AFFINITY, settings.env[AFFINITY], steps=True) or (),)
    else:
        text = settings.env.get(OMP_BIND) or "auto"
        if auto := text == "auto":
            groups = _auto_groups(settings.ranks, topology, confined, memory_nodes, reserved)
        elif listed := text != "nobind":
            groups = tuple(_group(reader, part) for part in text.split("|"))
    return ResolvedSettings(
        settings=settings,
        groups=groups,
        listed=listed,
        auto=auto,
        memory_nodes=memory_nodes,
        threads=threads,
        reserved=reserved,
        cpuset=cpuset,
        mems=mems,
        unreadable=tuple(reader.unreadable),
    )


def _group(reader: _Reader, part: str) -> Cpus:
    if not part:
        reader.unreadable.append(Unreadable(OMP_BIND, "a rank's group is empty: write CPUs between the `|`"))
        return ()
    return reader.cpulist(OMP_BIND, part) or ()


def _auto_groups(
    ranks: int, topology: NumaTopology, confined: Cpus, nodes: Cpus, reserved: int | None
) -> tuple[Cpus, ...]:
    """The `auto` binding of vLLM: rank i gets the i-th node with memory, one CPU per core, less some for other threads.

    The number left free depends on version and processor; assumed one per rank without VLLM_CPU_NUM_OF_RESERVED_CPU.
    """
    by_node = topology.by_node(confined)
    groups: list[Cpus] = []
    for rank in range(ranks):
        cpus = by_node.get(nodes[rank], ()) if rank < len(nodes) else ()
        cores = {topology.core_of(cpu): cpu for cpu in cpus}
        chosen = sorted(cores.values())
        left_free = 1 if reserved is None else (reserved + rank) // ranks
        groups.append(tuple(chosen[: len(chosen) - left_free]) if len(chosen) > left_free else tuple(chosen))
    return tuple(groups)


def binding_of(reading: ResolvedSettings, topology: NumaTopology) -> Binding:
    """The binding that settings without blocking faults describe, for verifying a running instance.

    Choices left to vLLM are not part of it: with `auto`, versions choose different CPUs.
    """
    is_plain = reading.settings.dialect is Dialect.PLAIN
    on_nodes = topology.by_node(reading.cpus if reading.listed else reading.cpuset or ())
    near = tuple(node for node in on_nodes if topology.node(node).has_memory)
    # The images' kernels place weights on every node that the container allows.
    return Binding(
        dialect=reading.settings.dialect,
        groups=reading.groups if reading.listed or is_plain else (),
        cpuset=reading.cpuset or (),
        memory_nodes=reading.mems or (() if reading.settings.dialect is Dialect.PATCHED else near),
    )
