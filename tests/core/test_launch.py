# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import json
from dataclasses import replace
from typing import Any

import pytest

from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.handover.connector import EngineFiles, LaunchHost, arena_dir, engine_id, identity
from syshaxd.core.handover.pairs import flag_value, refusal
from syshaxd.core.launch.instance_key import instance_key
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.types import Device, HandoverProtocol, InstanceSpec, Role, RuntimeKind
from syshaxd.instances.catalog import assumed

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


def test_a_model_may_have_several_names() -> None:
    content = {"services": {"gpu": {"runtime": "process", "python": "/p"}}, "models": {"path": "/m", "default": "a"}}
    content["models"]["aliases"] = ["b", "c"]
    spec = instance_specs(parse(content))[0]
    at = spec.argv.index("--served-model-name")
    assert spec.argv[at + 1 : at + 5] == ("a", "b", "c", "--host")
    assert (spec.served_model, spec.aliases) == ("a", ("b", "c"))
    assert set(assumed(spec).models) == {"a", "b", "c"}


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
        (
            {"args": {"served_model_name": "x"}},
            "services.gpu.args.served_model_name: set models.default and models.aliases instead",
        ),
        ({"args": {"model": "x"}}, "services.gpu.args.model: set services.gpu.model instead"),
        ({"args": {"host": "x"}}, "services.gpu.args.host: set services.gpu.host instead"),
        ({"args": {"max-num-seqs": 8}}, r"services.gpu.args.max-num-seqs: differs from .* \(256\)"),
        ({"args": {"--seed": 8}}, "services.gpu.args.--seed: not an argument name"),
        ({"args": {"a-b": 8, "a_b": 8}}, "services.gpu.args.a_b: given twice, also as a-b"),
        ({"args": {"seed": []}}, "services.gpu.args.seed: a list needs"),
        ({"args": {"seed": [True]}}, "services.gpu.args.seed: a list needs"),
        ({"env": {"A=B": 8}}, "services.gpu.env.A=B: not a valid name"),
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


MODEL = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 8, "num_key_value_heads": 2}
FILES = EngineFiles(version="0.32.0", model=MODEL, identity="m1")
HOST = LaunchHost(engines={"gpu": FILES, "cpu": FILES}, arena_dir="/dev/shm/x", shm_total_bytes=2**33)


def both(host: LaunchHost = HOST, **changes: Any) -> tuple[InstanceSpec, ...]:
    """Two instances that syshaxd starts."""
    service = {"runtime": "process", "python": "/venv/bin/python"}
    services = {"gpu": service | changes.pop("gpu", {}), "cpu": service | changes.pop("cpu", {})}
    return instance_specs(parse({"services": services, "models": {"path": "/m/tiny"}} | changes), host)


def test_instances_that_surely_can_get_the_connector_unasked() -> None:
    for spec in both(offload={"arena_bytes": 1000}):
        assert spec.protocol is HandoverProtocol.CONNECTOR
        assert json.loads(flag_value(spec, "kv-transfer-config")) == {
            "kv_connector": "SyshaxConnector",
            "kv_connector_module_path": "syshax_connector.connector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "engine_id": f"{spec.name}-{spec.port}",
            "kv_connector_extra_config": {"arena_dir": "/dev/shm/x", "arena_bytes": 1000, "identity": "m1"},
        }
        assert "--enable-prompt-tokens-details" in spec.argv


@pytest.mark.parametrize(
    ("host", "changes", "doubt"),
    [
        (LaunchHost(), {}, "exceed half of the shared memory"),
        (replace(HOST, shm_total_bytes=2**31), {}, "exceed half of the shared memory"),
        (
            replace(HOST, engines={"gpu": FILES}),
            {},
            "set services.cpu.protocol to connector if it is 0.26",
        ),
        (HOST, {"offload": {"enabled": False}}, "offload.enabled is false"),
        (HOST, {"cpu": {"runtime": "external"}}, "syshaxd does not start it"),
        (
            replace(HOST, engines={"gpu": FILES}),
            {"cpu": {"runtime": "docker", "container": {"image": "i"}}},
            "the vLLM version in its image is unknown: set services.cpu.protocol to connector",
        ),
        (replace(HOST, arena_fault="/dev/shm/x is a folder of user 7"), {}, "a folder of user 7"),
        (HOST, {"cpu": {"args": {"kv_offloading_size": "4G"}}}, "its kv-offloading-size is '4G', not a number of GiB"),
        (HOST, {"cpu": {"args": {"kv_cache_dtype": "fp8"}}}, "its KV cache is of fp8"),
        (HOST, {"cpu": {"args": {"pipeline-parallel-size": 2}}}, "its pipeline-parallel-size is 2"),
        (HOST, {"cpu": {"args": {"kv-transfer-config": "{}"}}}, "a kv-transfer-config already"),
        *(
            (HOST, {"cpu": {"args": args}}, "a kv-transfer-config already")
            for args in (
                {"kv_transfer_config": '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'},
                {"kv-transfer-config.kv_connector": "LMCacheConnectorV1", "kv-transfer-config.kv_role": "kv_both"},
                {"kv_transfer_config.kv_connector": "OffloadingConnector"},
            )
        ),
        (HOST, {"cpu": {"args": {"config": "/etc/vllm.yaml"}}}, "its args name a file of further ones (config)"),
        (HOST, {"cpu": {"args": {"runner": "pooling"}}}, "its runner pooling"),
        (HOST, {"cpu": {"args": {"task": "embed"}}}, "its task embed"),
        (HOST, {"cpu": {"args": {"convert": "classify"}}}, "its convert classify"),
        *(
            (replace(HOST, engines={"gpu": FILES, "cpu": replace(FILES, **files)}), {}, doubt)
            for files, doubt in (
                ({"version": "0.25.1"}, "older than 0.26"),
                ({"model": None}, "config.json was not found"),
                ({"model": {}}, "names no architecture"),
                ({"model": {"architectures": ["LlamaForCausalLM"]}}, "names no attention heads"),
                *(
                    ({"model": MODEL | {"architectures": [name]}}, rf"({name}) is not one that generates")
                    for name in (
                        "BertModel",
                        "XLMRobertaForSequenceClassification",
                        "ModernBertForTokenClassification",
                        "Qwen2ForRewardModel",
                        "T5EncoderModel",
                        "LlamaBidirectionalModel",
                    )
                ),
                ({"is_sentence_transformer": True}, "computes vectors"),
                ({"model": MODEL | {"is_causal": False}}, "in both directions"),
                ({"model": MODEL | {"use_bidirectional_attention": True}}, "in both directions"),
                ({"model": MODEL | {"kv_lora_rank": 512}}, "latent attention"),
                ({"model": MODEL | {"sliding_window": 4096}}, "sliding window"),
                ({"model": MODEL | {"layer_types": ["full_attention", "linear_attention"]}}, "several kinds"),
                ({"model": MODEL | {"is_encoder_decoder": True}}, "an encoder"),
            )
        ),
    ],
)
def test_any_doubt_about_one_instance_keeps_the_connector_from_both(
    host: LaunchHost, changes: dict[str, Any], doubt: str
) -> None:
    gpu, cpu = both(host, **dict(changes))
    for spec in (gpu, cpu):
        assert spec.protocol is HandoverProtocol.NONE
        assert "SyshaxConnector" not in " ".join(spec.argv)
    assert doubt in cpu.protocol_doubt
    assert doubt in refusal(gpu, cpu, {}).reason


def test_an_instance_that_is_told_to_have_the_connector_keeps_it_from_none() -> None:
    gpu, cpu = both(replace(HOST, engines={"cpu": FILES}), gpu={"protocol": "connector"})
    assert (gpu.protocol, cpu.protocol) == (HandoverProtocol.CONNECTOR, HandoverProtocol.CONNECTOR)
    assert not gpu.protocol_doubt


def test_what_is_known_of_an_instance_changes_nothing_in_what_is_started() -> None:
    unknown, known = (both(host, cpu={"runtime": "external"})[1] for host in (LaunchHost(), HOST))
    assert unknown.protocol_doubt != known.protocol_doubt
    assert unknown == known


def test_a_protocol_that_is_set_is_obeyed() -> None:
    gpu, cpu = both(LaunchHost(), gpu={"protocol": "connector"}, cpu={"protocol": "none"})
    assert (gpu.protocol, cpu.protocol) == (HandoverProtocol.CONNECTOR, HandoverProtocol.NONE)
    assert flag_value(gpu, "kv-transfer-config")
    assert not flag_value(cpu, "kv-transfer-config")


def test_a_model_with_a_sliding_window_that_is_not_used_has_none() -> None:
    model = MODEL | {"sliding_window": 4096, "use_sliding_window": False, "layer_types": ["full_attention"]}
    gpu, _ = both(replace(HOST, engines=dict.fromkeys(("gpu", "cpu"), replace(FILES, model=model))))
    assert gpu.protocol is HandoverProtocol.CONNECTOR


def test_the_connectors_flags_are_not_given_twice() -> None:
    details = {"args": {"enable-prompt-tokens-details": True}}
    gpu, _ = both(gpu=details)
    assert gpu.argv.count("--enable-prompt-tokens-details") == 1
    for args in ({"kv_transfer_config": "{}"}, {"kv-transfer-config.kv_connector": "NixlConnector"}):
        with pytest.raises(ConfigError, match=r"set services\.gpu\.protocol to none instead"):
            both(gpu={"protocol": "connector", "args": args})


def test_the_key_that_processes_inherit_is_known() -> None:
    """From the daemon's environment; what the configuration says has precedence, and containers inherit nothing."""
    host = replace(HOST, api_key="inherited")
    gpu, cpu = both(host, cpu={"env": {"VLLM_API_KEY": "own"}})
    assert (instance_key(gpu), instance_key(cpu)) == ("inherited", "own")
    _, cpu = both(host, cpu={"runtime": "docker", "container": {"image": "i"}})
    assert instance_key(cpu) == ""


@pytest.mark.parametrize("gpu", [{}, {"protocol": "connector"}])
def test_vllms_own_offloading_and_the_connector_run_together(gpu: dict[str, Any]) -> None:
    """vLLM's flag would put its own connector in the place of ours."""
    spec, _ = both(gpu=gpu | {"args": {"kv_offloading_size": 1.5, "kv-offloading-backend": "native"}})
    assert spec.protocol is HandoverProtocol.CONNECTOR
    assert not any("offloading" in part for part in spec.argv if part.startswith("--"))
    asked = json.loads(flag_value(spec, "kv-transfer-config"))
    ours, offloading = asked["kv_connector_extra_config"]["connectors"]
    assert (asked["kv_connector"], asked["engine_id"]) == ("MultiConnector", "gpu-8001")
    assert ours["kv_connector"] == "SyshaxConnector"
    assert offloading["kv_connector"] == "OffloadingConnector"
    assert offloading["kv_connector_extra_config"] == {"cpu_bytes_to_use": 3 << 29}
    assert {each["kv_load_failure_policy"] for each in (asked, ours, offloading)} == {"recompute"}
    # vLLM gives them the outer one, and takes no other.
    assert not any("engine_id" in each for each in (ours, offloading))
    plain, _ = both(gpu=gpu)
    assert arena_dir(spec.argv) == arena_dir(plain.argv)
    assert engine_id(spec.argv) == engine_id(plain.argv)
    assert identity(spec.argv) == identity(plain.argv) == FILES.identity


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        ({"args": {"kv-offloading-size": "4G"}}, "not a number of GiB"),
        (
            {"args": {"kv-offloading-size": 4, "kv-offloading-backend": "lmcache"}},
            "its kv-offloading-backend is lmcache",
        ),
        ({"args": {"kv-offloading-size": 4}, "env": {"VLLM_USE_SIMPLE_KV_OFFLOAD": 1}}, "VLLM_USE_SIMPLE_KV_OFFLOAD"),
    ],
)
def test_offloading_that_the_connector_cannot_stand_beside_is_a_fault_at_once(
    service: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{fault}.*services\.gpu\.protocol to none"):
        both(gpu=service | {"protocol": "connector"})
    gpu, _ = both(gpu=service | {"protocol": "none"})
    assert flag_value(gpu, "kv-offloading-size") == str(service["args"]["kv-offloading-size"])
    gpu, _ = both(gpu=service)
    assert gpu.protocol is HandoverProtocol.NONE


def test_checksums_are_asked_for_by_the_configuration() -> None:
    gpu, _ = both(offload={"verify": True})
    assert json.loads(flag_value(gpu, "kv-transfer-config"))["kv_connector_extra_config"]["payload_checksum"] is True


def test_models_whose_files_differ_are_no_pair() -> None:
    """Quantised, say: the connector would find that at each load."""
    gpu, cpu = both(replace(HOST, engines={"gpu": FILES, "cpu": replace(FILES, identity="m2")}))
    assert "their models' files differ" in refusal(gpu, cpu, {}).reason
    gpu, cpu = both(replace(HOST, engines={"gpu": FILES, "cpu": replace(FILES, identity="")}))
    assert "their models' files differ" in refusal(gpu, cpu, {}).reason
    unknown = replace(HOST, engines=dict.fromkeys(("gpu", "cpu"), replace(FILES, identity="")))
    gpu, cpu = both(unknown, cpu={"model": "/m/tiny-awq"})
    assert "/m/tiny and /m/tiny-awq" in refusal(gpu, cpu, {}).reason
    assert refusal(*both(unknown), {}).reason == "gpu has not been ready yet"
