# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""JSON of others: the quick parser and Python's give the same."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syshaxd.core import jsontext
from syshaxd.core.wire.body import BodyReader

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


def _by_json(text: str | bytes) -> str:
    try:
        return repr(json.loads(text))
    except (ValueError, RecursionError):
        return "refused"


def _by_us(text: str | bytes) -> str:
    try:
        return repr(jsontext.loads(text))
    except ValueError:
        return "refused"


@given(_VALUES.map(json.dumps))
def test_a_value_is_what_python_s_parser_makes_of_it(text: str) -> None:
    assert _by_us(text) == _by_us(text.encode()) == _by_json(text)


@given(st.text(st.sampled_from('{}[]",:\\0123456789.eE+-truefalsnNaIinity \t\n\x00\ud800é')))
@example('"\\ud800"')
@example('{"a": 1, "a": 2}')
@example("-0")
@example("-0.0")
@example("1e400")
@example("1" * 4000)
@example("0.1" + "1" * 400)
@example("\ufeff{}")
@example('"\x01"')
@example("[" * 100_000)
def test_odd_texts_are_taken_and_refused_as_by_python_s_parser(text: str) -> None:
    assert _by_us(text) == _by_json(text)
    data = text.encode("utf-8", "surrogatepass")
    assert _by_us(data) == _by_json(data)


@given(st.binary())
@example("{}".encode("utf-16"))
@example(b'"\xff"')
def test_so_are_odd_bytes(data: bytes) -> None:
    assert _by_us(data) == _by_json(data)


@pytest.mark.parametrize("read", [lambda body: "messages" in body, lambda body: body.get("tools")])
def test_asking_for_a_field_of_a_body_decodes_no_other(read: object) -> None:
    body = BodyReader(("messages",), ()).read(b'{"messages": [{"role": "user", "content": "a"}]}')
    assert callable(read)
    read(body)
    assert not body._decoded
