#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Quantises a checkpoint of random weights, larger than the memory allowed: peak memory and time.

PYTHONPATH=src .venv/bin/python benchmarks/quantize/memory.py --mib 2048 --shards 8 --limit-mib 512
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from syshaxd.core.weights import Quantize, Scheme, Tensor, plan_weights
from syshaxd.core.weights.tensors import header
from syshaxd.system.weights import read_checkpoint

ROWS, COLUMNS = 4096, 4096
MATRIX_MIB = ROWS * COLUMNS * 2 >> 20
SCHEMES = {"q8_0": Scheme.INT8, "q4_0": Scheme.PACK4}


def write_model(folder, mib, shards):
    """A checkpoint of equal matrices in bfloat16."""
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    numbers = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32) * 0.02
    data = (numbers.view("<u4") >> 16).astype("<u2").tobytes()
    each = max(1, mib // MATRIX_MIB // shards)
    for shard in range(shards):
        names = [f"model.layers.{shard * each + at}.mlp.down_proj.weight" for at in range(each)]
        head, _ = header([Tensor(name, "BF16", (ROWS, COLUMNS)) for name in names])
        with (folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors").open("wb") as file:
            file.write(head)
            for _ in names:
                file.write(data)
    return each * shards * MATRIX_MIB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="of the checkpoint")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--limit-mib", type=int, default=512, help="of address space")
    parser.add_argument("--dir", type=Path, help="where to work")
    options = parser.parse_args()

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (options.limit_mib << 20, options.limit_mib << 20))

    print("| to | checkpoint, MiB | files | limit, MiB | peak memory, MiB | time, s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        model = Path(scratch, "m")
        model.mkdir()
        size = write_model(model, options.mib, options.shards)
        for name, scheme in SCHEMES.items():
            plan = plan_weights(read_checkpoint(model), Quantize(name), scheme)
            order = json.dumps(plan.as_json() | {"cores": []}) + "\n"
            begun_s = time.monotonic()
            argv = [sys.executable, "-m", "syshax_quantize", str(Path(scratch, plan.name))]
            # Its standard input stays open: it ends when that is closed.
            with subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=limit, text=True
            ) as process:
                process.stdin.write(order)
                process.stdin.flush()
                _, status, usage = os.wait4(process.pid, 0)
                code = process.returncode = os.waitstatus_to_exitcode(status)
            took_s = time.monotonic() - begun_s
            peak = usage.ru_maxrss >> 10
            done = f"{took_s:.0f}" if code == 0 else f"failed with {code}"
            print(f"| {name} | {size} | {options.shards} | {options.limit_mib} | {peak} | {done} |", flush=True)


if __name__ == "__main__":
    main()
