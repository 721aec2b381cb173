# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Old names of keys work in files and on command lines until the next release."""

from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.config import RENAMED_KEYS, find_key, full_keys, get_value, parse
from syshaxd.core.errors import ConfigError
from syshaxd.system import configfile

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())


def content(values: dict[str, float]) -> dict[str, Any]:
    """A file's content that sets these keys."""
    mapping: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        mapping.setdefault(section, {})[name] = value
    return mapping


def value_of(mapping: dict[str, Any], key: str) -> object:
    """The value of a key in the configuration that the content describes."""
    return get_value(parse(mapping).model_dump(), key)


def test_a_file_may_use_it(old: str, new: str) -> None:
    assert value_of(content({old: 7.0}), new) == 7.0
    assert value_of(content({new: 7.0}), old) == 7.0


def test_both_names_are_a_fault(old: str, new: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(content({old: 7.0, new: 8.0}))
    assert [fault.key for fault in caught.value.faults] == [old]
    assert new in str(caught.value)


def test_a_command_line_may_use_it(old: str, new: str) -> None:
    assert full_keys(old) == (new,)
    assert find_key(old) == find_key(new)
    assert get_value(content({old: 7.0}), new) == 7.0


def test_a_file_with_it_gets_a_warning(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "config.yaml"
    section, _, name = old.partition(".")
    path.write_text(f"{section}:\n  {name}: 7.0\n")
    path.chmod(0o600)
    (warning,) = configfile.warnings(path, configfile.load(path))
    assert f"{old} is now {new}" in warning


@pytest.mark.parametrize("by_old_name", [True, False])
@pytest.mark.parametrize("text", ["8", None])
def test_an_edit_replaces_it(old: str, new: str, text: str | None, *, by_old_name: bool) -> None:
    section, _, name = old.partition(".")
    before = f"{section}:\n  # mine\n  {name}: 7.0\n"
    after = configfile.edited(before, {old if by_old_name else new: text})
    assert f" {name}:" not in after
    assert get_value(configfile.parse_file(after).model_dump(), new) == (8.0 if text else value_of({}, new))


def test_the_changelog_lists_it(old: str, new: str) -> None:
    renamed = (ROOT / "CHANGELOG.md").read_text().partition("### Renamed")[2].partition("\n### ")[0]
    assert f"`{old}`: `{new}`" in renamed
