# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.config.api_keys import Access, ApiKey, KeyRing, key_text, made, parse_keys, sha256
from syshaxd.core.errors import ConfigError, UnauthorizedError
from syshaxd.core.secrets import HIDDEN, safe_text

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True)
KEYS = st.builds(
    made,
    name=NAMES,
    sha256=st.text().map(sha256),
    access=st.sampled_from(Access),
    models=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    created_at_s=st.floats(0, 1e10),
    expires_at_s=st.none() | st.floats(0, 1e10),
)


def key(secret: str, **fields: Any) -> ApiKey:
    return made(**{"name": "alice", "sha256": sha256(secret)} | fields)


@given(st.lists(KEYS, unique_by=lambda each: each.name, max_size=4))
def test_a_file_holds_what_was_written(keys: list[ApiKey]) -> None:
    assert parse_keys(key_text(keys)) == tuple(keys)


@given(st.lists(st.text(), unique=True, max_size=5), st.text())
def test_a_key_is_found_by_itself_alone(secrets: list[str], given_: str) -> None:
    ring = KeyRing(key(secret, name=f"k{number}") for number, secret in enumerate(secrets))
    if given_ in secrets:
        assert ring.find(given_, 0.0).name == f"k{secrets.index(given_)}"
    else:
        with pytest.raises(UnauthorizedError, match="not valid"):
            ring.find(given_, 0.0)


def test_a_hash_with_the_same_beginning_is_another_key() -> None:
    other = sha256("a")[:16] + "0" * 48
    with pytest.raises(UnauthorizedError):
        KeyRing([key("", sha256=other)]).find("a", 0.0)


def test_a_key_is_valid_until_it_expires() -> None:
    ring = KeyRing([key("a", expires_at_s=86_400.0)])
    assert ring.find("a", 86_399.0).name == "alice"
    with pytest.raises(UnauthorizedError, match="alice expired at 1970-01-02 00:00 UTC"):
        ring.find("a", 86_400.0)


def test_all_faults_are_told_and_no_value_is() -> None:
    secret = "sk-syshax-a-key-that-was-put-where-its-hash-belongs"
    with pytest.raises(ConfigError) as caught:
        made(name="a b", sha256=secret, access="root", nothing=1)
    assert {fault.key for fault in caught.value.faults} == {"name", "sha256", "access", "nothing"}
    assert secret not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"keys": 1}', '{"keys": [{"name": "a"}]}', '{"version": 2}'])
def test_what_is_no_file_of_keys_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_keys(text)


def test_a_name_belongs_to_one_key() -> None:
    row = {"name": "alice", "sha256": sha256("a")}
    with pytest.raises(ConfigError, match="alice appears twice"):
        parse_keys(json.dumps({"keys": [row, row | {"sha256": sha256("b")}]}))


@given(st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True))
def test_a_key_is_hidden_in_any_text(random: str) -> None:
    assert safe_text(f"given: sk-syshax-{random}.") == f"given: {HIDDEN}."
