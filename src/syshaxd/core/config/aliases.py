# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Other names of keys: short ones of upstream sysHAX 0.2 (on command lines only), and old ones (in files too)."""

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

_SERVICES = ("gpu.", "cpu.", "conductor.")
SHORT_KEYS = {
    "host": ("services.gpu.host", "services.cpu.host", "services.conductor.host"),
    "model": ("models.default",),
    "maxtokens": ("models.params.test_tokens",),
    "temperature": ("models.params.temperature",),
}

RENAMED_KEYS = {
    "monitor.interval": "monitor.interval_s",
    "system.request_timeout": "system.request_timeout_s",
}
"""Old names of keys, which work until the next release, in files too."""


def new_name(key: str) -> str:
    """The key's present name."""
    return RENAMED_KEYS.get(key, key)


def old_names(key: str) -> tuple[str, ...]:
    """Old names of a key that still work."""
    return tuple(old for old, new in RENAMED_KEYS.items() if new == key)


def old_names_in(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """The old names of keys that a file's content uses."""
    return tuple(old for old in RENAMED_KEYS if _has(mapping, old))


def with_new_names(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a file's content with all old names replaced. A key that is set under both names keeps both."""
    renamed = [old for old in old_names_in(mapping) if not _has(mapping, RENAMED_KEYS[old])]
    if not renamed:
        return mapping
    changed = copy.deepcopy(dict(mapping))
    for old in renamed:
        section, _, name = old.partition(".")
        inner: MutableMapping[str, Any] = changed[section]
        inner[RENAMED_KEYS[old].partition(".")[2]] = inner.pop(name)
    return changed


def _has(mapping: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    inner = mapping.get(section) if isinstance(mapping, Mapping) else None
    return isinstance(inner, Mapping) and name in inner


def full_keys(key: str) -> tuple[str, ...]:
    """The present names of the keys that a short or old key stands for; any other text is returned unchanged."""
    if key.startswith(_SERVICES):
        return (f"services.{key}",)
    return SHORT_KEYS.get(key, (new_name(key),))
