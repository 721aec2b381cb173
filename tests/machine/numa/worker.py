# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Binds itself as the sysHAX images' kernels do: each thread to a CPU of CUSTOM_CPU_AFFINITY, its memory on that node.

Says `ready` when all threads stand; ends when its input does.
"""

import os
import sys
import threading

from syshaxd.core.numa.cpulist import parse_cpulist

TOUCHED_BYTES = 16 * 2**20


def compute(cpu: int, started: threading.Barrier, end: threading.Event) -> None:
    os.sched_setaffinity(0, {cpu})
    weights = bytearray(TOUCHED_BYTES)
    weights[::4096] = bytes([1]) * (TOUCHED_BYTES // 4096)  # a page belongs to the node of the CPU that writes it first
    started.wait()
    end.wait()


def main() -> None:
    cpus = parse_cpulist(os.environ["CUSTOM_CPU_AFFINITY"])
    assert len(cpus) == int(os.environ["OMP_NUM_THREADS"])
    started, end = threading.Barrier(len(cpus) + 1), threading.Event()
    threads = [threading.Thread(target=compute, args=(cpu, started, end)) for cpu in cpus]
    for thread in threads:
        thread.start()
    started.wait()
    print("ready", flush=True)
    sys.stdin.read()
    end.set()


if __name__ == "__main__":
    main()
