# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Parses a topology from the output of `lscpu`, `numactl -H`, or both, for other hosts."""

import json
import re
from dataclasses import replace

from syshaxd.core.errors import TopologyError
from syshaxd.core.numa.cpulist import describe_cpus, format_cpulist, parse_cpulist
from syshaxd.core.numa.model import Node, NumaTopology

_LSCPU_FIELD = re.compile(r"^\s*([A-Za-z][^:\n]*?)\s*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_LSCPU_NODE = re.compile(r"NUMA node(\d+) CPU\(s\)")
_NUMACTL_HEAD = re.compile(r"^\s*available: (\d+) nodes?\b", re.MULTILINE | re.ASCII)
_NUMACTL_CPUS = re.compile(r"^\s*node (\d+) cpus:([ \d]*)$", re.MULTILINE | re.ASCII)
_NUMACTL_SIZE = re.compile(r"^\s*node (\d+) size: (?:(\d+) MB|<not available>) *$", re.MULTILINE | re.ASCII)
_NUMACTL_ROW = re.compile(r"^ *(\d+): +([ \d]+)$", re.MULTILINE | re.ASCII)
_NUMACTL_DISTANCES = "node distances:"
_MIB = 2**20

Groups = tuple[tuple[int, ...], ...]


def parse_topology(text: str) -> NumaTopology:
    """Parses the output of `lscpu`, of `numactl -H`, or of both, concatenated.

    numactl lists distances and memory, lscpu lists cores and sockets; with both, only accelerators are missing.
    `lscpu -J -e` also lists which CPUs share a core, which is a guess from `lscpu` alone.

    Raises:
        TopologyError: It is neither, something is missing, or the two contradict each other.
    """
    text = text.replace("\r\n", "\n")
    has_numactl = _NUMACTL_HEAD.search(text) is not None
    if text.lstrip().startswith("{"):
        topology = parse_lscpu_json(text.lstrip())
    elif "On-line CPU(s) list" in text:
        topology = parse_lscpu(text)
    elif has_numactl:
        return parse_numactl(text)
    else:
        raise TopologyError("not the output of `LC_ALL=C lscpu` or `numactl -H`")
    if not has_numactl:
        return topology
    numactl = parse_numactl(text)
    if [(node.id, node.cpus) for node in numactl.nodes] != [(node.id, node.cpus) for node in topology.nodes]:
        raise TopologyError(
            "lscpu and numactl disagree about the nodes' CPUs: they must be from the same host and time"
        )
    return replace(topology, nodes=numactl.nodes)


def parse_lscpu(text: str) -> NumaTopology:
    """Returns the topology that `LC_ALL=C lscpu` printed. Memory and distances are not in it.

    Raises:
        TopologyError: A field is missing or invalid, or the cores can't be inferred.
    """
    fields = dict(_LSCPU_FIELD.findall(text))
    online = _cpus(fields, "On-line CPU(s) list")
    nodes = {
        int(match[1]): _cpus(fields, key, may_be_empty=True) for key in fields if (match := _LSCPU_NODE.fullmatch(key))
    } or {0: online}  # a kernel without NUMA
    if len(nodes) != (count := _number(fields, "NUMA node(s)", default=1)):
        raise TopologyError(f"lscpu counts {count} NUMA nodes, but lists {len(nodes)}")
    if stray := set(online) ^ {cpu for cpus in nodes.values() for cpu in cpus}:
        raise TopologyError(f"lscpu's nodes and its online CPUs disagree about {describe_cpus(stray)}")
    threads = _number(fields, "Thread(s) per core", default=1)
    offline = _cpus(fields, "Off-line CPU(s) list", may_be_empty=True) if "Off-line CPU(s) list" in fields else ()
    return NumaTopology(
        nodes=tuple(Node(id=node, cpus=nodes[node]) for node in sorted(nodes)),
        cores=tuple(core for node in sorted(nodes) for core in _cores(nodes[node], threads)),
        sockets=_sockets([nodes[node] for node in sorted(nodes)], _number(fields, "Socket(s)", default=1)),
        offline=offline,
    )


def parse_lscpu_json(text: str) -> NumaTopology:
    """Returns the topology that `lscpu -J -e` printed, whatever comes after it.

    Raises:
        TopologyError: It is not that output, or a field is missing or invalid.
    """
    nodes: dict[int, list[int]] = {}
    cores: dict[int, list[int]] = {}
    sockets: dict[int, list[int]] = {}
    offline: list[int] = []
    try:
        for its in json.JSONDecoder().raw_decode(text)[0]["cpus"]:
            cpu = int(its["cpu"])
            if its.get("online", True) in (False, "no"):
                offline.append(cpu)
                continue
            cores.setdefault(int(its["core"]), []).append(cpu)
            for groups, field in ((nodes, "node"), (sockets, "socket")):
                at = its.get(field)
                groups.setdefault(0 if at in (None, "-") else int(at), []).append(cpu)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TopologyError("this JSON is not the output of `lscpu -J -e` (cpu, node, socket, core)") from None
    return NumaTopology(
        nodes=tuple(Node(id=node, cpus=tuple(sorted(nodes[node]))) for node in sorted(nodes)),
        cores=tuple(tuple(sorted(cores[core])) for core in sorted(cores)),
        sockets=tuple(tuple(sorted(sockets[socket])) for socket in sorted(sockets)),
        offline=tuple(sorted(offline)),
    )


def _number(fields: dict[str, str], key: str, *, default: int) -> int:
    """A count of lscpu's; `-` or a missing field means unknown."""
    value = fields.get(key, "-")
    if value == "-":
        return default
    if not value.isdecimal() or int(value) < 1:
        raise TopologyError(f"lscpu's {key!r} is {value!r}, not a count")
    return int(value)


def _cpus(fields: dict[str, str], key: str, *, may_be_empty: bool = False) -> tuple[int, ...]:
    if key not in fields:
        raise TopologyError(f"lscpu's {key!r} is missing; print it with LC_ALL=C")
    if may_be_empty and not fields[key]:
        return ()
    try:
        return parse_cpulist(fields[key])
    except ValueError as error:
        raise TopologyError(f"lscpu's {key!r}: {error}") from None


def _cores(cpus: tuple[int, ...], threads: int) -> Groups:
    """Cores of one node. lscpu does not list siblings, but kernels number them in two ways.

    Either all first threads come before all second ones (`0-59,120-179`: 0 and 120 are a core), or siblings follow each
    other (`0-7`: 0 and 1 are).
    """
    if threads == 1:
        return tuple((cpu,) for cpu in cpus)
    runs = [parse_cpulist(run) for run in format_cpulist(cpus).split(",")] if cpus else []
    if len(runs) == threads and len({len(run) for run in runs}) == 1:
        return tuple(zip(*runs, strict=True))
    if all(len(run) % threads == 0 for run in runs):
        return tuple(run[i : i + threads] for run in runs for i in range(0, len(run), threads))
    raise TopologyError(
        f"lscpu does not show which of {describe_cpus(cpus)} share a core ({threads} threads per core): "
        "read the topology on the host itself"
    )


def _sockets(nodes: list[tuple[int, ...]], sockets: int) -> Groups:
    """CPUs by socket, if nodes and sockets divide evenly; otherwise empty."""
    with_cpus = [cpus for cpus in nodes if cpus]
    if len(with_cpus) % sockets:
        return ()
    share = len(with_cpus) // sockets
    return tuple(
        tuple(sorted(cpu for cpus in with_cpus[i : i + share] for cpu in cpus)) for i in range(0, len(with_cpus), share)
    )


def parse_numactl(text: str) -> NumaTopology:
    """Returns the topology that `numactl -H` printed. Cores are not in it: each CPU counts as one.

    Virtual machines often have no distances, and numactl then prints none.

    Raises:
        TopologyError: A node's CPUs, size or distances are missing.
    """
    head = _NUMACTL_HEAD.search(text)
    if head is None:
        raise TopologyError("`available: N nodes` is missing: this is not the output of `numactl -H`")
    cpus = {int(node): tuple(sorted(map(int, listed.split()))) for node, listed in _NUMACTL_CPUS.findall(text)}
    sizes = {int(node): int(size) * _MIB if size else None for node, size in _NUMACTL_SIZE.findall(text)}
    start = text.find(_NUMACTL_DISTANCES)
    rows = _NUMACTL_ROW.findall(text, start) if start >= 0 else []
    distances: dict[int, tuple[int, ...]] = dict.fromkeys(cpus, ()) if start < 0 else {}
    distances |= {int(node): tuple(map(int, row.split())) for node, row in rows}
    nodes = cpus.keys()
    if len(nodes) != int(head[1]) or not nodes == sizes.keys() == distances.keys():
        raise TopologyError(
            f"numactl counts {head[1]} nodes, but there are CPUs of {len(cpus)}, sizes of {len(sizes)} "
            f"and distances of {len(distances)}: is the text complete?"
        )
    return NumaTopology(
        nodes=tuple(
            Node(id=node, cpus=cpus[node], memory_bytes=sizes[node], distances=distances[node]) for node in sorted(cpus)
        ),
        cores=tuple((cpu,) for node in sorted(cpus) for cpu in cpus[node]),
    )
