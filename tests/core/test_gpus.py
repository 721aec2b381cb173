# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which instance gets which GPUs."""

from dataclasses import replace
from typing import Any

import pytest

from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch.bound import Host
from syshaxd.core.launch.cpu_binding import bind_instances
from syshaxd.core.launch.gpu_binding import Confined, HostGpus, confine_instances
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.loads import GpuLoad, Snapshot
from syshaxd.core.numa import Accelerator, AcceleratorKind, Node, NumaTopology, Rule, draw_topology
from syshaxd.core.report.describe import device_text, gpu_owners
from syshaxd.core.types import InstanceSpec

GPUS = tuple(
    GpuLoad(
        index=at,
        name="H100",
        uuid=f"GPU-{at}",
        address=f"0000:{at:02x}:00.0",
        busy_ratio=0.0,
        memory_used_bytes=0,
        memory_total_bytes=1,
    )
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
    (confined,) = specs(a=service(1, env={"CUDA_VISIBLE_DEVICES": 2})).values()
    assert device_text(confined, Snapshot(gpus=GPUS)) == "H100 2"


def test_no_gpu_is_promised_twice_unless_memory_shares_say_so() -> None:
    a, b = service(1, gpus=[0]), service(2, gpus=[0])
    assert "GPU 0 is given to a, too" in faults(a=a, b=b)["services.b.gpus"]
    env = service(2, env={"CUDA_VISIBLE_DEVICES": 0})
    assert "GPU 0 is given to a, too" in faults(a=a, b=env)["services.b.gpus"]
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


def confined(host: HostGpus, present: dict[str, tuple[str, ...]] | None = None, **services: Any) -> Confined:
    config = parse({"services": services, "models": {"m": {"path": "/m"}}})
    return confine_instances(config, instance_specs(config), host, topology_of(host), present)


def topology_of(host: HostGpus) -> NumaTopology:
    """Two nodes of 20 cores; the upper half of the GPUs is near to the second."""
    half = len(host.gpus) // 2
    return NumaTopology(
        nodes=(Node(id=0, cpus=tuple(range(20))), Node(id=1, cpus=tuple(range(20, 40)))),
        cores=tuple((cpu,) for cpu in range(40)),
        accelerators=tuple(
            Accelerator(kind=AcceleratorKind.GPU, address=gpu.address, vendor="NVIDIA", node=int(at >= half))
            for at, gpu in enumerate(host.gpus)
        ),
    )


def chosen(found: Confined) -> dict[str, tuple[str, ...]]:
    assert not found.faults
    return {spec.name: spec.gpus for spec in found.specs}


def problems(found: Confined) -> dict[str, str]:
    return {fault.key: fault.problem for fault in found.faults}


FOUR = HostGpus(gpus=GPUS)
PAIR = {"gpus": "auto", "args": {"tensor-parallel-size": 2}}
DOCKER = {"runtime": "docker", "container": {"image": "i"}}


def test_gpus_are_planned_for_processes_and_containers_with_cores_near_to_them() -> None:
    services = {"a": service(1, replicas=2) | PAIR | {"cores": "auto"}}
    found = confined(FOUR, **services)
    assert chosen(found) == {"a-0": ("0", "1"), "a-1": ("2", "3")}
    assert dict(found.specs[1].env) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert found.nodes == {"a-0": (0,), "a-1": (1,)}
    config = parse({"services": services, "models": {"m": {"path": "/m"}}})
    bound = bind_instances(config, found.specs, Host(topology=topology_of(FOUR)), near=found.nodes)
    assert [spec.cores for spec in bound.specs] == [(16, 17, 18, 19), (36, 37, 38, 39)]
    (spec,) = confined(FOUR, a=service(1) | PAIR | DOCKER).specs
    assert spec.container is not None
    assert spec.container.gpus == ("0", "1")


@pytest.mark.parametrize(
    ("args", "count"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 2, "pipeline-parallel-size": 2}, 4),
        ({"tensor-parallel-size": 2, "data-parallel-size": 2}, 4),
        ({"tensor-parallel-size": 2, "data-parallel-size": 8, "data-parallel-size-local": 1}, 2),
        ({"prefill-context-parallel-size": 2}, 2),
    ],
)
def test_an_instance_needs_as_many_gpus_as_its_arguments_say(args: dict[str, Any], count: int) -> None:
    assert chosen(confined(FOUR, a=service(1, gpus="auto", args=args)))["a"] == tuple(map(str, range(count)))
    assert chosen(confined(FOUR, a=service(1, gpus=count, args=args)))["a"] == tuple(map(str, range(count)))
    wrong = faults(a=service(1, gpus=count + 1, args=args))["services.a.gpus"]
    assert wrong.startswith(f"{count} are needed for each instance")


def test_an_instance_keeps_its_gpus_when_another_comes_or_goes() -> None:
    a, b, c = (service(port, gpus="auto") for port in (1, 2, 3))
    first = chosen(confined(FOUR, a=a, b=b))
    assert first == {"a": ("0",), "b": ("1",)}
    second = chosen(confined(FOUR, first, b=b, c=c))
    assert second == {"b": ("1",), "c": ("0",)}


def test_planned_gpus_are_none_that_others_name() -> None:
    named = {"a": service(1, gpus=["GPU-0"]), "b": service(2, env={"CUDA_VISIBLE_DEVICES": "1"})}
    assert chosen(confined(FOUR, **named, c=service(3, gpus="auto")))["c"] == ("2",)
    small = service(3, gpus="auto", args={"gpu-memory-utilization": 0.1})
    assert chosen(confined(HostGpus(gpus=GPUS[:1]), a=named["a"], c=small))["c"] == ("0",)


def test_the_gpus_that_the_daemon_may_use_are_a_limit() -> None:
    assert chosen(confined(replace(FOUR, visible="3,1"), a=service(1) | PAIR))["a"] == ("1", "3")
    assert chosen(confined(replace(FOUR, visible="GPU-2,7,1"), a=service(1, gpus="auto")))["a"] == ("2",)
    assert chosen(confined(replace(FOUR, visible="2"), a=service(1)))["a"] == ("2",), "it inherits the variable"
    found = confined(replace(FOUR, visible="2"), a=service(1, gpus=[1]), b=service(2) | PAIR)
    assert problems(found) == {
        "services.a.gpus": "GPU 1 is not in syshaxd's own CUDA_VISIBLE_DEVICES=2",
        "services.b.gpus": "b needs 2 GPUs with 90% of the memory free, but this host has 2 in CUDA_VISIBLE_DEVICES=2, "
        "of which a has 1",
    }


def test_all_faults_are_told_at_once() -> None:
    found = confined(
        HostGpus(gpus=GPUS[:2]),
        a=service(1, gpus=[5]),
        b=service(2, gpus=["GPU-1"]),
        c=service(3, gpus=[1]),
        d=service(4, gpus=["0", "GPU-0"], args={"tensor-parallel-size": 2}),
        e=service(5, gpus="auto"),
    )
    assert problems(found) == {
        "services.a.gpus": "GPU 5: this host has GPUs 0-1",
        "services.c.gpus": "GPU 1 is given to b, too; name others, or give each a share of its memory "
        "(args.gpu-memory-utilization), at most 1 together",
        "services.d.gpus": "a GPU is named twice, by its index and its UUID",
        "services.e.gpus": "e needs 1 GPU with 90% of the memory free, but this host has 0-1, of which a has 5; "
        "b has GPU-1; c has 1; d has 0,GPU-0",
    }


def test_without_a_driver_gpus_can_be_named_but_not_planned() -> None:
    found = confined(
        HostGpus(error="NVML has not answered for 20 s"), a=service(1, gpus="auto"), b=service(2, gpus=[1])
    )
    assert problems(found) == {"services.a.gpus": "a needs 1 GPU, but NVML has not answered for 20 s"}
    assert (
        "NVML shows none on this host" in problems(confined(HostGpus(), a=service(1, gpus="auto")))["services.a.gpus"]
    )


def test_a_divided_gpu_is_named_by_its_parts_and_not_planned() -> None:
    host = HostGpus(gpus=(replace(GPUS[0], parts=("MIG-a", "MIG-b")), GPUS[1]))
    found = confined(host, a=service(1, gpus=["MIG-a"]), b=service(2, gpus=["MIG-b"]), c=service(3, gpus="auto"))
    assert chosen(found) == {"a": ("MIG-a",), "b": ("MIG-b",), "c": ("1",)}
    snapshot = Snapshot(gpus=host.gpus)
    assert [device_text(spec, snapshot) for spec in found.specs] == ["H100 0 (MIG)", "H100 0 (MIG)", "H100 1"]
    wrong = problems(confined(host, a=service(1, gpus=[0]), b=service(2, gpus="auto"), c=service(3, gpus="auto")))
    assert wrong["services.a.gpus"] == "GPU 0 is divided (MIG): name one of its parts, MIG-a, MIG-b"
    assert "this host has 1, of which a has 0; b has 1" in wrong["services.c.gpus"]


def test_an_instance_that_names_none_beside_planned_ones_is_a_fault() -> None:
    told = faults(a=service(1, gpus="auto"), b=service(2), c=service(3) | DOCKER)
    assert {"services.b.gpus", "services.c.gpus"} == told.keys()
    assert "also those that are planned for a: set it to auto or to a list" in told["services.b.gpus"]


def test_cores_far_from_the_gpus_of_an_instance_are_told() -> None:
    config = parse({"services": {"a": service(1, gpus=[3], cores="0-3")}, "models": {"m": {"path": "/m"}}})
    found = confine_instances(config, instance_specs(config), FOUR, topology_of(FOUR))
    bound = bind_instances(config, found.specs, Host(topology=topology_of(FOUR)), near=found.nodes)
    (fault,) = bound.faults["a"]
    assert fault.rule is Rule.GPU_NODE
    assert not fault.blocking
    assert fault.detail == "none is near the instance's GPUs, which are on node 1 with CPUs 20-39"


def test_gpus_are_drawn_with_their_owners() -> None:
    found = confined(FOUR, a=service(1) | PAIR, b=service(2, gpus="auto"))
    drawn = draw_topology(topology_of(FOUR), {}, gpu_owners(found.specs, GPUS))
    assert [line.strip() for line in drawn if "GPU" in line] == [
        "NVIDIA GPU 0000:00:00.0 (a)",
        "NVIDIA GPU 0000:01:00.0 (a)",
        "NVIDIA GPU 0000:02:00.0 (b)",
        "NVIDIA GPU 0000:03:00.0",
    ]


def test_on_demand_models_share_planned_gpus_in_turns() -> None:
    services = {name: service(port, model=name) | PAIR for port, name in enumerate("mno", 1)}
    models = {"m": {"path": "/m"}, **{name: {"path": f"/{name}", "start": "on-demand"} for name in "no"}}
    config = parse({"services": services, "models": models})
    found = confine_instances(config, instance_specs(config), FOUR, topology_of(FOUR))
    assert chosen(found) == {"m": ("0", "1"), "n": ("2", "3"), "o": ("2", "3")}
