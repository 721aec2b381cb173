# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Hosts for tests: the server of sysHAX's own documentation, and any other up to 1,024 CPUs and 32 nodes."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from syshaxd.core.numa import Accelerator, AcceleratorKind, Node, NumaTopology, parse_lscpu

GIB = 2**30

KUNPENG_LSCPU = """\
Architecture:             aarch64
  CPU op-mode(s):         64-bit
  Byte Order:             Little Endian
CPU(s):                   160
  On-line CPU(s) list:    0-159
Vendor ID:                HiSilicon
  BIOS Vendor ID:         HiSilicon
  Model name:             -
    Model:                0
    Thread(s) per core:   1
    Core(s) per socket:   80
    Socket(s):            2
NUMA:
  NUMA node(s):           4
  NUMA node0 CPU(s):      0-39
  NUMA node1 CPU(s):      40-79
  NUMA node2 CPU(s):      80-119
  NUMA node3 CPU(s):      120-159
"""
KUNPENG = parse_lscpu(KUNPENG_LSCPU)

on_any_host = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
"""For properties of hosts of any size: a thousand CPUs on a busy machine take their time, and few hosts are odd."""

SIZES = (None, GIB, 8 * GIB, 64 * GIB)


@st.composite
def topologies(draw: st.DrawFn, *, max_cpus: int = 1024, odd: bool = True) -> NumaTopology:
    """Hosts numbered in one of the ways that firmware does.

    With `odd` some nodes have no CPUs or no memory, some CPUs are offline, and node ids have gaps.
    """
    nodes = draw(st.integers(1, 32))
    threads = draw(st.sampled_from((1, 1, 2, 4)))
    cores = draw(st.integers(1, max(1, min(40, max_cpus // nodes // threads))))
    numbering = draw(st.sampled_from((_threads_together, _threads_apart, _nodes_in_turns)))
    ids = sorted(draw(st.sets(st.integers(0, 40), min_size=nodes, max_size=nodes))) if odd else list(range(nodes))
    all_cores = {
        node: [tuple(sorted(numbering(index, core, threads, cores, nodes))) for core in range(cores)]
        for index, node in enumerate(ids)
    }
    cpuless = draw(st.sets(st.sampled_from(ids), max_size=nodes - 1)) if odd and draw(st.booleans()) else set()
    memoryless = draw(st.sets(st.sampled_from(ids), max_size=2)) if odd and draw(st.booleans()) else set()
    everything = [cpu for node in ids if node not in cpuless for core in all_cores[node] for cpu in core]
    offline = draw(st.sets(st.sampled_from(everything), max_size=len(everything) - 1)) if odd else set()
    online_cores = {
        node: [on for core in all_cores[node] if (on := tuple(cpu for cpu in core if cpu not in offline))]
        for node in ids
        if node not in cpuless
    }
    far = draw(st.integers(11, 40))
    return NumaTopology(
        nodes=tuple(
            Node(
                id=node,
                cpus=tuple(sorted(cpu for core in online_cores.get(node, []) for cpu in core)),
                memory_bytes=0 if node in memoryless else draw(st.sampled_from(SIZES)),
                distances=tuple(10 if node == other else far + abs(node - other) // 2 for other in ids),
            )
            for node in ids
        ),
        cores=tuple(core for node in online_cores for core in online_cores[node]),
        offline=tuple(sorted(offline)),
        accelerators=tuple(
            Accelerator(kind=AcceleratorKind.GPU, address=f"0000:{index:02x}:00.0", vendor="NVIDIA", node=node)
            for index, node in enumerate(draw(st.lists(st.sampled_from([None, *ids]), max_size=3)))
        ),
    )


def _threads_together(node: int, core: int, threads: int, cores: int, _: int) -> list[int]:
    first = (node * cores + core) * threads
    return list(range(first, first + threads))


def _threads_apart(node: int, core: int, threads: int, cores: int, nodes: int) -> list[int]:
    return [thread * cores * nodes + node * cores + core for thread in range(threads)]


def _nodes_in_turns(node: int, core: int, threads: int, cores: int, nodes: int) -> list[int]:
    return [(thread * cores + core) * nodes + node for thread in range(threads)]
