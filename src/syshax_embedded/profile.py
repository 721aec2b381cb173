# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The embedded profile's configuration: two instances of one model, each on its own half of the cores."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from syshax_embedded.model import SERVED_NAME

_CUDA_PYTHON = "SYSHAX_CUDA_PYTHON"
# A CPU build of vLLM with a CUDA build of PyTorch does not count, so ask vLLM itself.
_PROBE_CUDA = (
    "import torch; from vllm.platforms import current_platform; "
    "assert current_platform.is_cuda(); print(torch.cuda.get_device_name(0))"
)
_PROBE_TIMEOUT_S = 120.0
# What a GPU's own process needs; the rest computes.
_CORES_BESIDE_GPU = 4
_MAX_MODEL_LEN_TOKENS = 4096
_ARGS: dict[str, object] = {
    "dtype": "bfloat16",
    "max-model-len": _MAX_MODEL_LEN_TOKENS,
    # syshaxd asks these every second or two: a log full of them is useless.
    "disable-access-log-for-endpoints": "/health,/metrics",
}
# No hub, no telemetry.
_ENV: dict[str, object] = {"HF_HUB_OFFLINE": 1, "VLLM_NO_USAGE_STATS": 1, "DO_NOT_TRACK": 1}


@dataclass(frozen=True, slots=True)
class Cuda:
    """A usable GPU."""

    python: str
    """Interpreter of the environment with a CUDA build of vLLM."""
    name: str


def find_cuda() -> tuple[Cuda | None, str]:
    """Returns the GPU for the role `gpu`, if one is usable, and a description of what was found."""
    python = os.environ.get(_CUDA_PYTHON)
    if not python:
        listed = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
        if not listed:
            return None, "no NVIDIA GPU found"
        return None, f"{listed.splitlines()[0]} found, but {_CUDA_PYTHON} does not name a Python that has vLLM for CUDA"
    name = _output([python, "-c", _PROBE_CUDA])
    if not name:
        return None, f"{_CUDA_PYTHON}={python} has no usable vLLM for CUDA; try: {python} -c '{_PROBE_CUDA}'"
    return Cuda(python, name.splitlines()[-1]), f"{name.splitlines()[-1]} found"


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def split(cores: list[int], *, gpu_computes: bool) -> tuple[list[int], list[int]]:
    """Divides the cores between the roles gpu and cpu. A real GPU needs only a few; a single core serves both."""
    if len(cores) == 1:
        return cores, cores
    cut = len(cores) // 2
    if gpu_computes:
        cut = min(cut, _CORES_BESIDE_GPU)
    return cores[:cut], cores[cut:]


def roles(cuda: Cuda | None, found: str, cores: list[int]) -> tuple[str, str]:
    """Describes which device has which role, and why."""
    gpu_cores, cpu_cores = split(cores, gpu_computes=cuda is not None)
    if cuda is not None:
        gpu = f"{found}: it plays the role gpu, with {_in_words(gpu_cores)}"
    else:
        gpu = f"{found}: {_in_words(gpu_cores)} {_play(gpu_cores)} the role gpu"
    return gpu, f"{_in_words(cpu_cores)} {_play(cpu_cores)} the role cpu"


def render(model: Path, cpu_python: Path, cuda: Cuda | None, found: str, cores: list[int]) -> str:
    """Returns the configuration file's text.

    Args:
        model: The weights' folder.
        cpu_python: Interpreter of the environment with the CPU build of vLLM.
        cuda: The GPU that is to be used.
        found: In words what was found of GPUs.
        cores: Numbers of the CPUs that may be used.
    """
    gpu_cores, cpu_cores = split(cores, gpu_computes=cuda is not None)
    services = {
        "gpu": {"port": 8001} | (_cuda_service(cuda, gpu_cores) if cuda else _cpu_service(cpu_python, gpu_cores)),
        # Half the bytes of each step, and faster kernels.
        "cpu": {"port": 8002, "quantize": "q8_0"} | _cpu_service(cpu_python, cpu_cores),
        "conductor": {"port": 8010},
    }
    # 23 KB a token: 11,000 tokens on their way from one instance to the other.
    offload = {"arena_bytes": 256 * 1024 * 1024}
    # Rounding changes a model this small more than a large one: 0.096 was measured, and the default is 0.1.
    parity = {"max_distance_quantised": 0.2}
    models = {"default": SERVED_NAME, "path": str(model)}
    lines = [
        "# The embedded profile, written by `make run` at each start: changes here are lost. To keep some, run",
        "# `syshaxd --config` on a copy.",
        "#",
        *(f"# {role}" for role in roles(cuda, found, cores)),
        # JSON is YAML, and the standard library writes it.
        f"services: {json.dumps(services, indent=2, ensure_ascii=False)}",
        f"offload: {json.dumps(offload, indent=2)}",
        f"parity: {json.dumps(parity, indent=2)}",
        f"models: {json.dumps(models, indent=2, ensure_ascii=False)}",
    ]
    return "\n".join(lines) + "\n"


def _cpu_service(python: Path, cores: list[int]) -> dict[str, object]:
    return {
        "runtime": "process",
        "device": "cpu",
        "python": str(python),
        "cores": cpulist(cores),
        "max_num_seqs": 8,
        # To compile takes minutes on a few cores, and gains little for a small model.
        "args": _ARGS | {"enforce-eager": True},
        "env": {
            # Holds eight requests of full length.
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "VLLM_CPU_OMP_THREADS_BIND": cpulist(cores),
            # Where PyTorch is a build for CUDA, the instance would take half a GiB of the GPU.
            "CUDA_VISIBLE_DEVICES": "",
        }
        | _ENV,
    }


def _cuda_service(cuda: Cuda, cores: list[int]) -> dict[str, object]:
    return {
        "runtime": "process",
        "device": "cuda",
        "python": cuda.python,
        "cores": cpulist(cores),
        "max_num_seqs": 32,
        "args": _ARGS | {"gpu-memory-utilization": 0.3},
        # The other sampler needs a compiler for CUDA on the machine.
        "env": {"VLLM_USE_FLASHINFER_SAMPLER": 0} | _ENV,
    }


def cpulist(cores: list[int]) -> str:
    """Writes ascending numbers as the kernel does: `0-3,8`."""
    ranges: list[tuple[int, int]] = []
    for core in cores:
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], core)
        else:
            ranges.append((core, core))
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def _in_words(cores: list[int]) -> str:
    return f"CPU core{'s' if len(cores) > 1 else ''} {cpulist(cores)}"


def _play(cores: list[int]) -> str:
    return "plays" if len(cores) == 1 else "play"
