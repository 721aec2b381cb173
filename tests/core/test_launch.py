# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from typing import Any

import pytest

from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch import instance_specs
from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind

OWN = ("--model", "/m/tiny", "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", "8001")


def gpu_spec(**service: Any) -> InstanceSpec:
    """The spec of a GPU service that syshaxd starts, with these keys of its own."""
    gpu = {"runtime": "process", "python": "/venv/bin/python"} | service
    config = parse(
        {"services": {"gpu": gpu, "cpu": {"enabled": False}}, "models": {"default": "tiny", "path": "/m/tiny"}}
    )
    (spec,) = instance_specs(config)
    return spec


def flags(**args: Any) -> tuple[str, ...]:
    """What `args` becomes on the command line."""
    return gpu_spec(args={key.replace("__", "-"): value for key, value in args.items()}).argv[13:]


def test_the_whole_command_line() -> None:
    spec = gpu_spec(max_num_seqs=64, args={"max-model-len": 4096}, env={"A": 1, "B": "x"}, cores="0-1,4")
    assert spec == InstanceSpec(
        name="gpu",
        role=Role.GPU,
        device=Device.CUDA,
        runtime=RuntimeKind.PROCESS,
        model="/m/tiny",
        served_model="tiny",
        host="127.0.0.1",
        port=8001,
        argv=(
            *("/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server", *OWN),
            *("--max-num-seqs", "64", "--max-model-len", "4096"),
        ),
        env=(("A", "1"), ("B", "x")),
        cores=(0, 1, 4),
        max_num_seqs=64,
    )


def test_both_services_in_their_order() -> None:
    specs = instance_specs(parse({}))
    assert [(spec.name, spec.role, spec.device, spec.port) for spec in specs] == [
        ("gpu", Role.GPU, Device.CUDA, 8001),
        ("cpu", Role.CPU, Device.CPU, 8002),
    ]


def test_an_external_instance_has_no_command_line() -> None:
    gpu, _ = instance_specs(parse({"services": {"gpu": {"args": {"seed": 1}}}}))
    assert (gpu.runtime, gpu.argv, gpu.depends_on) == (RuntimeKind.EXTERNAL, (), None)


def test_the_role_does_not_bind_the_device() -> None:
    spec = gpu_spec(device="cpu")
    assert (spec.role, spec.device) == (Role.GPU, Device.CPU)


def test_a_model_of_its_own() -> None:
    assert gpu_spec(model="/m/int8").model == "/m/int8"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"seed": 7}, ("--seed", "7")),
        ({"gpu_memory_utilization": 0.5}, ("--gpu-memory-utilization", "0.5")),
        ({"enforce__eager": True}, ("--enforce-eager",)),
        ({"enforce__eager": False, "seed": None}, ()),
        ({"lora__modules": ["a=/a", "b=/b"]}, ("--lora-modules", "a=/a", "b=/b")),
        ({"max_logprobs": -1}, ("--max-logprobs=-1",)),
        ({"kv_transfer_config.kv_role": "kv_both"}, ("--kv-transfer-config.kv_role", "kv_both")),
        ({"max_num_seqs": 256}, ()),
        ({"b": 1, "a": 2}, ("--b", "1", "--a", "2")),
    ],
)
def test_arguments(args: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert flags(**args) == expected


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        ({"args": {"port": 9}}, "services.gpu.args.port: set services.gpu.port instead"),
        ({"args": {"served_model_name": "x"}}, "services.gpu.args.served_model_name: set models.default instead"),
        ({"args": {"model": "x"}}, "services.gpu.args.model: set services.gpu.model instead"),
        ({"args": {"host": "x"}}, "services.gpu.args.host: set services.gpu.host instead"),
        ({"args": {"max-num-seqs": 8}}, r"services.gpu.args.max-num-seqs: differs from .* \(256\)"),
        ({"args": {"--seed": 8}}, "services.gpu.args.--seed: not an argument's name"),
        ({"args": {"a-b": 8, "a_b": 8}}, "services.gpu.args.a_b: given twice, also as a-b"),
        ({"args": {"seed": []}}, "services.gpu.args.seed: a list needs"),
        ({"args": {"seed": [True]}}, "services.gpu.args.seed: a list needs"),
        ({"env": {"A=B": 8}}, "services.gpu.env.A=B: not a name"),
    ],
)
def test_faults(service: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        gpu_spec(**service)


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        gpu_spec(args={"port": 1, "host": "x"}, env={"": 1})
    assert [fault.key for fault in error.value.faults] == [
        "services.gpu.args.port",
        "services.gpu.args.host",
        "services.gpu.env.",
    ]
