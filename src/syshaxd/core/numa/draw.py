# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Draws a topology as text: nodes, owners of cores, and distances."""

from collections.abc import Mapping, Sequence
from string import ascii_lowercase, digits

from syshaxd.core.numa.cpulist import describe_cpus, format_cpulist
from syshaxd.core.numa.model import Accelerator, Node, NumaTopology

_GIB = 2**30
_FREE, _ROW_CPUS, _GAP_CPUS = ".", 40, 8
_MARKS = ascii_lowercase + ascii_lowercase.upper() + digits


def draw_topology(
    topology: NumaTopology,
    owners: Mapping[str, Sequence[int]] | None = None,
    gpu_owners: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, ...]:
    """Returns the lines of a drawing, none longer than 80 characters unless lists of CPUs or owners are.

    Args:
        topology: The host.
        owners: CPUs by owner. Each CPU is drawn as its owner's letter, `.` if it is free. Owners of the same CPUs have
            one letter.
        gpu_owners: PCI addresses of GPUs by owner; each GPU is drawn with its owners.
    """
    drawn = device_owners(gpu_owners or {})
    together = _together(owners or {})
    marks = _marks(together)
    letters = {cpu: marks[owner] for owner, cpus in together.items() for cpu in cpus}
    lines = [_headline(topology)]
    sockets = [(index, set(cpus)) for index, cpus in enumerate(topology.sockets)]
    last = None
    for node in topology.nodes:
        homes = [index for index, cpus in sockets if cpus.intersection(node.cpus)]
        if homes and homes != last:
            lines.append(f"socket {format_cpulist(homes)}")
        last = homes or last
        lines += ["  " + line for line in _node(node, topology, letters, drawn)]
    if topology.offline:
        lines.append(f"offline: {describe_cpus(topology.offline)}")
    unplaced = [_device(device, drawn) for device in topology.accelerators if device.node is None]
    if unplaced:
        lines.append(f"no known node: {', '.join(unplaced)}")
    if marks:
        lines.append("  ".join(f"{mark} {owner}" for owner, mark in marks.items()) + f"  {_FREE} free")
    return (*lines, *_distances(topology))


def device_owners(gpu_owners: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Owners of each GPU, by its PCI address."""
    found: dict[str, list[str]] = {}
    for owner, addresses in gpu_owners.items():
        for address in addresses:
            found.setdefault(address, []).append(owner)
    return found


def _device(device: Accelerator, drawn: Mapping[str, Sequence[str]]) -> str:
    owners = f" ({', '.join(drawn[device.address])})" if device.address in drawn else ""
    return f"{device.vendor} {device.kind.upper()} {device.address}{owners}"


def _together(owners: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Owners of the same CPUs as one owner."""
    names: dict[tuple[int, ...], list[str]] = {}
    for owner, cpus in owners.items():
        names.setdefault(tuple(sorted(cpus)), []).append(owner)
    return {", ".join(those): cpus for cpus, those in names.items()}


def _marks(owners: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """A letter for each owner, if possible from its name."""
    marks: dict[str, str] = {}
    for owner in owners:
        wishes = [character for character in owner.lower() if character in ascii_lowercase]
        marks[owner] = next((mark for mark in [*wishes, *_MARKS] if mark not in marks.values()), "*")
    return marks


def _headline(topology: NumaTopology) -> str:
    def count(number: int, noun: str) -> str:
        return f"{number} {noun}{'' if number == 1 else 's'}"

    cores, threads = len(topology.cores), max(map(len, topology.cores))
    parts = [count(len(topology.online), "CPU"), count(cores, "core"), count(len(topology.nodes), "NUMA node")]
    if topology.sockets:
        parts.append(count(len(topology.sockets), "socket"))
    return ", ".join([*parts, f"{threads} hardware threads per core" if threads > 1 else "no SMT"])


def _node(
    node: Node, topology: NumaTopology, letters: Mapping[int, str], drawn: Mapping[str, Sequence[str]]
) -> list[str]:
    sizes = {None: "memory unknown", 0: "no memory"}
    memory = sizes.get(node.memory_bytes) or f"{(node.memory_bytes or 0) / _GIB:.1f} GiB"
    cpus = describe_cpus(node.cpus) if node.cpus else "no CPUs"
    lines = [f"node {node.id}: {cpus}, {memory}"]
    for start in range(0, len(node.cpus), _ROW_CPUS):
        row = [letters.get(cpu, _FREE) for cpu in node.cpus[start : start + _ROW_CPUS]]
        groups = ("".join(row[i : i + _GAP_CPUS]) for i in range(0, len(row), _GAP_CPUS))
        lines.append(f"  {node.cpus[start]:>4} {' '.join(groups)}")
    return lines + [f"  {_device(device, drawn)}" for device in topology.accelerators if device.node == node.id]


def _distances(topology: NumaTopology) -> list[str]:
    if len(topology.nodes) == 1 or not all(node.distances for node in topology.nodes):
        return []
    width = max(3, *(len(str(distance)) for node in topology.nodes for distance in node.distances))
    heads = " ".join(f"{node.id:>{width}}" for node in topology.nodes)
    table = {node.id: " ".join(f"{distance:>{width}}" for distance in node.distances) for node in topology.nodes}
    rows = (f"  {node:>{width}} {row}" for node, row in table.items())
    return ["distances between nodes", f"  {'':>{width}} {heads}", *rows]
