# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""copyrate.py [--threads N] [--mb N] [--cuda] [--isa amx]: this machine's plain copy rates, and the connector's.

Runs in vLLM's environment; for `--isa` (vec, amx, neon: as vLLM packs KV caches on a CPU) with PYTHONPATH=src.
"""

import argparse
import mmap
import os
import tempfile
import time

import torch


def show(what, size, copy, rounds=7):
    """Prints the rate of the median round."""
    copy()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        copy()
        times.append(time.perf_counter() - began)
    print(f"| {what} | {size / sorted(times)[rounds // 2] / 1e9:.1f} GB/s |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--mb", type=int, default=200, help="about the size of a hand-over")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--isa", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.mb * 1_000_000 // 4096 * 4096
    how = f"{options.mb} MB, {options.threads} threads"
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        shared = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)
        private = torch.zeros(size, dtype=torch.uint8)
        show(f"memory to shared memory, {how}", size, lambda: shared.copy_(private))
        show(f"shared memory to memory, {how}", size, lambda: private.copy_(shared))
        for isa in options.isa:
            connector(isa, shared)
        if options.cuda:
            cuda(size, shared)


def connector(isa, shared, heads=8, block_size=128, head_size=128, layers=16):
    """A CPU's KV cache in bfloat16, of scattered blocks, saved to shared memory and loaded from there."""
    from syshax_connector.cache import PackedCache  # noqa: PLC0415 - only where asked for
    from syshax_connector.stored import Stored  # noqa: PLC0415

    block = heads * block_size * 2 * head_size
    count = shared.numel() // 2 // layers // block
    numbers = shared.view(torch.bfloat16)[: layers * count * block].view(layers, -1)
    caches = [torch.randn(2 * count, heads, block_size, 2 * head_size).to(torch.bfloat16) for _ in range(layers)]
    cache = PackedCache(caches, isa)
    blocks, tokens = list(range(1, 2 * count, 2)), count * block_size
    packed = Stored(numbers.view(layers, count, heads, block_size, -1), tokens, cache.packed, slice(0, heads))
    plain = Stored(numbers.view(layers, heads, 2, tokens, head_size), tokens, None, slice(0, heads))
    size = packed.size_bytes
    show(f"{isa}: saved as it is", size, lambda: cache.read(blocks, packed))
    show(f"{isa}: loaded, from such a CPU", size, lambda: cache.write(blocks, 0, tokens, packed, 0))
    show(f"{isa}: loaded, from a GPU", size, lambda: cache.write(blocks, 0, tokens, plain, 0))


def cuda(size, shared):
    began = time.perf_counter()
    assert int(torch.cuda.cudart().cudaHostRegister(shared.data_ptr(), size, 0)) == 0
    print(f"| cudaHostRegister | {(time.perf_counter() - began) * 1e3:.0f} ms |")
    device = torch.zeros(size, dtype=torch.uint8, device="cuda")

    def waited(target, source):
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    show("GPU to registered shared memory", size, lambda: waited(shared, device))
    show("registered shared memory to GPU", size, lambda: waited(device, shared))
    os._exit(0)  # registered memory must not be unmapped while CUDA lives


if __name__ == "__main__":
    main()
