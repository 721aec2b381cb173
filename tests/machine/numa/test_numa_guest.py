# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A machine with four NUMA nodes, emulated, in which sysHAX's own code plans, binds a process, and sees it drift."""

import os
import subprocess
from itertools import product
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
BUILD = REPO / "build/machine/numa"
ARCH = os.environ.get("MACHINE_ARCH", "x86_64")
DISTANCES = ((10, 12, 24, 26), (12, 10, 26, 24), (24, 26, 10, 12), (26, 24, 12, 10))
MACHINES = {
    "x86_64": ["qemu-system-x86_64", "-machine", "pc", "-cpu", "max", "-append", "console=ttyS0 quiet panic=-1"],
    "aarch64": [
        "qemu-system-aarch64",
        "-machine",
        "virt",
        "-cpu",
        "cortex-a72",
        "-append",
        "console=ttyAMA0 quiet panic=-1",
    ],
}


def four_nodes() -> list[str]:
    """Two CPUs and 512 MiB on each of four nodes, two of them on each socket."""
    options = ["-m", "2048", "-smp", "8,sockets=2,cores=4,threads=1"]
    for node in range(4):
        options += ["-object", f"memory-backend-ram,id=m{node},size=512M"]
        options += ["-numa", f"node,nodeid={node},cpus={2 * node}-{2 * node + 1},memdev=m{node}"]
    for src, dst in product(range(4), repeat=2):
        options += ["-numa", f"dist,src={src},dst={dst},val={DISTANCES[src][dst]}"]
    return options


@pytest.mark.timeout(600)
def test_a_guest_with_four_nodes() -> None:
    folder = BUILD / ARCH
    assert (folder / "initramfs.gz").exists(), "run it by `make test-machine`, which builds the guest"
    command = [*MACHINES[ARCH], *four_nodes(), "-accel", "tcg", "-no-reboot"]
    command += ["-nographic", "-nodefaults", "-serial", "stdio"]
    command += ["-kernel", str(folder / "kernel"), "-initrd", str(folder / "initramfs.gz")]
    guest = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=580, check=False)
    print(guest.stdout, guest.stderr)
    lines = [line.strip() for line in guest.stdout.splitlines()]
    assert "PASSED" in lines
    assert "DAEMON PASSED" in lines
