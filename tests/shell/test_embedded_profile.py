# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The embedded profile's configuration, held to the daemon's own reading of it."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshax_embedded import profile
from syshax_embedded.profile import Cuda
from syshaxd.core.config import Config
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.types import Device, RuntimeKind
from syshaxd.system import configfile

CORES = st.sets(st.integers(0, 511), min_size=1).map(sorted)


def load(folder: Path, cuda: Cuda | None = None, cores: tuple[int, ...] = (0, 1, 2, 3), model: str = "/m") -> Config:
    path = folder / "embedded.yaml"
    path.write_text(profile.render(Path(model), Path("/engine/bin/python"), cuda, "no NVIDIA GPU found", list(cores)))
    return configfile.load(path)


@given(cores=CORES)
def test_cpulists_are_read_back_as_they_were(cores: list[int]) -> None:
    assert parse_cpulist(profile.cpulist(cores)) == tuple(cores)


@given(cores=CORES, gpu_computes=st.booleans())
def test_every_core_is_given_out_once(cores: list[int], gpu_computes: bool) -> None:
    gpu, cpu = profile.split(cores, gpu_computes=gpu_computes)
    assert gpu
    assert cpu
    assert len(cpu) >= len(gpu)
    if len(cores) > 1:
        assert gpu + cpu == cores
    if gpu_computes:
        assert len(gpu) <= 4


def test_a_single_core_serves_both_roles() -> None:
    assert profile.split([7], gpu_computes=False) == ([7], [7])


def test_without_a_gpu_cpu_cores_play_its_role(tmp_path: Path) -> None:
    config = load(tmp_path)
    gpu, cpu = instance_specs(config)
    for spec, port, cores in ((gpu, 8001, (0, 1)), (cpu, 8002, (2, 3))):
        assert spec.runtime is RuntimeKind.PROCESS
        assert spec.device is Device.CPU
        assert spec.argv[0] == "/engine/bin/python"
        assert spec.port == port
        assert spec.cores == cores
        assert spec.max_num_seqs == 8
        assert {"--enforce-eager", "--max-model-len"} <= set(spec.argv)
        assert dict(spec.env)["HF_HUB_OFFLINE"] == "1"
        assert dict(spec.env)["VLLM_CPU_OMP_THREADS_BIND"] == profile.cpulist(list(cores))
        assert dict(spec.env)["CUDA_VISIBLE_DEVICES"] == ""
    assert (config.services.gpu.quantize, config.services.cpu.quantize) == ("none", "q8_0")
    assert config.parity.max_distance_quantised == 0.2
    assert config.services.conductor.port == 8010
    assert config.models.default == "smollm2"


def test_a_usable_gpu_plays_its_own_role(tmp_path: Path) -> None:
    gpu, cpu = instance_specs(load(tmp_path, Cuda("/cuda/bin/python", "NVIDIA H200"), tuple(range(16))))
    assert gpu.device is Device.CUDA
    assert gpu.argv[0] == "/cuda/bin/python"
    assert gpu.cores == (0, 1, 2, 3)
    assert "--enforce-eager" not in gpu.argv
    assert "CUDA_VISIBLE_DEVICES" not in dict(gpu.env)
    assert cpu.device is Device.CPU
    assert cpu.cores == tuple(range(4, 16))


@pytest.mark.parametrize("name", ['with space and "quotes"', "héllo/模型/🙂", "a: b # c", "x{y}[z],&*!|>'%@`"])
def test_any_path_arrives_unchanged(tmp_path: Path, name: str) -> None:
    gpu, _ = instance_specs(load(tmp_path, model=f"/{name}"))
    assert gpu.model == f"/{name}"


def test_the_file_and_the_screen_say_who_plays_which_role() -> None:
    assert profile.roles(None, "no NVIDIA GPU found", [0, 1]) == (
        "no NVIDIA GPU found: CPU core 0 plays the role gpu",
        "CPU core 1 plays the role cpu",
    )
    assert profile.roles(Cuda("/p", "NVIDIA H200"), "NVIDIA H200 found", list(range(16))) == (
        "NVIDIA H200 found: it plays the role gpu, with CPU cores 0-3",
        "CPU cores 4-15 play the role cpu",
    )
    text = profile.render(Path("/m"), Path("/p"), None, "no NVIDIA GPU found", [0, 1])
    assert "# no NVIDIA GPU found: CPU core 0 plays the role gpu\n" in text


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_looking_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYSHAX_CUDA_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert profile.find_cuda() == (None, "no NVIDIA GPU found")

    program(tmp_path / "nvidia-smi", "echo 'NVIDIA H200'")
    cuda, found = profile.find_cuda()
    assert cuda is None
    assert found.startswith("NVIDIA H200 found, but SYSHAX_CUDA_PYTHON")

    python = program(tmp_path / "cuda-python", "echo some warning; echo 'NVIDIA H200'")
    monkeypatch.setenv("SYSHAX_CUDA_PYTHON", str(python))
    assert profile.find_cuda() == (Cuda(str(python), "NVIDIA H200"), "NVIDIA H200 found")

    program(python, "exit 1")
    cuda, found = profile.find_cuda()
    assert cuda is None
    assert "has no usable vLLM for CUDA; try: " in found

    monkeypatch.setenv("SYSHAX_CUDA_PYTHON", str(tmp_path / "nothing"))
    assert profile.find_cuda()[0] is None


@pytest.mark.parametrize("is_cuda", [True, False])
def test_a_cpu_build_of_vllm_is_not_taken_for_a_cuda_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cuda: bool
) -> None:
    """Not even beside a PyTorch that sees the GPU."""
    (tmp_path / "torch.py").write_text("class cuda:\n    get_device_name = 'NVIDIA H200 {}'.format\n")
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/platforms.py").write_text(f"class current_platform:\n    is_cuda = lambda: {is_cuda}\n")
    python = program(tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"')
    monkeypatch.setenv("SYSHAX_CUDA_PYTHON", str(python))
    assert profile.find_cuda()[0] == (Cuda(str(python), "NVIDIA H200 0") if is_cuda else None)
