# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Topologies from what lscpu and numactl print."""

from dataclasses import replace

import pytest
from hypothesis import assume, given

from syshaxd.core.errors import TopologyError
from syshaxd.core.numa import Node, NumaTopology, parse_lscpu, parse_numactl, parse_topology
from syshaxd.core.numa.cpulist import format_cpulist
from tests.core.topologies import KUNPENG, KUNPENG_LSCPU, on_any_host, topologies

MIB = 2**20

NUMACTL = """\
available: 2 nodes (0,3)
node 0 cpus: 0 1 4 5
node 0 size: 64078 MB
node 0 free: 60001 MB
node 3 cpus: 2 3 6 7
node 3 size: 0 MB
node 3 free: 0 MB
node distances:
node   0   3
  0:  10  21
  3:  21  10
"""
LSCPU = """\
Architecture:                    x86_64
CPU(s):                          8
On-line CPU(s) list:             0-7
Thread(s) per core:              2
Core(s) per socket:              2
Socket(s):                       2
NUMA node(s):                    2
NUMA node0 CPU(s):               0,1,4,5
NUMA node3 CPU(s):               2,3,6,7
Vulnerability Spectre v2:        Mitigation; Retpolines; STIBP disabled: always-on
"""


def test_lscpu_of_the_documented_server() -> None:
    assert KUNPENG.online == tuple(range(160))
    assert [node.cpus for node in KUNPENG.nodes] == [tuple(range(first, first + 40)) for first in range(0, 160, 40)]
    assert [node.memory_bytes for node in KUNPENG.nodes] == [None] * 4
    assert KUNPENG.sockets == (tuple(range(80)), tuple(range(80, 160)))
    assert {len(core) for core in KUNPENG.cores} == {1}


def test_numactl_tells_memory_and_distances() -> None:
    topology = parse_numactl(NUMACTL)
    assert topology.nodes == (
        Node(id=0, cpus=(0, 1, 4, 5), memory_bytes=64078 * MIB, distances=(10, 21)),
        Node(id=3, cpus=(2, 3, 6, 7), memory_bytes=0, distances=(21, 10)),
    )
    assert topology.distance(0, 3) == 21


def test_both_texts_together_miss_neither_cores_nor_memory() -> None:
    topology = parse_topology(LSCPU + NUMACTL)
    assert topology.nodes == parse_numactl(NUMACTL).nodes
    assert topology.cores == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert topology.sockets == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert parse_topology(LSCPU) == parse_lscpu(LSCPU)
    assert parse_topology(NUMACTL) == parse_numactl(NUMACTL)


@pytest.mark.parametrize(
    ("nodes", "cores"),
    [
        ({0: "0-7"}, ((0, 1), (2, 3), (4, 5), (6, 7))),
        ({0: "0-3", 1: "4-7"}, ((0, 1), (2, 3), (4, 5), (6, 7))),
        ({0: "0-1,4-5", 1: "2-3,6-7"}, ((0, 4), (1, 5), (2, 6), (3, 7))),
    ],
)
def test_siblings_are_told_from_how_kernels_number_them(
    nodes: dict[int, str], cores: tuple[tuple[int, int], ...]
) -> None:
    text = "On-line CPU(s) list: 0-7\nThread(s) per core: 2\n" + f"NUMA node(s): {len(nodes)}\n"
    text += "".join(f"NUMA node{node} CPU(s): {cpus}\n" for node, cpus in nodes.items())
    assert parse_lscpu(text).cores == cores


@pytest.mark.parametrize("ending", ["", "No distance information available.\n", "\n"])
def test_numactl_without_distances_as_in_virtual_machines(ending: str) -> None:
    topology = parse_topology(NUMACTL.split("node distances", maxsplit=1)[0] + ending)
    assert [node.distances for node in topology.nodes] == [(), ()]
    assert [node.memory_bytes for node in topology.nodes] == [64078 * MIB, 0]


def test_numactl_in_other_dress() -> None:
    one = "available: 1 node (0)\r\n node 0 cpus: 0 1 \r\n node 0 size: <not available>\r\n"
    (node,) = parse_topology(one).nodes
    assert (node.cpus, node.memory_bytes) == ((0, 1), None)


LSCPU_JSON = """\
{"cpus": [
  {"cpu": 0, "node": 0, "socket": 0, "core": 0, "l1d:l1i:l2:l3": "0:0:0:0", "online": true},
  {"cpu": 1, "node": 3, "socket": 1, "core": 1, "online": "yes"},
  {"cpu": "2", "node": "0", "socket": "0", "core": "0", "online": "yes"},
  {"cpu": 3, "node": null, "socket": null, "core": null, "online": false},
  {"cpu": 4, "node": "-", "socket": "-", "core": "-", "online": "no"}
]}
"""


def test_lscpu_as_json_tells_who_shares_a_core() -> None:
    topology = parse_topology(LSCPU_JSON)
    assert [(node.id, node.cpus) for node in topology.nodes] == [(0, (0, 2)), (3, (1,))]
    assert (topology.cores, topology.sockets, topology.offline) == (((0, 2), (1,)), ((0, 2), (1,)), (3, 4))
    numactl = NUMACTL.replace("0 1 4 5", "0 2").replace("2 3 6 7", "1")
    assert parse_topology(LSCPU_JSON + numactl).distance(0, 3) == 21


def test_a_kernel_without_numa_is_one_node() -> None:
    topology = parse_lscpu("On-line CPU(s) list: 0-3\nOff-line CPU(s) list: 4,5\nSocket(s): -\n")
    assert [node.cpus for node in topology.nodes] == [(0, 1, 2, 3)]
    assert topology.offline == (4, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not the output of `LC_ALL=C lscpu` or `numactl -H`"),
        ("No NUMA available on this system", "not the output"),
        (KUNPENG_LSCPU.replace("NUMA node3", "NUMA node2"), "counts 4 NUMA nodes, but lists 3"),
        (KUNPENG_LSCPU.replace("120-159", "120-158"), "disagree about CPU 159"),
        (KUNPENG_LSCPU.replace("list:    0-159", "list:    0-"), "'On-line CPU\\(s\\) list': '0-'"),
        (KUNPENG_LSCPU.replace("Socket(s):            2", "Socket(s):            two"), "'two', not a count"),
        (KUNPENG_LSCPU.replace("core:   1", "core:   3"), "does not show which of CPUs 0-39 share a core"),
        (NUMACTL.replace("node 3 size: 0 MB\n", ""), "is the text complete"),
        (NUMACTL.split("  0:", maxsplit=1)[0], "distances of 0"),
        (NUMACTL.replace("  3:  21  10\n", ""), "distances of 1"),
        ('{"lscpu": [{"field": "On-line CPU(s) list:", "data": "0"}]}', "not the output of `lscpu -J -e`"),
        ('{"cpus": [{"cpu": 0, "core": "x"}]}', "not the output of `lscpu -J -e`"),
        ('{"cpus": []}', "one or more nodes"),
        ("{" * 10_000, "not the output of `lscpu -J -e`"),
        ('{"cpus": ' + "[" * 100_000, "not the output of `lscpu -J -e`"),
        (NUMACTL.replace("10  21", "10"), "node 0 has 1 distances"),
        (LSCPU + NUMACTL.replace("0 1 4 5", "0 1 4"), "disagree about the nodes' CPUs"),
    ],
)
def test_bad_text_is_an_error_and_never_an_empty_host(text: str, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        parse_topology(text)


@on_any_host
@given(topologies())
def test_numactl_text_round_trips(topology: NumaTopology) -> None:
    nodes = tuple(replace(node, memory_bytes=node.memory_bytes or 0) for node in topology.nodes)
    ids = [node.id for node in nodes]
    lines = [f"available: {len(nodes)} nodes ({format_cpulist(ids)})"]
    for node in nodes:
        lines += [
            f"node {node.id} cpus:" + "".join(f" {cpu}" for cpu in node.cpus),
            f"node {node.id} size: {(node.memory_bytes or 0) // MIB} MB",
            f"node {node.id} free: 1 MB",
        ]
    lines += ["node distances:", "node " + " ".join(map(str, ids))]
    lines += [f"{node.id:3d}: " + "".join(f"{distance:4d}" for distance in node.distances) for node in nodes]
    assert parse_topology("\n".join(lines) + "\n").nodes == nodes


@on_any_host
@given(topologies(odd=False))
def test_lscpu_text_round_trips(topology: NumaTopology) -> None:
    has_smt = any(len(core) > 1 for core in topology.cores)
    text = (
        f"On-line CPU(s) list: {format_cpulist(topology.online)}\n"
        f"Thread(s) per core: {len(topology.cores[0])}\n"
        f"NUMA node(s): {len(topology.nodes)}\n"
    )
    text += "".join(f"NUMA node{node.id} CPU(s): {format_cpulist(node.cpus)}\n" for node in topology.nodes)
    try:
        again = parse_topology(text)
    except TopologyError:  # nodes numbered in turns, and SMT: lscpu does not tell which CPUs share a core
        assume(not has_smt)
        raise
    assert [(node.id, node.cpus) for node in again.nodes] == [(node.id, node.cpus) for node in topology.nodes]
    if not has_smt:
        assert again.cores == topology.cores
