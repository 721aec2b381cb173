# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A host's topology: nodes, cores, caches, sockets, accelerators."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

from syshaxd.core.errors import TopologyError
from syshaxd.core.numa.cpulist import describe_cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One NUMA node: CPUs and their local memory. Either may be missing."""

    id: int
    cpus: tuple[int, ...] = ()
    """Online CPUs, ascending; empty: a memory-only node."""
    memory_bytes: int | None = None
    """0: no memory; None: unknown."""
    distances: tuple[int, ...] = ()
    """Distances to every node, in their order; 10 is the node itself. Empty: unknown."""

    @property
    def has_memory(self) -> bool:
        """Whether the node has memory; assumed if unknown."""
        return self.memory_bytes != 0


class AcceleratorKind(StrEnum):
    """Kinds of accelerators. The exported names never change."""

    GPU = "gpu"
    NPU = "npu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A GPU or NPU on the PCI bus."""

    kind: AcceleratorKind
    address: str
    """PCI address, such as `0000:17:00.0`."""
    vendor: str
    node: int | None
    """The nearest node; None if the firmware does not report it."""


@dataclass(frozen=True, kw_only=True)
class NumaTopology:
    """A whole host. Always consistent: each online CPU is on one node and in one core."""

    nodes: tuple[Node, ...]
    """Ascending by id; ids may have gaps."""
    cores: tuple[tuple[int, ...], ...]
    """Online CPUs grouped by core; each group ascending."""
    sockets: tuple[tuple[int, ...], ...] = ()
    offline: tuple[int, ...] = ()
    """CPUs that exist but are offline."""
    accelerators: tuple[Accelerator, ...] = ()

    def __post_init__(self) -> None:
        ids = [node.id for node in self.nodes]
        if not ids or ids != sorted(set(ids)):
            raise TopologyError(f"a host has one or more nodes in ascending order, but these are {ids}")
        on_nodes = sorted(cpu for node in self.nodes for cpu in node.cpus)
        if not on_nodes:
            raise TopologyError("no node has an online CPU")
        _refuse_twice("node", on_nodes)
        in_cores = sorted(cpu for core in self.cores for cpu in core)
        _refuse_twice("core", in_cores)
        if odd := set(on_nodes) ^ set(in_cores):
            raise TopologyError(f"{describe_cpus(odd)}: on a node but in no core, or in a core but on no node")
        if both := set(on_nodes) & set(self.offline):
            raise TopologyError(f"{describe_cpus(both)}: said to be both online and offline")
        for node in self.nodes:
            if len(node.distances) not in (0, len(ids)):
                raise TopologyError(
                    f"node {node.id} has {len(node.distances)} distances, but there are {len(ids)} nodes"
                )

    @cached_property
    def online(self) -> tuple[int, ...]:
        """Online CPUs, ascending."""
        return tuple(sorted(self._node_ids))

    @cached_property
    def _by_id(self) -> dict[int, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {node.id: position for position, node in enumerate(self.nodes)}

    @cached_property
    def _node_ids(self) -> dict[int, int]:
        return {cpu: node.id for node in self.nodes for cpu in node.cpus}

    @cached_property
    def _cores(self) -> dict[int, tuple[int, ...]]:
        return {cpu: core for core in self.cores for cpu in core}

    def node(self, node_id: int) -> Node:
        """The node with this id; `KeyError` if there is none."""
        return self._by_id[node_id]

    def has_node(self, node_id: int) -> bool:
        """Whether there is a node with this id."""
        return node_id in self._by_id

    def node_of(self, cpu: int) -> int:
        """Id of the node of an online CPU; `KeyError` for any other."""
        return self._node_ids[cpu]

    def core_of(self, cpu: int) -> tuple[int, ...]:
        """The hardware threads of an online CPU's core, itself included; `KeyError` for any other."""
        return self._cores[cpu]

    def by_node(self, cpus: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """Those of `cpus` that are online, by their node; nodes and CPUs ascending."""
        found: dict[int, list[int]] = {}
        for cpu in sorted(set(cpus) & self._node_ids.keys()):
            found.setdefault(self._node_ids[cpu], []).append(cpu)
        return {node: tuple(found[node]) for node in sorted(found)}

    def distance(self, start: int, end: int) -> int:
        """The firmware's distance between two nodes; if unknown, 10 for the same node and 20 for others."""
        distances = self._by_id[start].distances
        if distances:
            return distances[self._positions[end]]
        return 10 if start == end else 20


def _refuse_twice(kind: str, cpus: list[int]) -> None:
    if twice := {cpu for cpu, following in pairwise(cpus) if cpu == following}:
        raise TopologyError(f"{describe_cpus(twice)}: in more than one {kind}")
