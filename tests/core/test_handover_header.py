# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Rules of syshax_connector.header and .settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshax_connector.header import BadHeaderError, Header, Model, Part, common_prefix, decode, encode
from syshax_connector.layout import Digit, Packed, Packing
from syshax_connector.settings import Settings, SettingsError, parse

MODEL = Model("m@1", "bfloat16", "r", 30, 3, 64)
PACKED = Packed(4, Packing((Digit(2, 8), Digit(2, 1)), (Digit(4, 2),)), Packing((Digit(4, 4),), (Digit(4, 1),)))
HEADER = Header(
    "k", "engine", MODEL, (Part("e.0.arena", "ab"), Part("e.1.arena", "cd", 7, PACKED)), 4096, 8192, 1.5, (1, 2, 3)
)
_TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=50)


@given(_TOKENS)
def test_what_is_written_is_read(token_ids: list[int]) -> None:
    header = replace(HEADER, token_ids=tuple(token_ids))
    assert decode(encode(header)) == header


@given(st.integers(0, len(encode(HEADER)) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    data = bytearray(encode(HEADER))
    data[place] ^= change
    with pytest.raises(BadHeaderError):
        decode(bytes(data))


@given(st.integers(0, len(encode(HEADER)) - 1))
def test_a_cut_off_file_is_noticed(length: int) -> None:
    with pytest.raises(BadHeaderError):
        decode(encode(HEADER)[:length])


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": -1},
        {"size": 0},
        {"parts": ()},
        {"parts": (Part("../x", "a"),)},
        {"parts": (Part(".x", "a"),)},
        {"parts": (Part("x", "a", packed=replace(PACKED, block_size=0)),)},
    ],
)
def test_a_header_that_points_elsewhere_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadHeaderError):
        decode(encode(replace(HEADER, **wrong)))


@pytest.mark.parametrize("name", ["identity", "dtype", "rope", "layers", "kv_heads", "head_size"])
def test_each_difference_between_models_is_named(name: str) -> None:
    assert MODEL.difference(MODEL) is None
    other = replace(MODEL, **{name: 1 if isinstance(getattr(MODEL, name), int) else "other"})
    assert name in str(MODEL.difference(other))


@given(_TOKENS, _TOKENS, _TOKENS)
def test_common_prefix(common: list[int], one: list[int], other: list[int]) -> None:
    length = common_prefix(common + one, common + other)
    assert length >= len(common)
    assert (common + one)[:length] == (common + other)[:length]
    ends = length in (len(common + one), len(common + other))
    assert ends or (common + one)[length] != (common + other)[length]


def test_settings_are_read() -> None:
    assert parse({}) == Settings()
    assert parse({"arena_dir": "/x", "arena_bytes": 1 << 20, "ttl_s": 1}).arena_dir == Path("/x")


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"arena": 1}, "arena"),
        ({"arena_dir": "x"}, "arena_dir"),
        ({"arena_dir": 1}, "arena_dir"),
        ({"arena_bytes": 1000}, "arena_bytes"),
        ({"arena_bytes": True}, "arena_bytes"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"ttl_s": "1"}, "ttl_s"),
        ({"wait_s": float("nan")}, "wait_s"),
        ({"sweep_s": 0}, "sweep_s"),
        ({"identity": 1}, "identity"),
        ({"payload_checksum": 1}, "payload_checksum"),
    ],
)
def test_each_wrong_setting_is_named(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse(extra)
