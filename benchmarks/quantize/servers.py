#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Asks real servers with full, q8_0 and q4_0 weights of one model: perplexity, parity's distance, greedy agreement.

    .venv/bin/python benchmarks/quantize/servers.py [MODEL]

Without MODEL it is that of `make run`. The weights are made in a temporary folder, and one server after the other is
started on them (stock vLLM on CPUs, bfloat16), so the figures are those of the engine's own kernels. vLLM computes with
q4_0 on each x86_64, also where syshaxd refuses it as too slow.
"""

import argparse
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from syshax_embedded.engine import engine_python  # noqa: E402
from syshax_embedded.model import model_folder  # noqa: E402
from syshaxd.core.parity.answer import parse_answer, request_body  # noqa: E402
from syshaxd.core.parity.compare import compare  # noqa: E402
from syshaxd.core.parity.judge import Bounds  # noqa: E402
from syshaxd.core.parity.prompts import PROMPTS  # noqa: E402
from syshaxd.core.weights import Quantize, Scheme, plan_weights  # noqa: E402
from syshaxd.system.weights import read_checkpoint  # noqa: E402

# A fixed text in two languages that every clone has.
TEXT = ROOT / "LICENSE"
PART_TOKENS, PARTS = 384, 4
FOUR_BITS = Scheme.INT4 if platform.machine() == "aarch64" else Scheme.PACK4
SCHEMES = {Quantize.Q8_0: Scheme.INT8, Quantize.Q4_0: FOUR_BITS}
START_TIMEOUT_S = 600


class Server:
    """A vLLM on a folder, while the block runs."""

    def __init__(self, python, folder, port, log):
        self._url = f"http://127.0.0.1:{port}"
        self._log = log
        variables = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        # What makes a start short.
        variables |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
        options = {"port": port, "served-model-name": "it", "dtype": "bfloat16", "max-model-len": 2048}
        options |= {"kv-cache-memory-bytes": 512 << 20, "distributed-executor-backend": "uni"}
        argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--enforce-eager"]
        argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv, env=os.environ | variables, stdout=output, stderr=output, start_new_session=True
            )

    def __enter__(self):
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.__exit__()
                sys.exit(f"no server:\n{self._log.read_text(errors='replace')[-20000:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                return True
        except OSError:
            return False

    def post(self, path, body):
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def kernel(self):
        """The kernel that vLLM says it chose; empty: it says nothing of one."""
        found = re.search(r"\b\w+LinearKernel\b", self._log.read_text(errors="replace"))
        return found[0] if found else ""


def perplexity(server):
    """Of the fixed text."""
    ids = server.post("/tokenize", {"model": "it", "prompt": TEXT.read_text()})["tokens"]
    nats = []
    for at in range(PARTS):
        part = ids[at * PART_TOKENS : (at + 1) * PART_TOKENS]
        body = {"model": "it", "prompt": part, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        positions = server.post("/v1/completions", body)["choices"][0]["prompt_logprobs"][1:]
        nats += [-position[str(token)]["logprob"] for position, token in zip(positions, part[1:], strict=True)]
    return math.exp(statistics.fmean(nats))


def answers(server):
    """To the prompts by which parity compares."""
    return [parse_answer(server.post("/v1/completions", request_body("it", prompt))) for prompt in PROMPTS]


def make(python, plan, folder):
    """The weights of a plan, as syshaxd makes them."""
    made = folder / plan.name
    order = json.dumps(plan.as_json() | {"cores": []}) + "\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [python, "-m", "syshax_quantize", made], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        process.stdin.write(order.encode())  # which stays open: the process ends when it is closed
        process.stdin.flush()
        if process.wait():
            sys.exit(f"{made} could not be made")
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=model_folder())
    parser.add_argument("--python", type=Path, default=engine_python(), help="vLLM's interpreter")
    parser.add_argument("--port", type=int, default=18791)
    options = parser.parse_args()
    print(
        "| weights | MiB | kernel | perplexity | same likeliest token | clear flips | distance | same greedy tokens |"
    )
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    full = None
    # The first row compares the full weights with themselves.
    with tempfile.TemporaryDirectory() as scratch:
        for name in (Quantize.NONE, *SCHEMES):
            folder = options.model
            if name is not Quantize.NONE:
                plan = plan_weights(read_checkpoint(options.model), name, SCHEMES[name])
                folder = make(options.python, plan, Path(scratch))
            with Server(options.python, folder, options.port, Path(scratch, "log")) as server:
                cells = [server.kernel(), f"{perplexity(server):.2f}"]
                its = answers(server)
            if full is None:
                full = its
            figures = compare(("", ""), PROMPTS, full, its, Bounds()).figures
            cells += [f"{figures.same_top_ratio:.1%}", f"{figures.clear_flip_ratio:.1%}"]
            cells += [f"{figures.prefill_distance:.3f}", f"{figures.common_prefix_ratio:.0%}"]
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) >> 20
            print(f"| {name} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
