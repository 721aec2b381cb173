# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.config import (
    Config,
    describe,
    enabled_services,
    find_key,
    get_value,
    known_keys,
    parse,
    parse_text,
    set_value,
    unset_value,
)
from syshaxd.core.errors import ConfigError
from syshaxd.core.types import Device, RuntimeKind


def faults_of(mapping: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(mapping)
    faults = {fault.key: fault.problem for fault in caught.value.faults}
    assert len(faults) == len(caught.value.faults), "one fault for each key"
    return faults


def nested(key: str, value: Any) -> dict[str, Any]:
    return set_value({}, key, value)


# parse


def test_nothing_is_a_usable_configuration() -> None:
    config = parse({})
    assert config == Config()
    assert (config.services.gpu.port, config.services.cpu.port, config.services.conductor.port) == (8001, 8002, 8010)
    assert [*enabled_services(config)] == ["gpu", "cpu"]


def test_sections_without_content_are_as_if_left_out() -> None:
    assert parse({"services": {"gpu": None, "cpu": {"env": None, "args": None}}, "models": None}) == Config()


def test_values_arrive() -> None:
    config = parse(
        {
            "services": {
                "gpu": {"runtime": "external", "device": "cpu", "cores": "0-3"},
                "cpu": {"args": {"max-model-len": 8192, "trust-remote-code": True, "x": [1, "a"]}, "env": {"A": 4}},
            },
            "monitor": {"interval_s": 2},
        }
    )
    gpu, cpu = config.services.gpu, config.services.cpu
    assert (gpu.runtime, gpu.device, gpu.cores) == (RuntimeKind.EXTERNAL, Device.CPU, "0-3")
    assert cpu.args == {"max-model-len": 8192, "trust-remote-code": True, "x": [1, "a"]}
    assert cpu.env == {"A": 4}
    assert config.monitor.interval_s == 2.0


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("services.gpu.port", 0, "must be a whole number from 1 to 65535, not 0"),
        ("services.gpu.port", 65536, "must be a whole number from 1 to 65535, not 65536"),
        ("services.gpu.port", "8001", 'must be a whole number from 1 to 65535, not "8001"'),
        ("services.gpu.port", True, "must be a whole number from 1 to 65535, not true"),
        ("services.gpu.port", None, "must be a whole number from 1 to 65535, not null"),
        ("services.gpu.host", "", "must be a name or an IP address, not '': a label between its dots is empty"),
        ("services.gpu.host", 5, "must be text, not 5"),
        ("services.gpu.enabled", "perhaps", 'must be true or false, not "perhaps"'),
        ("services.gpu.runtime", "podman", 'must be process or docker or external, not "podman"'),
        ("services.cpu.device", "npu", 'must be cuda or cpu, not "npu"'),
        ("services.cpu.cores", "3-1", "'3-1' in '3-1' is empty: a range runs upwards with a step of at least 1"),
        ("services.cpu.max_num_seqs", 0, "must be a whole number of at least 1, not 0"),
        ("services.cpu.args", [1], "must be a mapping, not a list"),
        ("services.cpu.args.a", {"b": 1}, "must be true or false, a number, text or a list, not a mapping"),
        ("services.cpu.env.A", True, "must be text or a number"),
        ("services.cpu.env.A", [1], "must be text or a number"),
        ("system.max_queue_size", -1, "must be a whole number of at least 0, not -1"),
        ("system.request_timeout_s", 0, "must be a number over 0, not 0"),
        ("system.request_timeout_s", float("nan"), "must be a number over 0, not NaN"),
        ("system.request_timeout_s", float("inf"), "must be a number over 0, not Infinity"),
        ("decider.gpu_cache_threshold", 1.1, "must be a number from 0 to 1, not 1.1"),
        ("decider.gpu_cache_threshold", True, "must be a number from 0 to 1, not true"),
        ("models.default", "", 'must be text, not ""'),
        ("models.params.temperature", -1, "must be a number from 0 to 2, not -1"),
        ("models.params", "hot", 'must be a mapping, not "hot"'),
        ("models", 7, "must be a mapping, not 7"),
        ("gateway.max_body_bytes", "x" * 99, f'must be a whole number of at least 1, not "{"x" * 56}...'),
    ],
)
def test_a_wrong_value(key: str, value: Any, problem: str) -> None:
    mapping: Any = value
    for part in reversed(key.split(".")):
        mapping = {part: mapping}
    assert faults_of(mapping) == {key: problem}


def test_a_file_that_is_no_mapping() -> None:
    assert faults_of([1]) == {"": "must be a mapping, not a list"}


PORTS = ("services.gpu.port", "services.cpu.port", "services.conductor.port", "control.tcp.port")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("services.gpu.prot", "no such key; did you mean services.gpu.port?"),
        ("services.gpuu", "no such key; did you mean services.gpu?"),
        ("service", "no such key; did you mean services?"),
        ("monitor.intervall", "no such key; did you mean monitor.interval_s?"),
        ("quux", "no such key; `syshax config --help` lists all"),
    ],
)
def test_an_unknown_key(key: str, problem: str) -> None:
    mapping: Any = 1
    for part in reversed(key.split(".")):
        mapping = {part: mapping}
    assert faults_of(mapping) == {key: problem}


def test_names_that_are_not_text() -> None:
    faults = faults_of({1: {}, "services": {"cpu": {"env": {2: "x"}}}})
    assert faults == dict.fromkeys(("1", "services.cpu.env.2"), "the name must be a string; quote it")


def test_all_faults_come_at_once() -> None:
    mapping = {
        "services": {"gpu": {"port": 0, "runtime": "x"}, "cpu": {"args": {"a": {}, "b": None, "c": [[1]]}}},
        "monitor": {"interval_s": "1"},
        "nonsense": 1,
    }
    assert set(faults_of(mapping)) == {
        "services.gpu.port",
        "services.gpu.runtime",
        "services.cpu.args.a",
        "services.cpu.args.c",
        "monitor.interval_s",
        "nonsense",
    }


@pytest.mark.parametrize(
    "services",
    [
        {"gpu": {"env": {"HF_TOKEN": ["s3cret"]}}},
        {"gpu": {"env": {"HARMLESS": {"a": "s3cret"}}}},
        {"gpu": {"env": "HF_TOKEN=s3cret"}},
        {"gpu": {"env": ["HF_TOKEN=s3cret"]}},
        {"gpu": [{"env": {"HF_TOKEN": "s3cret"}}]},
        {"gpu": {"args": {"api-key": {"a": "s3cret"}}}},
        {"gpu": {"hf_token": "s3cret"}},
    ],
)
def test_no_fault_shows_a_secret(services: Any) -> None:
    assert "s3cret" not in str(faults_of({"services": services}))


def test_two_on_one_port() -> None:
    mapping = {"services": {"gpu": {"port": 8002}, "conductor": {"port": 8002}}}
    taken = "8002 is already taken by services.conductor.port"
    assert faults_of(mapping) == {"services.gpu.port": taken, "services.cpu.port": taken}


def test_the_same_port_on_other_hosts_and_of_disabled_services() -> None:
    parse({"services": {"gpu": {"host": "10.0.0.1"}, "cpu": {"host": "10.0.0.2", "port": 8001}}})
    parse({"services": {"gpu": {"enabled": False}, "cpu": {"port": 8001}}})


def test_what_a_process_needs() -> None:
    mapping = {"services": {"gpu": {"runtime": "process"}}}
    assert faults_of(mapping) == {
        "services.gpu.python": "required with runtime `process`: the Python interpreter with vLLM",
        "services.gpu.model": "required with runtime `process`, here or as models.path",
    }
    parse({"services": {"gpu": {"runtime": "process", "python": "/p"}}, "models": {"path": "/m"}})


def test_nothing_to_run() -> None:
    mapping = {"services": {"gpu": {"enabled": False}, "cpu": {"enabled": False}}}
    assert faults_of(mapping) == {"services": "neither gpu nor cpu is enabled; enable at least one"}


def test_a_cap_under_its_base() -> None:
    mapping = {"lifecycle": {"backoff_base_s": 100, "backoff_cap_s": 1}}
    assert faults_of(mapping) == {"lifecycle.backoff_cap_s": "must not be less than lifecycle.backoff_base_s"}


# Keys


def test_every_key_is_described() -> None:
    for key in describe():
        assert key.meaning.endswith("."), key.name
        assert key.allowed, key.name
    assert len({key.name for key in describe()}) == len(describe())
    assert "services.cpu.env" in known_keys()
    assert find_key("services.gpu.port").allowed == "a whole number from 1 to 65535"
    assert find_key("services.gpu.port").default == "8001"
    assert find_key("batches.file_ttl_s").default == "2592000", "whole numbers have no exponent"
    assert find_key("services.cpu.env.ANY.THING").name == "services.cpu.env.NAME"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        (
            "services.gpu.container.volumes",
            "/home/models:/home/models, /etc/x:/etc/x:ro",
            ["/home/models:/home/models", "/etc/x:/etc/x:ro"],
        ),
        ("services.gpu.container.command", '["python3", "-m", "vllm"]', ["python3", "-m", "vllm"]),
        ("services.gpu.container.gpus", "all", "all"),
        ("services.gpu.container.gpus", "2", 2),
        ("services.gpu.container.gpus", "0,1", ["0", "1"]),
        ("services.gpu.container.gpus", "[3]", [3]),
    ],
)
def test_lists_on_a_command_line(key: str, text: str, value: object) -> None:
    assert parse_text(key, text) == value


def test_every_default_is_what_its_key_takes() -> None:
    for key in describe():
        if key.default:
            service = {"role": "gpu", "port": 1, "model": "NAME"}
            whole = {"services": {"NAME": service}, "models": {"NAME": None}} if ".NAME." in key.name else {}
            parse(set_value(whole, key.name, parse_text(key.name, key.default)))


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("gpu.port", "no such key; did you mean services.gpu.port?"),
        (
            "port",
            "no such key; did you mean " + " or ".join(PORTS) + "?",
        ),
        ("services.gpu", "is a section; name one of its keys, such as services.gpu.enabled"),
        ("services.gpu.env", "is a section; name one of its keys, such as services.gpu.env.NAME"),
        ("services.gpu.env.", "is a section; name one of its keys, such as services.gpu.env.NAME"),
        ("services.gpu.port.x", "no such key; did you mean services.gpu.port?"),
        ("", "no such key; `syshax config --help` lists all"),
    ],
)
def test_keys_that_do_not_exist(key: str, problem: str) -> None:
    for act in (find_key, lambda key: parse_text(key, "1"), lambda key: set_value({}, key, 1)):
        with pytest.raises(ConfigError) as caught:
            act(key)
        assert [(fault.key, fault.problem) for fault in caught.value.faults] == [(key, problem)]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("services.gpu.port", "8001", 8001),
        ("services.gpu.enabled", "no", False),
        ("services.gpu.device", "cuda", "cuda"),
        ("services.gpu.python", "/p", "/p"),
        ("decider.gpu_cache_threshold", "0.5", 0.5),
        ("models.default", "8", "8"),
        ("services.cpu.args.n", "8192", 8192),
        ("services.cpu.args.n", "1.5", 1.5),
        ("services.cpu.args.flag", "true", True),
        ("services.cpu.args.flag", "null", None),
        ("services.cpu.args.list", '[1, "a"]', [1, "a"]),
        ("services.cpu.args.json", '{"method": "ngram"}', '{"method": "ngram"}'),
        ("services.cpu.args.dotted.name", "x y", "x y"),
        ("services.cpu.args.n", "NaN", "NaN"),
        ("services.cpu.args.s", '"quoted"', '"quoted"'),
        ("services.cpu.env.A", "4", 4),
        ("services.cpu.env.A", "007", "007"),
        ("services.cpu.env.A", "0.10", "0.10"),
        ("services.cpu.env.A", "1e3", "1e3"),
        ("services.cpu.env.A", "true", "true"),
        ("services.cpu.env.A", "[1]", "[1]"),
        ("services.cpu.env.A", "", ""),
    ],
)
def test_the_text_of_a_command_line(key: str, text: str, value: Any) -> None:
    got = parse_text(key, text)
    assert (type(got), got) == (type(value), value)
    parse(nested(key, got))


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("services.gpu.port", "80.5", 'must be a whole number from 1 to 65535, not "80.5"'),
        ("services.gpu.enabled", "maybe", 'must be true or false, not "maybe"'),
        ("services.gpu.runtime", "podman", 'must be process or docker or external, not "podman"'),
        ("monitor.interval_s", "nan", 'must be a number over 0, not "nan"'),
    ],
)
def test_text_that_a_key_does_not_take(key: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(key, text)
    assert [(fault.key, fault.problem) for fault in caught.value.faults] == [(key, problem)]


# Reading and changing a mapping by key

_NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]) | st.sampled_from("-_."), min_size=1)
_KEYS = st.sampled_from(describe()).flatmap(
    lambda key: _NAMES.map(key.name.removesuffix("NAME").__add__) if key.has_entries else st.just(key.name)
)
_VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=8), _KEYS, _VALUES)
def test_what_is_set_is_got_and_nothing_else_changes(others: list[tuple[str, Any]], key: str, value: Any) -> None:
    mapping: dict[str, Any] = {}
    for other, other_value in others:
        mapping = set_value(mapping, other, other_value)
    before = copy.deepcopy(mapping)
    changed = set_value(mapping, key, value)
    assert mapping == before
    assert get_value(changed, key) == value
    for other, _ in others:
        if other != key:
            assert get_value(changed, other) == get_value(mapping, other)
    cleared = unset_value(changed, key)
    assert get_value(cleared, key, "unset") == "unset"
    assert get_value(changed, key) == value


def test_a_default_where_nothing_is_set() -> None:
    assert get_value({"services": None}, "services.gpu.port", 7) == 7
    assert get_value({"services": [1]}, "services.gpu.port", 7) == 7
    assert unset_value({"services": None}, "services.gpu.port") == {"services": None}


def test_a_section_that_becomes_empty_stays_usable() -> None:
    mapping = unset_value({"monitor": {"interval_s": 1.0}}, "monitor.interval_s")
    assert mapping == {"monitor": None}
    assert parse(mapping) == Config()


def test_a_value_where_a_section_should_be() -> None:
    with pytest.raises(ConfigError, match=r"services\.gpu: must be a section"):
        set_value({"services": {"gpu": 3}}, "services.gpu.port", 1)


def test_keys_are_frozen_and_plain() -> None:
    assert dataclasses.is_dataclass(describe()[0])
    json.dumps([[key.name, key.allowed, key.default, key.meaning] for key in describe()])


def test_a_tcp_port_of_the_control_plane_needs_certificates() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"control": {"tcp": {"port": 8010}}})
    assert [fault.key for fault in caught.value.faults] == [
        "control.tcp.cert",
        "control.tcp.key",
        "control.tcp.client_ca",
        "control.tcp.port",
    ]
    files = {"cert": "c.pem", "key": "k.pem", "client_ca": "ca.pem"}
    assert parse({"control": {"tcp": {"port": 8011, **files}}}).control.tcp.port == 8011


@pytest.mark.parametrize(("text", "problem"), [("x\0y", "a NUL"), ("x\ud800", "half a surrogate")])
@pytest.mark.parametrize(
    "key",
    [
        "services.gpu.env.A",
        "services.cpu.args.chat-template",
        "services.gpu.python",
        "services.gpu.model",
        "services.gpu.container.volumes",
        "models.path",
        "models.default",
        "offload.arena_dir",
        "control.socket",
    ],
)
def test_text_that_no_program_can_be_given(key: str, text: str, problem: str) -> None:
    value: Any = [text] if key.endswith("volumes") else text
    for part in reversed(key.split(".")):
        value = {part: value}
    with pytest.raises(ConfigError, match=problem) as error:
        parse(value)
    assert [fault.key for fault in error.value.faults] == [key]


def test_a_name_that_no_program_can_be_given() -> None:
    with pytest.raises(ConfigError, match="a NUL character in its name"):
        parse({"services": {"gpu": {"env": {"A\0": "1"}}}})
