# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Any number of instances of several models, as the configuration describes them."""

from typing import Any

import pytest

from syshaxd.core.config import (
    enabled_services,
    find_key,
    get_value,
    keys_in,
    model_of,
    parse,
    parse_text,
    path_of,
    set_value,
)
from syshaxd.core.config.diff import changed_keys, changes
from syshaxd.core.errors import ConfigError
from syshaxd.core.handover.connector import EngineFiles, LaunchHost
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.types import Device, HandoverProtocol, Role

GIB = 1 << 30
LLAMA = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 9}


def fleet(**more: Any) -> dict[str, Any]:
    """Two models: a chat model on two GPUs and the CPU, and one that computes vectors."""
    ours = {"runtime": "process", "python": "/venv/bin/python"}
    return {
        "services": {
            "chat": ours | {"role": "gpu", "model": "qwen2.5-7b", "replicas": 2, "port": 8101},
            "chat-cpu": ours | {"role": "cpu", "model": "qwen2.5-7b", "port": 8111, "args": {"max_model_len": 512}},
            "vectors": {"role": "cpu", "model": "minilm", "port": 8121},
        },
        "models": {
            "qwen2.5-7b": {"path": "/models/qwen", "aliases": ["chat"], "args": {"max-model-len": 8192, "seed": 1}},
            "minilm": None,
        },
    } | more


def faults_of(mapping: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(mapping)
    faults = {fault.key: fault.problem for fault in caught.value.faults}
    assert len(faults) == len(caught.value.faults), "one fault for each key"
    return faults


def edited(mapping: dict[str, Any], **values: Any) -> dict[str, Any]:
    for key, value in values.items():
        mapping = set_value(mapping, key.replace("__", "."), value)
    return mapping


def host(*names: str) -> LaunchHost:
    files = EngineFiles(version="0.32.0", model=LLAMA)
    return LaunchHost(engines=dict.fromkeys(names, files), shm_total_bytes=64 * GIB)


def test_replicas_are_instances_with_ports_counted_up() -> None:
    services = enabled_services(parse(fleet()))
    assert {name: service.port for name, service in services.items()} == {
        "chat-0": 8101,
        "chat-1": 8102,
        "chat-cpu": 8111,
        "vectors": 8121,
    }
    assert [service.role for service in services.values()] == [Role.GPU, Role.GPU, Role.CPU, Role.CPU]


def test_gpu_and_cpu_are_there_only_if_named_beside_other_services() -> None:
    mapping = fleet()
    mapping["services"]["gpu"] = {"port": 9000}
    assert [*enabled_services(parse(mapping))] == ["gpu", "chat-0", "chat-1", "chat-cpu", "vectors"]
    assert enabled_services(parse(mapping))["gpu"].role is Role.GPU


def test_gpu_may_have_replicas() -> None:
    assert [*enabled_services(parse({"services": {"gpu": {"replicas": 2, "port": 9001}}}))] == ["gpu-0", "gpu-1", "cpu"]


def test_a_model_has_names_a_folder_and_arguments_for_all_its_instances() -> None:
    specs = {spec.name: spec for spec in instance_specs(parse(fleet()))}
    for name, length in (("chat-0", "8192"), ("chat-1", "8192"), ("chat-cpu", "512")):
        line = " ".join(specs[name].argv)
        assert "--model /models/qwen --served-model-name qwen2.5-7b chat --host" in line
        assert line.replace("_", "-").count(f"--max-model-len {length}") == line.count("-len") == 1
        assert "--seed 1" in line
    assert specs["vectors"].served_model == "minilm"
    assert specs["vectors"].device is Device.CPU
    assert (specs["chat-1"].key, specs["chat-cpu"].key) == ("services.chat", "services.chat-cpu")


def test_the_default_model_may_be_one_of_the_models() -> None:
    config = parse({"services": {"gpu": {}}, "models": {"default": "chat", "chat": {"aliases": ["c"]}}})
    assert model_of(config, config.services.gpu).names == ("chat", "c")
    mapping = {"models": {"default": "chat", "path": "/m", "aliases": ["x"], "chat": None}}
    assert set(faults_of(mapping)) == {"models.path", "models.aliases"}


def test_a_folder_in_a_service_is_other_weights_of_the_default_model() -> None:
    config = parse({"services": {"cpu": {"model": "/models/other"}}, "models": {"path": "/models/m"}})
    models = [model_of(config, service) for service in enabled_services(config).values()]
    assert [(model.name, model.path) for model in models] == [("default", "/models/m"), ("default", "/models/other")]


def test_every_fault_at_once() -> None:
    mapping = {
        "services": {
            "a": {"role": "gpu", "port": 8001, "replicas": 3, "model": "chat"},
            "a-1": {"role": "gpu", "port": 8002},
            "b": {"role": "cpu", "port": 8003, "model": "chta"},
            "_c": {"role": "cpu", "port": 8010},
            "d": {"role": "gpu", "port": 65535, "replicas": 2, "runtime": "process", "python": "p", "model": "chat"},
        },
        "models": {"chat": {"aliases": ["x", "default"]}, "idle": None},
    }
    assert faults_of(mapping) == {
        "services.a-1": "is also the name of a replica of services.a",
        "services._c": "a name has up to 40 letters, digits, `-` and `_`, the first no `-` or `_`",
        "services.b.model": "no model chta under `models`; available: chat, idle. The path of a folder contains a `/`",
        "models.idle": "no service serves it; set services.NAME.model to idle",
        "models.chat.aliases": "default is already a name by models.default",
        "models.chat.path": "required by services.d with runtime `process`: the folder of the weights",
        "services.b.port": "8003 is already taken by services.a.port",
        "services._c.port": "8010 is already taken by services.conductor.port",
        "services.d.port": "with 2 replicas, ports exceed 65535",
    }


def test_a_role_that_is_not_there_hides_no_other_fault() -> None:
    mapping = {
        "services": {
            "a": {"port": 8001, "model": "chta"},
            "b": {"role": "npu", "port": 8001, "model": "chat"},
            "cpu": {"role": "gpu", "model": "chat"},
        },
        "models": {"chat": None},
    }
    assert faults_of(mapping) == {
        "services.a.role": "required: gpu or cpu",
        "services.b.role": 'must be gpu or cpu, not "npu"',
        "services.cpu.role": 'must be cpu, not "gpu"',
        "services.a.model": "no model chta under `models`; available: chat. The path of a folder contains a `/`",
        "services.b.port": "8001 is already taken by services.a.port",
    }


def test_what_a_service_must_have() -> None:
    assert faults_of({"services": {"chat": {"model": "x"}}}) == {
        "services.chat.role": "required: gpu or cpu",
        "services.chat.port": "required: a whole number from 1 to 65535",
    }


@pytest.mark.parametrize(
    ("aliases", "key", "problem"),
    [
        ((["x"], ["x"]), "models.b.aliases", "x is already a name by models.a.aliases"),
        ((["x", "x"], []), "models.a.aliases", "x is given twice"),
        (([], ["b"]), "models.b.aliases", "b is given twice"),
        (([], ["a"]), "models.b.aliases", "a is already a name by models.a"),
    ],
)
def test_an_alias_given_twice(aliases: tuple[list[str], list[str]], key: str, problem: str) -> None:
    services = {name: {"role": "gpu", "port": port, "model": name} for name, port in (("a", 1), ("b", 2))}
    models = {name: {"aliases": its} for name, its in zip("ab", aliases, strict=True)}
    assert faults_of({"services": services, "models": models}) == {key: problem}


# Keys.


@pytest.mark.parametrize(
    ("key", "name", "path"),
    [
        ("services.chat.port", "services.chat.port", ["services", "chat", "port"]),
        ("services.chat.env.A.B", "services.chat.env.NAME", ["services", "chat", "env", "A.B"]),
        ("models.qwen2.5-7b.path", "models.qwen2.5-7b.path", ["models", "qwen2.5-7b", "path"]),
        ("models.q2.5.args.a.b", "models.q2.5.args.NAME", ["models", "q2.5", "args", "a.b"]),
        ("models.params.test_tokens", "models.params.test_tokens", ["models", "params", "test_tokens"]),
    ],
)
def test_keys_of_services_and_models(key: str, name: str, path: list[str]) -> None:
    assert find_key(key).name == name
    assert path_of(key) == path
    assert get_value(set_value({}, key, 5), key) == 5


@pytest.mark.parametrize("key", ["services.chat.container.port", "services.gpu.prot", "services.conductor.role"])
def test_no_section_takes_the_keys_of_another(key: str) -> None:
    with pytest.raises(ConfigError, match="no such key"):
        find_key(key)


def test_keys_in_a_file_have_the_names_that_are_there() -> None:
    names = {key.name for key in keys_in(fleet())}
    assert {"services.chat.port", "services.chat-cpu.env.NAME", "models.qwen2.5-7b.args.NAME"} <= names
    assert not [name for name in names if ".NAME." in name]
    for name in names:
        assert find_key(name).name == name
    assert parse_text("services.chat.replicas", "3") == 3


def test_a_service_that_is_new_or_gone_is_one_change() -> None:
    old, new = parse(fleet()), parse(edited(fleet(), services__more__role="cpu", services__more__port=1))
    assert changed_keys(old, new) == changed_keys(new, old) == ("services.more",)
    grown = parse(edited(fleet(), services__chat__replicas=3))
    found = changes(old, grown, instance_specs(old), instance_specs(grown))
    assert (found.keys, found.added, found.replaced, found.removed) == (
        ("services.chat.replicas",),
        ("chat-2",),
        (),
        (),
    )


# What the instances of one model share.


def test_instances_of_one_model_hand_over_unless_configured() -> None:
    specs = instance_specs(parse(fleet()), host("chat-0", "chat-1", "chat-cpu"))
    assert {spec.name: spec.protocol for spec in specs} == {
        "chat-0": HandoverProtocol.CONNECTOR,
        "chat-1": HandoverProtocol.CONNECTOR,
        "chat-cpu": HandoverProtocol.CONNECTOR,
        "vectors": HandoverProtocol.NONE,
    }
    assert specs[-1].protocol_doubt == "no other instance serves its model"


def containers(**services: Any) -> dict[str, tuple[str, str | None]]:
    ours = {"runtime": "docker", "container": {"image": "i"}, "model": "m"}
    mapping = {
        "services": {name.replace("_", "-"): ours | service for name, service in services.items()},
        "models": {"m": {"path": "/m"}},
    }
    specs = instance_specs(parse(mapping))
    return {spec.name: (spec.container.ipc, spec.depends_on) for spec in specs if spec.container}


def test_the_cpus_join_the_namespace_of_the_one_gpu() -> None:
    gpu, cpus = {"role": "gpu", "port": 1}, {"role": "cpu", "port": 2, "replicas": 2}
    joins = ("container:vllm_one", "one")
    assert containers(one=gpu, help=cpus) == {"one": ("shareable", None), "help-0": joins, "help-1": joins}


def test_a_separate_container_keeps_the_namespace_of_several_gpus() -> None:
    gpus, cpu = {"role": "gpu", "port": 1, "replicas": 2}, {"role": "cpu", "port": 3}
    donor = ("donor", None)
    assert containers(gpus=gpus, help=cpu) == {"gpus-0": donor, "gpus-1": donor, "help": donor}


def test_replicas_have_containers_of_their_own() -> None:
    ours = {"runtime": "docker", "role": "gpu", "port": 1, "replicas": 2, "model": "m"}
    container = {"image": "i", "name": "mine"}
    mapping = {"services": {"a": ours | {"container": container}}, "models": {"m": {"path": "/m"}}}
    specs = instance_specs(parse(mapping))
    assert [spec.container and spec.container.name for spec in specs] == ["mine-0", "mine-1"]
    mapping["services"]["a"]["container"] = container | {"ports": ["9:9"]}
    assert set(faults_of(mapping)) == {"services.a.container.ports"}
