# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""PROTOCOL.md's examples are what the daemon sends and reads, and what the connector reads and says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import syshax_connector
from syshax_connector import protocol, settings
from syshax_connector.protocol import BadParamsError, Handover
from syshaxd.core.handover.bodies import continuation_body, prefill_body
from syshaxd.core.handover.connector import KV_TRANSFER_FLAG, connector_flags
from syshaxd.core.handover.dialect import ConnectorDialect

_TEXT = (Path(syshax_connector.__file__).parent / "PROTOCOL.md").read_text()
EXAMPLES = {name: json.loads(text) for name, text in re.findall(r"```json (\w+)\n(.*?)```", _TEXT, re.DOTALL)}


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("save", Handover("h-7f3a-1", "finish", None)),
        ("load", Handover(load_key="h-7f3a-1")),
        ("both", Handover("h-7f3a-2", "abort", "h-7f3a-1")),
        ("continued", Handover(load_key="h-7f3a-1", continued=2)),
    ],
)
def test_requests(name: str, meaning: Handover) -> None:
    assert protocol.parse(EXAMPLES[name]["kv_transfer_params"]) == meaning


def test_the_daemons_requests() -> None:
    body = {"model": "m", "messages": [], "max_tokens": 9}
    assert json.loads(prefill_body(body, "h-7f3a-1"))["kv_transfer_params"] == EXAMPLES["save"]["kv_transfer_params"]
    grammar = {"response_format": {"type": "json_object"}}
    for name, more, save in (("load", {}, None), ("both", {}, "h-7f3a-2"), ("continued", grammar, None)):
        sent = continuation_body(
            body | more,
            chat=True,
            plain_text=False,
            keeps_special_tokens=False,
            prompt_ids=[1, 881],
            generated_ids=[27, 402],
            grammar_tokens=2,
            max_model_len=None,
            load="h-7f3a-1",
            save=save,
        )
        assert json.loads(sent)["kv_transfer_params"] == EXAMPLES[name]["kv_transfer_params"]


def test_what_the_daemon_reads_in_answers() -> None:
    dialect = ConnectorDialect()
    assert dialect.load_key(EXAMPLES["saving"], "h-7f3a-1") == "h-7f3a-1"
    assert dialect.size_bytes(EXAMPLES["saving"]) == EXAMPLES["saving"]["kv_transfer_params"]["syshax"]["bytes"]
    assert dialect.load_key(EXAMPLES["refused"], "h-7f3a-1") is None


def test_answers() -> None:
    saving = EXAMPLES["saving"]["kv_transfer_params"]
    assert protocol.saving("h-7f3a-1", 1500, saving["syshax"]["bytes"]) == saving
    refused = EXAMPLES["refused"]["kv_transfer_params"]
    assert protocol.refused("h-7f3a-1", 1500, 0, refused["syshax"]["reason"]) == refused


def test_configuration() -> None:
    config = EXAMPLES["config"]
    assert settings.parse(config["kv_connector_extra_config"]).identity == "SmolLM2-135M-Instruct@main"
    flags = connector_flags(engine_id="gpu-8001", arena_dir="/dev/shm/syshax", arena_bytes=1 << 30)
    launched = json.loads(str(flags[KV_TRANSFER_FLAG]))
    extra = config["kv_connector_extra_config"]
    assert launched | {"kv_connector_extra_config": extra | launched["kv_connector_extra_config"]} == config
    for name in settings.Settings.__slots__:
        assert f"| `{name}` |" in _TEXT


@pytest.mark.parametrize("params", [None, {}, {"prompt_token_ids": [1]}, {"syshax": {}}, {"syshax": {"later": 1}}, "x"])
def test_nothing_is_asked_for(params: object) -> None:
    assert protocol.parse(params) == Handover()


@pytest.mark.parametrize(
    "entry",
    [
        1,
        {"save": 1},
        {"continued": "2"},
        {"continued": -1},
        {"continued": True},
        {"save": {}},
        {"load": {"key": 1}},
        {"load": {"key": ""}},
        {"load": {"key": "../../etc/passwd"}},
        {"load": {"key": "a/b"}},
        {"load": {"key": "a\n"}},
        {"load": {"key": "a" * 129}},
        {"save": {"key": "k", "on": "start"}},
        {"save": {"key": "k", "on": []}},
    ],
)
def test_a_malformed_entry_is_refused(entry: Any) -> None:
    with pytest.raises(BadParamsError):
        protocol.parse({"syshax": entry})
