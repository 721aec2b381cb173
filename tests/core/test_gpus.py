# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which instance gets which GPUs."""

from dataclasses import replace
from typing import Any

import pytest

from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.loads import GpuLoad, Snapshot
from syshaxd.core.report.describe import device_text
from syshaxd.core.types import InstanceSpec

GPUS = tuple(
    GpuLoad(index=at, name="H100", uuid=f"GPU-{at}", busy_ratio=0.0, memory_used_bytes=0, memory_total_bytes=1)
    for at in range(4)
)


def service(port: int, **keys: Any) -> dict[str, Any]:
    return {"role": "gpu", "port": port, "runtime": "process", "python": "p", "model": "m"} | keys


def specs(**services: Any) -> dict[str, InstanceSpec]:
    config = parse({"services": services, "models": {"m": {"path": "/m"}}})
    return {spec.name: spec for spec in instance_specs(config)}


def faults(**services: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        specs(**services)
    return {fault.key: fault.problem for fault in caught.value.faults}


def test_replicas_share_a_list_out() -> None:
    found = specs(a=service(1, replicas=2, gpus=[0, 1, 2, 3], args={"tensor-parallel-size": 2}))
    assert [dict(spec.env) for spec in found.values()] == [
        {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    snapshot = Snapshot(gpus=GPUS)
    assert [device_text(spec, snapshot) for spec in found.values()] == ["H100 0-1", "H100 2-3"]


def test_containers_get_no_other_gpus() -> None:
    docker = {
        "runtime": "docker",
        "container": {"image": "i"},
        "gpus": [1, "GPU-3"],
        "args": {"tensor_parallel_size": 2},
    }
    (spec,) = specs(a=service(1) | docker).values()
    assert spec.container is not None
    assert spec.container.gpus == ("1", "GPU-3")
    assert not spec.env
    assert device_text(spec, Snapshot(gpus=GPUS)) == "H100 1,3"


def test_an_instance_that_names_no_gpus_has_all() -> None:
    (spec,) = specs(a=service(1)).values()
    assert device_text(spec, Snapshot(gpus=GPUS)) == "H100 0-3"
    confined = replace(spec, env=(("CUDA_VISIBLE_DEVICES", "2"),))
    assert device_text(confined, Snapshot(gpus=GPUS)) == "H100 2"


def test_no_gpu_is_promised_twice_unless_memory_shares_say_so() -> None:
    a, b = service(1, gpus=[0]), service(2, gpus=[0])
    assert "GPU 0 is promised to a, too" in faults(a=a, b=b)["services.b.gpus"]
    env = service(2, env={"CUDA_VISIBLE_DEVICES": 0})
    assert "GPU 0 is promised to a, too" in faults(a=a, b=env)["services.b.gpus"]
    assert "a-0" in faults(a=service(1, replicas=2, gpus=[0]))["services.a.gpus"]
    half = {"gpu-memory-utilization": 0.45}
    assert len(specs(a=a | {"args": half}, b=b | {"args": half})) == 2


@pytest.mark.parametrize(
    ("keys", "key", "problem"),
    [
        ({"gpus": [0, 1]}, "gpus", "1 are needed for each instance"),
        ({"gpus": [0, 0], "args": {"tensor-parallel-size": 2}}, "gpus", "a GPU is named twice"),
        ({"gpus": [0], "role": "cpu"}, "gpus", "the instance computes on the CPU"),
        ({"gpus": [0], "runtime": "external"}, "gpus", "syshaxd does not start this instance"),
        ({"gpus": [0], "env": {"CUDA_VISIBLE_DEVICES": "0"}}, "env.CUDA_VISIBLE_DEVICES", "leave out one of the two"),
        ({"gpus": []}, "gpus", "must be"),
        ({"gpus": ["x"]}, "gpus", "must be"),
        ({"gpus": [-1]}, "gpus", "must be"),
    ],
)
def test_what_is_wrong_with_a_list(keys: dict[str, Any], key: str, problem: str) -> None:
    assert problem in faults(a=service(1) | keys)[f"services.a.{key}"]
