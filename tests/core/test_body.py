# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Bodies of clients: whatever is in them, reading them neither raises nor builds what nobody asked for."""

import contextlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.errors import BadRequestError
from syshaxd.core.handover.bodies import CHAT_PATH, COMPLETIONS_PATH, continuation_body, movable_body, prefill_body
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.rules import KNOWN_FIELDS, split_of
from syshaxd.core.wire import body as body_module
from syshaxd.core.wire.body import UNREADABLE, BodyReader, RequestBody, as_bool, as_int, encode, raw_fields
from syshaxd.gateway import bodies as gateway_bodies

NEEDED = gateway_bodies._NEEDED
READER = BodyReader((*KNOWN_FIELDS, *NEEDED), NEEDED)
PADDING = "x" * (body_module.SMALL_BYTES + 1)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["4", "4.0", "true", "yes"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
fields = st.dictionaries(st.sampled_from(sorted({*KNOWN_FIELDS, *NEEDED})) | st.text(max_size=9), anything, max_size=6)


def same(left: Any, right: Any) -> bool:
    return bool(json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True))


@given(fields)
def test_a_small_body_is_read_as_python_reads_it(values: dict[str, Any]) -> None:
    data = json.dumps(values).encode()
    read = READER.read(data)
    assert same(dict(read), json.loads(data))
    assert not read.unknown


@given(fields)
def test_of_a_large_body_the_known_fields_are_read(values: dict[str, Any]) -> None:
    values = {**values, "user": PADDING}
    try:
        read = READER.read(json.dumps(values, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, UnicodeError):
        return  # NaN, or half a character
    known = {name: value for name, value in values.items() if name in KNOWN_FIELDS or name in NEEDED}
    if len(known) == len(values):
        assert same(dict(read), values)
    else:
        assert read.unknown in values or read.unknown == "a field"
        assert same(dict(read), {name: value for name, value in values.items() if name in NEEDED})


@given(fields, st.sampled_from([CHAT_PATH, COMPLETIONS_PATH]), st.booleans())
def test_nothing_that_placement_or_a_hand_over_reads_can_raise(values: dict[str, Any], path: str, large: bool) -> None:
    read = READER.read(json.dumps({**values, "user": PADDING} if large else values).encode())
    assert isinstance(gateway_bodies.model_of(read), str)
    assert isinstance(gateway_bodies.streams(read), bool)
    limit = gateway_bodies.answer_limit(path, read)
    assert limit is None or 0 <= limit < 2**31
    for refuse in (gateway_bodies.refuse_router_fields, gateway_bodies.refuse_stored):
        with contextlib.suppress(BadRequestError):
            refuse(read)
    if split_of(read).whole_because:
        return
    answer = JoinedAnswer(path, read)
    assert answer.stream is (values.get("stream") or False)
    for built in (
        prefill_body(read, "k"),
        movable_body(read, "k"),
        *(
            continuation_body(
                read,
                chat=chat,
                plain_text=plain_text,
                keeps_special_tokens=not plain_text,
                prompt_ids=[1],
                generated_ids=[2],
                grammar_tokens=1,
                max_model_len=100,
                load="k",
                save="s",
            )
            for chat in (True, False)
            for plain_text in (True, False)
        ),
    ):
        assert isinstance(json.loads(built), dict)


@given(st.binary(max_size=300) | fields.map(lambda values: json.dumps(values).encode()[:-1]))
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    try:
        known = json.loads(data)
    except (ValueError, RecursionError):
        known = None
    if isinstance(known, dict):
        assert same(dict(READER.read(data)), known)
    elif known is not None:
        with pytest.raises(BadRequestError):
            READER.read(data)
    else:
        try:
            read = READER.read(data)
        except BadRequestError:
            return
        assert isinstance(read, RequestBody)  # strings that are not UTF-8 are the instance's business


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"a":' + b"9" * 400_000 + b"}}",
        b'{"a":NaN,"b":"' + PADDING.encode() * 5 + b'"}',
        b"\xff" * 2_000_000,
    ],
)
def test_hostile_bodies_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequestError):
        READER.read(data)


@pytest.mark.parametrize(
    "field",
    [
        b'"messages":[' + b"{}," * 900_000 + b"{}]",
        b'"messages":[{"content":[' + b"{}," * 900_000 + b"{}]}]",
        b'"messages":[' + b'"",' * 900_000 + b'""]',
        b'"prompt":[' + b"1," * 900_000 + b"[]]",
        b'"tools":[' + b"{}," * 900_000 + b"{}]",
        b'"stop":[' + b"[]," * 900_000 + b"[]]",
        b'"stream":[' + b"{}," * 900_000 + b"{}]",
        b'"max_tokens":[' + b"{}," * 900_000 + b"{}]",
        b'"kv_transfer_params":[' + b"{}," * 900_000 + b"{}]",
        b'"unknown":[' + b"{}," * 900_000 + b"{}]",
        b",".join(b'"k%d":{}' % number for number in range(250_000)),
    ],
)
def test_a_large_body_takes_little_memory_whatever_is_in_it(field: bytes) -> None:
    data = b'{"model":"m",%b}' % field
    tracemalloc.start()
    read = READER.read(data)
    assert gateway_bodies.model_of(read) == "m"
    assert split_of(read).stays_because
    gateway_bodies.streams(read)
    gateway_bodies.answer_limit(CHAT_PATH, read)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(data)


def test_fields_that_nobody_decodes_go_out_as_they_came() -> None:
    data = b'{"temperature":1.10,"logit_bias":{"1" :1e2},"user":"\\u00e9"}'
    assert encode(raw_fields(READER.read(data))) == data
    read = READER.read(b'{"user":"\\ud800","top_p":NaN}')
    assert encode(raw_fields(read) | {"n": 1}) == b'{"user":"\\ud800","top_p":NaN,"n":1}'


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (4, 4),
        (4.0, 4),
        ("4", 4),
        (" 4.0 ", 4),
        ("-3", -3),
        (True, 1),
        (4.5, None),
        ("4.5", None),
        ("many", None),
        (None, None),
        ([], None),
        ({}, None),
        (float("inf"), None),
        (float("nan"), None),
        (UNREADABLE, None),
    ],
)
def test_whole_numbers_are_read_as_vllm_reads_them(value: Any, number: int | None) -> None:
    assert as_int(value) == number


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (True, True),
        ("true", True),
        ("TRUE", True),
        ("yes", True),
        ("1", True),
        (1, True),
        (1.0, True),
        (False, False),
        ("no", False),
        (2, False),
        (None, False),
        ([1], False),
        ({"a": 1}, False),
        (UNREADABLE, False),
    ],
)
def test_truth_values_are_read_as_vllm_reads_them(value: Any, truth: bool) -> None:
    assert as_bool(value) is truth


_OVER = 301_000


@pytest.mark.parametrize(
    "body",
    [
        b"{%s}" % b",".join([b'"model":1'] * _OVER),
        b"{%s}" % b",".join([b'"model" \n:1'] * _OVER),
        b"{%s}" % b",".join([b'"\\u006dodel":1'] * _OVER),
        b'{"messages":[{%s}]}' % b",".join([b'"content":1'] * _OVER),
    ],
    ids=["known", "spaces", "escaped", "nested"],
)
def test_a_body_of_very_many_keys_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="more than 300000 keys"):
        READER.read(body)


def test_text_that_looks_like_keys_is_no_key() -> None:
    text = json.dumps({"model": "m", "prompt": json.dumps({"a": 1}) * _OVER}).encode()
    assert READER.read(text)["model"] == "m"


@pytest.mark.parametrize("nested", [b"[],", b"{},", b"[{}],", b"[" * 500 + b"]" * 500 + b","])
def test_a_body_of_very_many_arrays_and_objects_is_refused(nested: bytes) -> None:
    depth = nested.count(b"[") + nested.count(b"{")
    for count, is_refused in ((2_900_000, False), (3_100_000, True)):
        body = b'{"messages":[%s0]}' % (nested * (count // depth))
        with (
            pytest.raises(BadRequestError, match="more than 3000000 arrays") if is_refused else contextlib.nullcontext()
        ):
            READER.read(body)
