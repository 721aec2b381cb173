# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whatever was read of the host and of instances, the rest of the status reaches the client and can be shown."""

import io
import json
from random import Random
from typing import Any, NoReturn

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.cli import show
from syshaxd.cli.parity import parity_table
from syshaxd.cli.top import TopView
from syshaxd.client.client import _engine_status
from syshaxd.control import render
from syshaxd.control.messages import make
from syshaxd.core.parity import Agreement
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.report.status import status_json
from tests.fakes.engine import FakeEngine
from tests.fakes.odd import odd


def _no_number(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def _shown(what: Any, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(what)
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize("seed", range(12))
def test_any_status_arrives_and_is_shown(seed: int, width: int) -> None:
    status = odd(EngineStatus, Random(seed))
    wire = render.status(status, now_s=5.0).SerializeToString()
    got = _engine_status(api.GetStatusResponse.FromString(wire), 7.0)
    assert len(got.instances) == len(status.instances)
    assert [each.state for each in got.instances] == [each.state for each in status.instances]
    text = json.dumps(status_json(got, monotonic_s=7.0))
    text.encode()
    json.loads(text, parse_constant=_no_number)
    _shown(show.status_table(got, width=width, now_s=9.0, monotonic_s=7.0), width).encode()
    view = TopView()
    for _ in range(2):
        view.saw(got, now_s=9.0, monotonic_s=7.0)
        _shown(view.render(width=width, now_s=9.0, monotonic_s=7.0), width).encode()
    for report in got.parity:
        _shown(parity_table(report, width), width).encode()


def _of_a_later_version(message: Any) -> None:
    """Gives every enum of a message a value, and every word that is one of several a word, that nobody knows yet."""
    for field, told in message.ListFields():
        if field.enum_type is not None:
            setattr(message, field.name, 99)
        elif field.name in {"rule", "kind"}:
            setattr(message, field.name, "later")
        elif field.message_type is not None:
            several = told.values() if hasattr(told, "values") else told if hasattr(told, "__len__") else [told]
            for each in several:
                if isinstance(each, Message):
                    _of_a_later_version(each)
    message.MergeFromString(b"\xfa\x3e\x05later")  # a field that nobody knows yet


@pytest.mark.parametrize("seed", range(12))
def test_what_a_later_daemon_says_is_shown_as_it_is(seed: int) -> None:
    message = render.status(odd(EngineStatus, Random(seed)), now_s=5.0)
    _of_a_later_version(message)
    got = _engine_status(api.GetStatusResponse.FromString(message.SerializeToString()), 7.0)
    text = json.dumps(status_json(got, monotonic_s=7.0))
    assert not got.instances or '"state": "unknown-99"' in text
    table = _shown(show.status_table(got, width=1000, now_s=9.0, monotonic_s=7.0), 1000)  # where no odd text cuts it
    assert not got.instances or "unknown-99" in table
    _shown(TopView().render(width=200, now_s=9.0, monotonic_s=7.0), 200)
    for report in got.parity:
        assert report.verdict.agreement == "unknown-99"
        assert report.verdict.agreement is not Agreement.UNKNOWN
        assert "unknown-99" in _shown(parity_table(report, 200), 200)
    assert {drift.kind for its in got.bindings.values() for drift in its.drifts} <= {"later"}


@pytest.mark.parametrize("seed", range(20))
def test_any_status_is_json_for_the_dashboard_too(seed: int) -> None:
    status = odd(EngineStatus, Random(seed))
    json.loads(json.dumps(status_json(status, monotonic_s=7.0)), parse_constant=_no_number)


@settings(deadline=None)
@given(st.one_of(st.integers(), st.floats()), st.text(st.characters(codec=None, categories=None)))
def test_a_message_can_be_made_of_any_value(number: float, text: str) -> None:
    for kind in (api.InstanceLoad, api.GpuLoad, api.HostLoad, api.Handle, api.PromptReport):
        for field in kind.DESCRIPTOR.fields:
            if field.cpp_type not in {field.CPPTYPE_MESSAGE, field.CPPTYPE_BOOL}:
                made = make(kind, **{field.name: text if field.cpp_type == field.CPPTYPE_STRING else number})
                assert kind.FromString(made.SerializeToString()) == made


def test_what_does_not_fit_costs_only_itself() -> None:
    good = FakeEngine().status().snapshot.instances["gpu"]
    values = {"running": 5_000_000_000, "waiting": -1, "kv_usage_ratio": float("nan"), "error": "a\ud800b"}
    load = make(api.InstanceLoad, preemptions=10**400, prompt_tokens_per_s=good.prompt_tokens_per_s, **values)
    assert (load.running, load.waiting, load.kv_usage_ratio, load.error) == (2**32 - 1, 0, 0.0, "a?b")
    assert load.preemptions == 2**64 - 1
    assert load.prompt_tokens_per_s == good.prompt_tokens_per_s
    gpu = make(api.GpuLoad, busy_ratio=float("inf"), power_w=None)
    assert not gpu.HasField("busy_ratio")
    assert make(api.GetStatusResponse, inflight={"g\udcff": 10**30}).inflight == {"g?": 2**32 - 1}
    with pytest.raises(KeyError):
        make(api.GpuLoad, no_such_field=1)
