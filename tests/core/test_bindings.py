# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances with the CPUs that the configuration gives them, on hosts of every size."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch.bound import Bound, Host
from syshaxd.core.launch.cpu_binding import bind_instances, refusal
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.numa import Accelerator, AcceleratorKind, Binding, Dialect, Node, NumaTopology, Rule, Weights

_GIB = 2**30


def host(nodes: int = 4, cpus_each: int = 40, *, allowed: tuple[int, ...] | None = None) -> Host:
    """A host of equal nodes without SMT, with a GPU on the last one; 4 times 40 CPUs are the seed's server."""
    cpus = [tuple(range(node * cpus_each, (node + 1) * cpus_each)) for node in range(nodes)]
    gpu = Accelerator(kind=AcceleratorKind.GPU, address="0000:17:00.0", vendor="NVIDIA", node=nodes - 1)
    topology = NumaTopology(
        nodes=tuple(Node(id=node, cpus=cpus[node], memory_bytes=64 * _GIB) for node in range(nodes)),
        cores=tuple((cpu,) for node in cpus for cpu in node),
        accelerators=(gpu,),
    )
    return Host(topology=topology, allowed_cpus=allowed)


def bind(where: Host, *, gpu: dict[str, Any] | None = None, cpu: dict[str, Any] | None = None, **rest: Any) -> Bound:
    ours = {"runtime": "process", "python": "/venv/bin/python"}
    services = {name: ours | given if given is not None else {"enabled": False} for name, given in _by_name(gpu, cpu)}
    config = parse({"services": services, "models": {"path": "/models/m"}} | rest)
    return bind_instances(config, instance_specs(config), where)


def _by_name(gpu: dict[str, Any] | None, cpu: dict[str, Any] | None) -> list[tuple[str, dict[str, Any] | None]]:
    return [("gpu", gpu), ("cpu", cpu)]


def rules(bound: Bound, name: str) -> set[Rule]:
    return {fault.rule for fault in bound.faults.get(name, ())}


def patched(affinity: str, threads: int) -> dict[str, Any]:
    return {
        "env": {"INFERENCE_OP_MODE": "fused", "CUSTOM_CPU_AFFINITY": affinity, "OMP_NUM_THREADS": threads, "NRC": 4}
    }


class TestThoseThatNameNoCpus:
    def test_share_the_host(self) -> None:
        bound = bind(host(), gpu={}, cpu={})
        assert refusal(bound) is None
        assert [spec.cores for spec in bound.specs] == [(), ()]

    def test_beside_one_that_does(self) -> None:
        assert refusal(bind(host(), gpu={"cores": "0-3"}, cpu={})) is None


class TestThoseOfTheEmbeddedProfile:
    """Two stock instances on the CPU, each on its half of the cores."""

    @staticmethod
    def service(cores: str) -> dict[str, Any]:
        return {"device": "cpu", "cores": cores, "env": {"VLLM_CPU_OMP_THREADS_BIND": cores}}

    def test_on_two_cores(self) -> None:
        assert refusal(bind(host(1, 2), gpu=self.service("0"), cpu=self.service("1"))) is None

    def test_on_a_single_core_they_share_it(self) -> None:
        assert refusal(bind(host(1, 1), gpu=self.service("0"), cpu=self.service("0"))) is None

    def test_on_a_single_core_of_many(self) -> None:
        assert refusal(bind(host(allowed=(7,)), gpu=self.service("7"), cpu=self.service("7"))) is None

    def test_sharing_is_a_fault_where_it_need_not_be(self) -> None:
        bound = bind(host(1, 2), gpu=self.service("0"), cpu=self.service("0"))
        assert Rule.OVERLAP in rules(bound, "gpu") & rules(bound, "cpu")


class TestThoseThatAreWrong:
    def test_every_fault_of_every_instance_comes_with_what_is_right(self) -> None:
        bound = bind(host(), gpu={"cores": "200"}, cpu=patched("0-39,40-59", 61))
        assert rules(bound, "gpu") >= {Rule.EXISTS}
        assert rules(bound, "cpu") >= {Rule.BALANCE, Rule.THREADS}
        error = refusal(bound)
        assert error is not None
        assert {fault.key for fault in error.faults} == {"services.gpu", "services.cpu", "numa.enforce"}
        assert "services.gpu: [exists] cores: CPU 200: this host has CPUs 0-159; valid: cores=" in str(error)
        assert "OMP_NUM_THREADS=62 CUSTOM_CPU_AFFINITY=0-30,40-70" in str(error)

    def test_advice_keeps_nothing_from_starting(self) -> None:
        bound = bind(host(), cpu={"cores": "0-39", "env": {"OMP_NUM_THREADS": 4, "VLLM_CPU_OMP_THREADS_BIND": "0-38"}})
        assert rules(bound, "cpu") == {Rule.NO_EFFECT}
        assert refusal(bound) is None

    def test_secrets_are_not_shown(self) -> None:
        bound = bind(host(), cpu={"cores": "200", "env": {"HF_TOKEN": "hush"}})
        assert "hush" not in str(refusal(bound))

    def test_external_instances_are_somebody_elses(self) -> None:
        assert not bind(host(), gpu={"runtime": "external", "cores": "200"}).faults


class TestAuto:
    def test_the_gpu_gets_cores_near_it_and_the_cpu_even_shares_of_the_rest(self) -> None:
        bound = bind(host(), gpu={"cores": "auto"}, cpu={"cores": "auto", "env": {"INFERENCE_OP_MODE": "fused"}})
        assert not bound.faults
        gpu, cpu = bound.specs
        assert gpu.cores == (156, 157, 158, 159)
        assert len(cpu.cores) == 4 * 36
        assert dict(cpu.env)["OMP_NUM_THREADS"] == "144"

    def test_as_many_threads_as_are_asked_for(self) -> None:
        env = {"INFERENCE_OP_MODE": "fused", "OMP_NUM_THREADS": 80}
        assert len(bind(host(), cpu={"cores": "auto", "env": env}).specs[0].cores) == 80

    def test_a_rank_for_each_node(self) -> None:
        (spec,) = bind(host(), cpu={"cores": "auto", "args": {"tensor_parallel_size": 4}}).specs
        assert dict(spec.env)["VLLM_CPU_OMP_THREADS_BIND"] == "0-38|40-78|80-118|120-158"

    def test_it_leaves_others_their_cores(self) -> None:
        bound = bind(host(), gpu={"cores": "0-3"}, cpu={"cores": "auto", "env": {"INFERENCE_OP_MODE": "fused"}})
        assert not set(bound.specs[0].cores) & set(bound.specs[1].cores)

    def test_the_number_of_cores_for_the_gpu(self) -> None:
        assert bind(host(), gpu={"cores": "auto"}, numa={"gpu_cores": 2}).specs[0].cores == (158, 159)

    def test_nothing_is_left(self) -> None:
        with pytest.raises(ConfigError, match=r"services\.cpu\.cores: .*no core is free"):
            bind(host(1, 2), gpu={"cores": "0-1"}, cpu={"cores": "auto"})


class TestMemory:
    """Four nodes of 64 GiB."""

    @staticmethod
    def bind(weights: Weights, **cpu: Any) -> Bound:
        ours = {"runtime": "process", "python": "/venv/bin/python"}
        config = parse({"services": {"gpu": {"enabled": False}, "cpu": ours | cpu}, "models": {"path": "/models/m"}})
        return bind_instances(config, instance_specs(config), host(), {"cpu": weights})

    def test_a_model_that_is_too_large_for_its_node_is_a_fault(self) -> None:
        bound = self.bind(Weights(stored_bytes=65 * _GIB), cores="0-39")
        (fault,) = bound.faults["cpu"]
        assert fault.rule is Rule.MEMORY
        assert fault.proposal is not None
        assert fault.proposal.ranks == 4

    def test_the_kv_cache_counts(self) -> None:
        env = {"VLLM_CPU_KVCACHE_SPACE": 40}
        assert rules(self.bind(Weights(stored_bytes=20 * _GIB), cores="0-39", env=env), "cpu") == set()
        assert rules(self.bind(Weights(stored_bytes=30 * _GIB), cores="0-39", env=env), "cpu") == {Rule.MEMORY}

    @pytest.mark.parametrize(
        ("stored", "dtype", "fits"),
        [
            ("float32", "auto", True),
            ("float32", "half", True),
            ("float32", "float", False),
            ("bfloat16", "auto", False),
            ("bfloat16", "float32", False),
            ("", "half", False),
        ],
    )
    def test_the_type_in_which_weights_are_loaded_counts(self, stored: str, dtype: str, fits: bool) -> None:
        bound = self.bind(Weights(stored_bytes=100 * _GIB, dtype=stored), cores="0-39", args={"dtype": dtype})
        assert (Rule.MEMORY not in rules(bound, "cpu")) is fits

    def test_quantised_weights_are_smaller(self) -> None:
        env = {"INFERENCE_OP_MODE": "fused", "OMP_NUM_THREADS": 40, "CUSTOM_CPU_AFFINITY": "0-39", "NRC": 4}
        assert Rule.MEMORY in rules(self.bind(Weights(stored_bytes=100 * _GIB), env=env), "cpu")
        assert Rule.MEMORY not in rules(
            self.bind(Weights(stored_bytes=100 * _GIB), env=env | {"SYSHAX_QUANTIZE": "q4_0"}), "cpu"
        )

    def test_auto_takes_as_many_nodes_as_the_model_needs(self) -> None:
        env = {"INFERENCE_OP_MODE": "fused", "OMP_NUM_THREADS": 30}
        assert (
            len(
                host().topology.by_node(
                    self.bind(Weights(stored_bytes=150 * _GIB), cores="auto", env=env).specs[0].cores
                )
            )
            == 3
        )


class TestWhatTheyAreToKeepTo:
    def test_threads_and_memory(self) -> None:
        cpu = {"cores": "0-39", "env": {"VLLM_CPU_OMP_THREADS_BIND": "0-38"}}
        bound = bind(host(), gpu={"cores": "156-159"}, cpu=cpu)
        assert bound.bindings["cpu"] == Binding(
            dialect=Dialect.STOCK, groups=(tuple(range(39)),), cpuset=tuple(range(40)), memory_nodes=(0,)
        )
        assert bound.bindings["gpu"].memory_nodes == (3,)
        assert bound.owners() == {"gpu": (156, 157, 158, 159), "cpu": tuple(range(40))}

    def test_the_images_kernels_lay_weights_on_every_node(self) -> None:
        assert bind(host(), cpu=patched("0-39", 40)).bindings["cpu"].memory_nodes == ()

    def test_what_is_left_to_vllm_is_not_held_against_it(self) -> None:
        bound = bind(host(), gpu={}, cpu={"cores": "0-79"})
        assert bound.bindings.keys() == {"cpu"}
        assert bound.bindings["cpu"].groups == ()
        assert bound.bindings["cpu"].memory_nodes == (0, 1)

    def test_a_container_gets_the_memory_of_its_nodes(self) -> None:
        docker = {"runtime": "docker", "container": {"image": "syshax-vllm-cpu"}}
        env = {"INFERENCE_OP_MODE": "fused", "OMP_NUM_THREADS": 40}
        (spec,) = bind(host(1), cpu=docker | {"cores": "auto", "env": env}).specs
        assert spec.container is not None
        assert spec.container.cpuset_mems == "0"
        mems = docker | {"cores": "0-39", "container": docker["container"] | {"cpuset_mems": "1"}}
        assert bind(host(), cpu=mems).bindings["cpu"].memory_nodes == (1,)


class TestOnDemandModels:
    """Instances of models that never run side by side may have the same cores."""

    @staticmethod
    def cores_of(
        where: Host,
        *,
        services: dict[str, Any],
        always: tuple[str, ...] = (),
        weights: dict[str, Weights] | None = None,
    ) -> dict[str, tuple[int, ...]]:
        """The CPUs of each instance; each has a model of its own."""
        ours: dict[str, Any] = {"role": "gpu", "runtime": "process", "python": "/venv/bin/python", "cores": "auto"}
        config = parse(
            {
                "services": {
                    name: ours | its | {"port": 9000 + at, "model": f"m-{name}"}
                    for at, (name, its) in enumerate(services.items())
                },
                "models": {
                    f"m-{name}": {"path": "/m", "start": "always" if name in always else "on-demand"}
                    for name in services
                },
            }
        )
        bound = bind_instances(config, instance_specs(config), where, weights)
        assert refusal(bound) is None
        return {spec.name: spec.cores for spec in bound.specs}

    def test_that_take_turns_on_a_gpu_share_cores(self) -> None:
        cores = self.cores_of(host(), services={name: {"gpus": [gpu]} for name, gpu in (("a", 0), ("b", 0), ("c", 1))})
        assert cores["a"] == cores["b"]
        assert not {*cores["a"]} & {*cores["c"]}, "they may run at the same time"

    def test_share_nothing_with_what_always_runs(self) -> None:
        halves = {"gpus": [0], "args": {"gpu-memory-utilization": 0.4}}
        cores = self.cores_of(host(), services=dict.fromkeys("ab", halves) | {"c": {"gpus": [1]}}, always=("a", "c"))
        assert len({cpu for cpus in cores.values() for cpu in cpus}) == sum(map(len, cores.values()))

    def test_that_fit_side_by_side_share_only_if_there_are_too_few_cores(self) -> None:
        cpus = {name: {"role": "cpu"} for name in "abc"}
        apart = self.cores_of(host(), services=cpus)
        assert len({cpu for its in apart.values() for cpu in its}) == sum(map(len, apart.values())) == 120
        together = self.cores_of(host(nodes=1, cpus_each=2), services=cpus)
        assert together == dict.fromkeys("abc", (0, 1))

    def test_that_take_turns_in_memory_have_all_cores(self) -> None:
        cpus, where = {name: {"role": "cpu"} for name in "ab"}, host(nodes=1)
        small, large = (dict.fromkeys("ab", Weights(stored_bytes=size * _GIB)) for size in (8, 40))
        assert [len(its) for its in self.cores_of(where, services=cpus, weights=small).values()] == [20, 20]
        assert [len(its) for its in self.cores_of(where, services=cpus, weights=large).values()] == [40, 40]

    @given(
        instances=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((None, 0, 1))), min_size=2, max_size=6),
        on_demand=st.sets(st.sampled_from("abc")),
        nodes=st.integers(1, 4),
        cpus_each=st.integers(1, 12),
    )
    def test_only_models_that_take_turns_ever_share_cores(
        self, instances: list[tuple[str, int | None]], on_demand: set[str], nodes: int, cpus_each: int
    ) -> None:
        """Each instance serves a model, on a GPU or on CPUs."""
        ours: dict[str, Any] = {"runtime": "process", "python": "/venv/bin/python", "cores": "auto"}
        ours |= {"args": {"gpu-memory-utilization": 0.15}}
        services = {
            f"i{at}": ours
            | {"port": 9000 + at, "model": model}
            | ({"role": "cpu"} if gpu is None else {"role": "gpu", "gpus": [gpu]})
            for at, (model, gpu) in enumerate(instances)
        }
        models = {
            model: {"path": "/m", "start": "on-demand" if model in on_demand else "always"}
            for model in {model for model, _ in instances}
        }
        config = parse({"services": services, "models": models})
        try:
            bound = bind_instances(config, instance_specs(config), host(nodes, cpus_each))
        except ConfigError:
            return
        for one, other in combinations(bound.specs, 2):
            if set(one.cores) & set(other.cores):
                assert {one.served_model, other.served_model} <= on_demand
                assert one.served_model != other.served_model
