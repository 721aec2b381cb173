# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Topologies, affinities and memory as kernels show them: copies of other hosts' files, and this very machine."""

import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from syshaxd.core.errors import ProcessGoneError, SyshaxError, TopologyError
from syshaxd.core.numa import (
    Dialect,
    Node,
    NumaTopology,
    Rule,
    Weights,
    check_binding,
    plan_binding,
    verify_binding,
)
from syshaxd.system import host

FIXTURES = Path(__file__).parents[1] / "core/data/numa"
X86, ARM, EDGES = "x86_64-8cpu-4node", "aarch64-8cpu-4node", "x86_64-6cpu-edge-nodes"
KIB = 1024


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The unpacked files of another host; the parameter is its name."""
    with tarfile.open(FIXTURES / f"{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("root", [X86, ARM], indirect=True)
def test_four_even_nodes(root: Path) -> None:
    topology = host.topology(root)
    assert [node.cpus for node in topology.nodes] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [node.distances for node in topology.nodes][1] == (12, 10, 26, 24)
    assert all(480_000 * KIB < (node.memory_bytes or 0) < 520_000 * KIB for node in topology.nodes)
    assert topology.cores == tuple((cpu,) for cpu in range(8))
    assert topology.offline == topology.accelerators == ()


@pytest.mark.parametrize("root", [ARM], indirect=True)
def test_sockets(root: Path) -> None:
    topology = host.topology(root)
    assert topology.sockets == ((0, 1, 2, 3), (4, 5, 6, 7))


@pytest.mark.parametrize("root", [EDGES], indirect=True)
def test_nodes_without_memory_or_cpus_and_a_cpu_that_is_off(root: Path) -> None:
    topology = host.topology(root)
    assert topology.offline == (5,)
    assert [(node.cpus, node.has_memory) for node in topology.nodes] == [
        ((0, 1), True),
        ((2, 3), True),
        ((4,), False),
        ((), True),
    ]
    assert plan_binding(topology, dialect=Dialect.PATCHED).cpus == (0, 1, 2, 3)


@pytest.mark.parametrize("root", [X86, ARM, EDGES], indirect=True)
@pytest.mark.parametrize("dialect", [Dialect.PATCHED, Dialect.STOCK])
def test_plans_on_other_hosts_pass_the_check(root: Path, dialect: Dialect) -> None:
    topology = host.topology(root)
    binding = plan_binding(topology, dialect=dialect, ranks=2 if dialect is Dialect.STOCK else 1)
    assert [fault for fault in check_binding(binding.settings(), topology) if fault.rule is not Rule.NODE_ORDER] == []


def test_a_kernel_without_numa_is_one_node(tmp_path: Path) -> None:
    assert host.topology(make_host(tmp_path)) == NumaTopology(
        nodes=(Node(id=0, cpus=(0, 1, 2, 3), memory_bytes=4096 * KIB, distances=(10,)),),
        cores=((0, 2), (1, 3)),
        sockets=((0, 1, 2, 3),),
    )


@pytest.mark.parametrize(
    ("pci_class", "vendor", "node", "expected"),
    [
        ("0x030200", "0x10de", "1", ("gpu", "NVIDIA", 1)),
        ("0x030000", "0x10de", "0", ("gpu", "NVIDIA", 0)),
        ("0x030200", "0x9999", "0", ("gpu", "0x9999", 0)),
        ("0x120000", "0x19e5", "0", ("npu", "Huawei", 0)),
        ("0x120000", "0x1002", "-1", ("gpu", "AMD", None)),
        ("0x030000", "0x1a03", "0", None),  # the console of a server
        ("0x020000", "0x10de", "0", None),  # a network card
    ],
)
def test_accelerators_are_told_by_their_pci_class(
    tmp_path: Path, pci_class: str, vendor: str, node: str, expected: tuple[str, str, int | None] | None
) -> None:
    root = make_host(tmp_path)
    write(root / "sys/bus/pci/devices/0000:17:00.0", {"class": pci_class, "vendor": vendor, "numa_node": node})
    found = [(device.kind, device.vendor, device.node) for device in host.topology(root).accelerators]
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("sys/devices/system/cpu/online", "", "cpu/online: '' in '' is not a CPU or range"),
        ("sys/devices/system/cpu/online", "0-x", "cpu/online: '0-x'"),
        ("sys/devices/system/cpu/present", None, "cpu/present is missing"),
        ("proc/meminfo", "MemFree: 4096 kB\n", "proc/meminfo has no line `MemTotal: N kB`"),
        ("proc/meminfo", None, "proc/meminfo is missing"),
        ("sys/devices/system/cpu/cpu3/topology/core_cpus_list", "", "cpu3/topology/core_cpus_list: ''"),
        ("sys/devices/system/cpu/cpu3/topology/core_cpus_list", None, "cpu3/topology/core_cpus_list is missing"),
        ("sys/devices/system/cpu/cpu0/topology/package_cpus_list", None, "cpu0/topology/package_cpus_list is missing"),
        ("sys/devices/system/cpu/cpu1/topology/core_cpus_list", "0-1", "CPUs 0-1: in more than one core"),
        ("sys/devices/system/node/online", "0-1", "node1/cpulist is missing"),
    ],
)
def test_a_file_that_is_odd_or_missing_is_named(tmp_path: Path, path: str, text: str | None, message: str) -> None:
    root = make_host(tmp_path)
    if "node" in path:
        write(root / "sys/devices/system/node/node0", {"cpulist": "0-3", "meminfo": MEMINFO, "distance": "10"})
    if text is None:
        (root / path).unlink()
    else:
        (root / path).write_text(text)
    with pytest.raises(TopologyError, match=message.replace("(", r"\(")):
        host.topology(root)


MEMINFO = "MemTotal:           4096 kB\nMemFree:             100 kB\n"


def make_host(root: Path) -> Path:
    """Four CPUs on two cores, and a kernel without NUMA."""
    write(root / "sys/devices/system/cpu", {"online": "0-3\n", "present": "0-3\n"})
    write(root / "proc", {"meminfo": MEMINFO})
    for cpu in range(4):
        files = {"core_cpus_list": f"{cpu % 2},{cpu % 2 + 2}\n", "package_cpus_list": "0-3\n"}
        write(root / f"sys/devices/system/cpu/cpu{cpu}/topology", files)
    return root


def make_process(
    root: Path, pid: int, *, parent: int = 1, threads: dict[int, str] | None = None, maps: str = ""
) -> None:
    def status(tid: int, cpus: str) -> str:
        return (
            f"Name:\tvllm worker\nState:\tS (sleeping)\nPid:\t{tid}\nPPid:\t{parent}\n"
            f"Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0-1\n"
        )

    folder = root / "proc" / str(pid)
    threads = threads or {pid: "0-3"}
    write(folder, {"status": status(pid, threads[pid]), "numa_maps": maps})
    for tid, cpus in threads.items():
        write(folder / "task" / str(tid), {"status": status(tid, cpus)})


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_tree_of_processes_with_threads_and_memory(tmp_path: Path) -> None:
    make_process(tmp_path, 10, threads={10: "0-3", 11: "1"})
    make_process(tmp_path, 30, parent=10, threads={30: "2-3"})
    make_process(tmp_path, 20, parent=30)
    make_process(tmp_path, 40)
    assert host.process_tree(10, tmp_path) == (10, 30, 20)
    placement = host.placement(10, tmp_path)
    assert [(thread.pid, thread.tid, thread.cpus) for thread in placement.threads] == [
        (10, 10, (0, 1, 2, 3)),
        (10, 11, (1,)),
        (30, 30, (2, 3)),
        (20, 20, (0, 1, 2, 3)),
    ]
    assert host.allowed(30, tmp_path) == host.Allowed(cpus=(2, 3), nodes=(0, 1))


def test_memory_by_node_without_that_of_files(tmp_path: Path) -> None:
    maps = (
        "00400000 default file=/usr/bin/python3.11 dirty=31 N3=31 kernelpagesize_kB=4\n"
        "15f8f000 bind:0 heap anon=1208 dirty=1208 active=0 N0=1200 N1=8 kernelpagesize_kB=4\n"
        "7fa9b7516000 default anon=2 dirty=2 N1=2 kernelpagesize_kB=2048\n"
        "7fa9b7aed000 default file=/dev/shm/syshax-kv\\040(deleted) dirty=4 N0=4 kernelpagesize_kB=4\n"
        "7fa9b7bed000 default file=/models/model.safetensors mapped=5 N1=5 kernelpagesize_kB=4\n"
        "7fffd03e2000 default\n"
    )
    make_process(tmp_path, 10, maps=maps)
    (memory,) = host.placement(10, tmp_path).memory
    assert memory.own_bytes == {0: 1204 * 4 * KIB, 1: 8 * 4 * KIB + 2 * 2048 * KIB}


@pytest.mark.parametrize("root", [X86, ARM, EDGES], indirect=True)
def test_memory_of_a_real_process_elsewhere(root: Path) -> None:
    make_process(root, 145, maps=(root / "proc/self/numa_maps").read_text())
    (memory,) = host.placement(145, root).memory
    assert sum(memory.own_bytes.values()) > 4 * 1024 * KIB


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ("15f8f000 default anon=8 N0=8\n", "has no kernelpagesize_kB"),
        ("nonsense\n", "'nonsense' is not a mapping"),
    ],
)
def test_memory_that_makes_no_sense_is_an_error(tmp_path: Path, maps: str, message: str) -> None:
    make_process(tmp_path, 10, maps=maps)
    with pytest.raises(TopologyError, match=message):
        host.placement(10, tmp_path)


@pytest.mark.parametrize("text", ["Name:\tx\n", "PPid:\t1\nCpus_allowed_list:\t\n", "PPid:\t1\n"])
def test_a_status_that_makes_no_sense_is_an_error(tmp_path: Path, text: str) -> None:
    make_process(tmp_path, 10)
    (tmp_path / "proc/10/status").write_text(text)
    with pytest.raises(TopologyError, match="proc/10/status"):
        host.allowed(10, tmp_path)


def test_a_process_that_ended_is_told_apart(tmp_path: Path) -> None:
    make_process(tmp_path, 10)
    make_process(tmp_path, 11, parent=10)
    shutil.rmtree(tmp_path / "proc/11/task")  # it ended while we looked
    assert [thread.pid for thread in host.placement(10, tmp_path).threads] == [10]
    for ask in (host.placement, host.process_tree, host.allowed):
        with pytest.raises(ProcessGoneError):
            ask(12, tmp_path)


def test_a_process_that_nobody_has_buried_has_ended() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGoneError):
        host.placement(child.pid)
    child.wait()


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        ({"a.safetensors": "12", "b.safetensors": "345", "old.bin": "6789"}, Weights(stored_bytes=5)),
        ({"m.gguf": "12", "config.json": "{}"}, Weights(stored_bytes=2)),
        ({"m.bin": "1", "config.json": '{"torch_dtype": "float32"}'}, Weights(stored_bytes=1, dtype="float32")),
        ({"m.bin": "1", "config.json": '{"dtype": "bfloat16"}'}, Weights(stored_bytes=1, dtype="bfloat16")),
        ({"m.bin": "1", "config.json": '{"dtype": "float32", "quantization_config": {}}'}, Weights(stored_bytes=1)),
    ],
)
def test_weights_are_what_the_engine_loads(tmp_path: Path, files: dict[str, str], weights: Weights) -> None:
    write(tmp_path, files)
    assert host.weights(tmp_path) == weights


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no weights"),
        ({"m.bin": "1", "config.json": "{"}, "config.json"),
        ({"m.bin": "1", "config.json": "[]"}, "config.json"),
    ],
)
def test_weights_that_cannot_be_told_are_an_error(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(SyshaxError, match=message):
        host.weights(tmp_path)


# This very machine.


def test_this_machine_has_a_topology_and_a_plan() -> None:
    topology = host.topology()
    assert set(os.sched_getaffinity(0)) <= set(topology.online)
    binding = plan_binding(topology, dialect=Dialect.PATCHED)
    assert check_binding(binding.settings(), topology) == ()


def test_this_process_its_threads_and_its_memory_are_seen() -> None:
    wake = threading.Event()
    thread = threading.Thread(target=wake.wait)
    thread.start()
    try:
        placement = host.placement(os.getpid())
    finally:
        wake.set()
        thread.join()
    assert {os.getpid(), thread.native_id} <= {seen.tid for seen in placement.threads}
    assert host.allowed().cpus == tuple(sorted(os.sched_getaffinity(0)))
    if not placement.unreadable:
        assert sum(placement.memory[0].own_bytes.values()) > 1024 * KIB


def test_a_process_is_bound_verified_and_drifts() -> None:
    topology = host.topology()
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    binding = plan_binding(topology, dialect=Dialect.PATCHED, threads=1)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        os.sched_setaffinity(child.pid, binding.cpuset)
        assert verify_binding(binding, host.placement(child.pid), topology).ok
        os.sched_setaffinity(child.pid, cpus)
        assert not verify_binding(binding, host.placement(child.pid), topology).ok
    finally:
        child.communicate(b"\n")
