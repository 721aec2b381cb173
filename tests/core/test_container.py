# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Containers as configured: the seed's two `docker run` lines, and what else the keys can say."""

import shlex
from typing import Any

import pytest

from syshaxd.core.address import published_port
from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch.container import DONOR_NAME, docker_run, shell_text, with_connector
from syshaxd.core.launch.container_faults import architecture_fault, exit_status, launch_fault, pull_fault
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.secrets import safe_words
from syshaxd.core.types import ExitStatus, HandoverProtocol, InstanceSpec

MODEL = "/home/models/DeepSeek-R1-Distill-Qwen-32B"
SEED = {
    "models": {"default": "ds-32b", "path": MODEL},
    "services": {
        "gpu": {
            "runtime": "docker",
            "container": {
                "image": "syshax-vllm-gpu:0.2.1",
                "volumes": ["/home/models:/home/models"],
                "working_dir": "/home/",
            },
            "args": {
                "dtype": "half",
                "swap_space": 16,
                "block_size": 16,
                "preemption_mode": "swap",
                "max_model_len": 8192,
                "tensor-parallel-size": 2,
                "gpu_memory_utilization": 0.8,
                "enable-auto-pd-offload": True,
            },
        },
        "cpu": {
            "runtime": "docker",
            "container": {
                "image": "syshax-vllm-cpu:0.2.1",
                "privileged": True,
                "volumes": ["/home/models:/home/models"],
                "working_dir": "/home/",
            },
            "env": {
                "NRC": 4,
                "INFERENCE_OP_MODE": "fused",
                "OMP_NUM_THREADS": 160,
                "CUSTOM_CPU_AFFINITY": "0-159",
                "SYSHAX_QUANTIZE": "q4_0",
            },
            "args": {"dtype": "half", "block_size": 16, "preemption_mode": "swap", "enable-auto-pd-offload": True},
        },
    },
}


def specs(mapping: dict[str, Any]) -> dict[str, InstanceSpec]:
    return {spec.name: spec for spec in instance_specs(parse(mapping))}


def only_cpu(**container: Any) -> InstanceSpec:
    cpu = {"runtime": "docker", "container": {"image": "i"} | container}
    return specs({"models": {"path": "/m"}, "services": {"gpu": {"enabled": False}, "cpu": cpu}})["cpu"]


def line(spec: InstanceSpec) -> str:
    return shlex.join(docker_run(spec))


def test_the_seeds_gpu_container() -> None:
    assert docker_run(specs(SEED)["gpu"]) == shlex.split(
        "docker run --detach --name vllm_gpu --init --ipc shareable --shm-size 64g --gpus all"
        " --publish 127.0.0.1:8001:8001 --volume /home/models:/home/models --workdir /home/"
        f" --entrypoint vllm syshax-vllm-gpu:0.2.1 serve {MODEL} --served-model-name ds-32b --host 0.0.0.0 --port 8001"
        " --max-num-seqs 256 --dtype half --swap-space 16 --block-size 16 --preemption-mode swap --max-model-len 8192"
        " --tensor-parallel-size 2 --gpu-memory-utilization 0.8 --enable-auto-pd-offload"
    )


def test_the_seeds_cpu_container() -> None:
    assert docker_run(specs(SEED)["cpu"]) == shlex.split(
        "docker run --detach --name vllm_cpu --init --ipc container:vllm_gpu --shm-size 64g"
        " --publish 127.0.0.1:8002:8002 --volume /home/models:/home/models --workdir /home/ --privileged"
        " --cap-add SYS_NICE --env NRC=4 --env INFERENCE_OP_MODE=fused --env OMP_NUM_THREADS=160"
        " --env CUSTOM_CPU_AFFINITY=0-159 --env SYSHAX_QUANTIZE=q4_0"
        f" --entrypoint vllm syshax-vllm-cpu:0.2.1 serve {MODEL} --served-model-name ds-32b --host 0.0.0.0 --port 8002"
        " --max-num-seqs 256 --dtype half --block-size 16 --preemption-mode swap --enable-auto-pd-offload"
    )


def test_the_cpu_container_depends_on_the_one_whose_namespace_it_joins() -> None:
    found = specs(SEED)
    assert (found["gpu"].depends_on, found["cpu"].depends_on) == (None, "gpu")


@pytest.mark.parametrize("ipc", ["donor", "private", "host", "container:somebody_elses"])
def test_it_depends_on_none_otherwise(ipc: str) -> None:
    cpu = SEED["services"]["cpu"]  # type: ignore[index]
    services = SEED["services"] | {"cpu": cpu | {"container": cpu["container"] | {"ipc": ipc}}}  # type: ignore[operator]
    assert specs(SEED | {"services": services})["cpu"].depends_on is None


def test_without_a_gpu_container_there_is_nothing_to_join() -> None:
    assert "--ipc shareable" in line(only_cpu())


def test_a_donor_is_joined_by_its_name() -> None:
    assert f"--ipc container:{DONOR_NAME}" in line(only_cpu(ipc="donor"))


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({}, "--volume /m:/m:ro"),
        ({}, "--cap-add SYS_NICE"),
        ({"gpus": 2}, "--gpus 2"),
        ({"gpus": "all"}, "--gpus all"),
        ({"gpus": [0, "GPU-1"]}, "--gpus '\"device=0,GPU-1\"'"),
        ({"shm_size": "512m"}, "--shm-size 512m"),
        ({"shm_size": "1000"}, "--shm-size 1000b"),
        ({"cpuset_cpus": "0-3", "cpuset_mems": "0"}, "--cpuset-cpus 0-3 --cpuset-mems 0"),
        ({"ports": ["9000:80"]}, "--publish 127.0.0.1:9000:80"),
        ({"ports": ["[::1]:9000:80"]}, "--publish '[::1]:9000:80'"),
        ({"container_port": 80}, "--publish 127.0.0.1:8002:80"),
        ({"container_port": 80}, "--port 80"),
        ({"security_opt": ["seccomp=unconfined"]}, "--security-opt seccomp=unconfined"),
        ({"name": "mine"}, "--name mine"),
        ({"command": ["python3", "-m", "vllm"]}, "--entrypoint python3 i -m vllm /m"),
    ],
)
def test_each_key_comes_out(container: dict[str, Any], words: str) -> None:
    assert f" {words} " in line(only_cpu(**container))


def test_without_init() -> None:
    assert "--init" not in docker_run(only_cpu(init=False))


def test_the_cores_of_an_instance_are_its_containers() -> None:
    cpu = {"runtime": "docker", "cores": "0-3,8", "container": {"image": "i"}}
    found = specs({"models": {"path": "/m"}, "services": {"gpu": {"enabled": False}, "cpu": cpu}})["cpu"]
    assert "--cpuset-cpus 0-3,8" in line(found)


def test_it_is_published_where_it_is_asked_for() -> None:
    cpu = {"runtime": "docker", "host": "0.0.0.0", "container": {"image": "i"}}
    found = specs({"models": {"path": "/m"}, "services": {"gpu": {"enabled": False}, "cpu": cpu}})["cpu"]
    assert "--publish 0.0.0.0:8002:8002" in line(found)


def test_the_line_can_be_pasted() -> None:
    text = shell_text(docker_run(only_cpu(gpus=["0"])))
    assert shlex.split(text.replace("\\\n", " ")) == docker_run(only_cpu(gpus=["0"]))


def test_a_secret_is_not_shown() -> None:
    cpu = {"runtime": "docker", "env": {"HF_TOKEN": "hf_x"}, "container": {"image": "i"}}
    found = specs({"models": {"path": "/m"}, "services": {"gpu": {"enabled": False}, "cpu": cpu}})["cpu"]
    assert "HF_TOKEN=(hidden)" in safe_words(docker_run(found))


def test_the_connector_is_mounted_where_python_finds_it() -> None:
    cpu = {"runtime": "docker", "protocol": "connector", "env": {"PYTHONPATH": "/x"}, "container": {"image": "i"}}
    found = specs({"models": {"path": "/m"}, "services": {"gpu": {"enabled": False}, "cpu": cpu}})["cpu"]
    assert found.protocol is HandoverProtocol.CONNECTOR
    text = line(with_connector(found, "/here/syshax_connector"))
    assert "--volume /here/syshax_connector:/opt/syshax-connector/syshax_connector:ro" in text
    assert "--env PYTHONPATH=/opt/syshax-connector:/x" in text
    assert with_connector(only_cpu(), "/here") == only_cpu()


@pytest.mark.parametrize(
    ("container", "key", "words"),
    [
        ({}, "services.cpu.container.image", "required"),
        ({"image": "i", "shm_size": "64 g"}, "services.cpu.container.shm_size", "64g"),
        ({"image": "i", "ports": ["80"]}, "services.cpu.container.ports", "HOST_PORT"),
        ({"image": "i", "volumes": ["/a"]}, "services.cpu.container.volumes", "SOURCE:TARGET"),
        ({"image": "i", "ipc": "join"}, "services.cpu.container.ipc", "must be"),
        ({"image": "i", "ipc": "container:vllm_cpu"}, "services.cpu.container.ipc", "can't join its own"),
        ({"image": "i", "name": "vllm_gpu"}, "services.cpu.container.name", "another instance's"),
        ({"image": "i", "cpuset_cpus": "3-1"}, "services.cpu.container.cpuset_cpus", ""),
    ],
)
def test_a_wrong_key_is_told(container: dict[str, Any], key: str, words: str) -> None:
    gpu = {"runtime": "docker", "container": {"image": "g"}}
    cpu = {"runtime": "docker", "container": container}
    with pytest.raises(ConfigError) as caught:
        parse({"models": {"path": "/m"}, "services": {"gpu": gpu, "cpu": cpu}})
    (fault,) = caught.value.faults
    assert fault.key == key
    assert words in fault.problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:2", ("127.0.0.1", 1, 2)), ("10.0.0.1:1:2", ("10.0.0.1", 1, 2)), ("[::]:1:2", ("::", 1, 2))],
)
def test_ports(text: str, expected: tuple[str, int, int]) -> None:
    assert published_port(text) == expected


@pytest.mark.parametrize(
    ("text", "remedy", "permanent"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "nvidia-container-toolkit", True),
        ("nvidia-container-cli: device error: 7: unknown device: unknown", "nvidia-smi -L", True),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "nvidia-smi", False),
        ("Bind for 127.0.0.1:8002 failed: port is already allocated", "services.cpu.port", False),
        ("listen tcp4 127.0.0.1:8002: bind: address already in use", "ss -tlnp", False),
        ('Conflict. The container name "/vllm_cpu" is already in use by container "x"', "docker rm -f vllm_cpu", True),
        ("cannot join IPC of a non running container: abc", "container.ipc", False),
        ("No such container: vllm_gpu", "start that first", False),
        ('invalid mount config for type "bind": bind source path does not exist: /m', "container.volumes", True),
        ('invalid mount config for type "bind": stat /m: permission denied', "rootless engine", True),
        ('exec: "vllm": executable file not found in $PATH', "container.command", True),
        ("exec /usr/bin/vllm: exec format error", "is for other CPUs than this host's", True),
        ("Requested CPUs are not available - requested 99, available: 0-1", "cpuset_cpus", True),
        ("unable to apply caps: operation not permitted", "privileged", True),
        ("write /x: no space left on device", "disk", False),
        ("something new", "something new", False),
    ],
)
def test_what_the_engine_says_is_named_with_its_remedy(text: str, remedy: str, *, permanent: bool) -> None:
    message, found = launch_fault(only_cpu(), text)
    assert message.startswith("cpu: ")
    assert remedy in message
    assert found is permanent


@pytest.mark.parametrize(
    ("image", "engine", "fault"),
    [
        ("amd64", "amd64", False),
        ("amd64", "x86_64", False),
        ("arm64", "aarch64", False),
        ("arm64", "amd64", True),
        ("amd64", "ARM64", True),
        ("aarch64", "x86_64", True),
        ("", "amd64", False),
        ("arm64", "", False),
        ("386", "amd64", False),  # runs there
    ],
)
def test_an_image_for_other_cpus_is_recognised(image: str, engine: str, *, fault: bool) -> None:
    said = architecture_fault(only_cpu(), image, engine)
    assert ("services.cpu.container.image" in said) is fault


@pytest.mark.parametrize(
    ("text", "remedy", "permanent"),
    [
        ('Get "https://r/v2/": dial tcp: lookup r: no such host', "docker load", False),
        ("pull access denied for i, repository does not exist or may require 'docker login': denied", "log in", True),
        ("manifest for i:latest not found: manifest unknown", "container.image", True),
    ],
)
def test_what_a_registry_says(text: str, remedy: str, *, permanent: bool) -> None:
    message, found = pull_fault(only_cpu(), text)
    assert remedy in message
    assert found is permanent


def test_how_it_ended() -> None:
    def ended(code: int, *lines: str, out_of_memory: bool = False, asked: bool = False) -> ExitStatus:
        return exit_status(code, name="gpu", out_of_memory=out_of_memory, asked=asked, last_lines=lines)

    assert ended(0) == ExitStatus(code=0)
    assert ended(143) == ExitStatus(signal=15)
    assert "dmesg" in str(ended(137))
    assert ended(137, asked=True) == ExitStatus(signal=9)
    assert "out of memory" in str(ended(137, out_of_memory=True))
    assert "daemon-reload" in str(ended(1, "x", "Failed to initialize NVML: y"))
    assert "services.gpu.args.gpu-memory-utilization" in str(
        ended(1, "ValueError: No available memory for the cache blocks.")
    )
    assert ended(255) == ExitStatus(code=255)
