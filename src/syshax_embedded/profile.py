# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The embedded profile's configuration: two instances of one model, each on its own half of the cores."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from syshax_embedded.model import SERVED_NAME

MAX_NUM_SEQS = 8
_CUDA_PYTHON = "SYSHAX_CUDA_PYTHON"
_PROBE_CUDA = "import torch, vllm; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(0))"


@dataclass(frozen=True, slots=True)
class Cuda:
    """A usable GPU."""

    python: str
    name: str


def find_cuda() -> tuple[Cuda | None, str]:
    """Returns the GPU for the role `gpu`, if one is usable, and in words what was found."""
    python = os.environ.get(_CUDA_PYTHON)
    if not python:
        listed = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
        if not listed:
            return None, "no NVIDIA GPU found"
        return None, f"{listed.splitlines()[0]} found, but {_CUDA_PYTHON} does not name a Python that has vLLM for CUDA"
    name = _output([python, "-c", _PROBE_CUDA])
    if not name:
        return None, f"{_CUDA_PYTHON}={python} has no usable vLLM for CUDA (try: {python} -c '{_PROBE_CUDA}')"
    return Cuda(python, name.splitlines()[-1]), f"{name.splitlines()[-1]} found"


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def halves(cores: list[int], *, gpu_computes: bool) -> tuple[list[int], list[int]]:
    """Splits the cores between the roles gpu and cpu. A real GPU needs only a few; a single core is shared."""
    if len(cores) == 1:
        return cores, cores
    cut = min(4, len(cores) // 2) if gpu_computes else len(cores) // 2
    return cores[:cut], cores[cut:]


def describe(cuda: Cuda | None, found: str, gpu_cores: list[int], cpu_cores: list[int]) -> list[str]:
    """Says plainly who plays which role."""
    gpu = f"{cuda.name}" if cuda else f"CPU {_cpulist(gpu_cores)} ({found})"
    return [f"role gpu: {gpu}", f"role cpu: CPU {_cpulist(cpu_cores)}"]


def render(model: Path, cpu_python: Path, cuda: Cuda | None, found: str) -> tuple[str, list[str]]:
    """Returns the configuration file's text, and who plays which role."""
    gpu_cores, cpu_cores = halves(sorted(os.sched_getaffinity(0)), gpu_computes=cuda is not None)
    roles = describe(cuda, found, gpu_cores, cpu_cores)
    gpu = _cuda_service(cuda, gpu_cores) if cuda else _cpu_service(cpu_python, gpu_cores)
    services = {
        "gpu": {"port": 8001, **gpu},
        "cpu": {"port": 8002, **_cpu_service(cpu_python, cpu_cores)},
        "conductor": {"port": 8010},
    }
    models = {"default": SERVED_NAME, "path": str(model)}
    lines = [
        "# The embedded profile, written by `make run` at each start: changes here are lost.",
        *(f"# {role}" for role in roles),
        # JSON is YAML, and the standard library writes it.
        f"services: {json.dumps(services, indent=2)}",
        f"models: {json.dumps(models)}",
    ]
    return "\n".join(lines) + "\n", roles


def _cpu_service(python: Path, cores: list[int]) -> dict[str, object]:
    return {
        "runtime": "process",
        "device": "cpu",
        "python": str(python),
        "cores": _cpulist(cores),
        "max_num_seqs": MAX_NUM_SEQS,
        "args": {"dtype": "bfloat16", "max-model-len": 4096, "enforce-eager": True},
        "env": {
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "VLLM_CPU_OMP_THREADS_BIND": _cpulist(cores),
            **_QUIET,
        },
    }


def _cuda_service(cuda: Cuda, cores: list[int]) -> dict[str, object]:
    return {
        "runtime": "process",
        "device": "cuda",
        "python": cuda.python,
        "cores": _cpulist(cores),
        "max_num_seqs": 32,
        "args": {"dtype": "bfloat16", "max-model-len": 4096, "gpu-memory-utilization": 0.3},
        "env": dict(_QUIET),
    }


# No hub, no telemetry.
_QUIET = {"HF_HUB_OFFLINE": 1, "VLLM_NO_USAGE_STATS": 1, "DO_NOT_TRACK": 1}


def _cpulist(cores: list[int]) -> str:
    return ",".join(map(str, cores))
