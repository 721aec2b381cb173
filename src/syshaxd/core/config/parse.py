# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Turns a file's content into the configuration."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from syshaxd.core.config.aliases import new_name, with_new_names
from syshaxd.core.config.keys import find_key, must_be, no_such_key, path_of, shown
from syshaxd.core.config.rules import faults_between_keys
from syshaxd.core.config.schema import Config
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.secrets import is_private
from syshaxd.core.types import Role


def parse(mapping: Mapping[str, Any]) -> Config:
    """Returns the configuration that `mapping` (a file's content) describes.

    Raises:
        ConfigError: With every fault, each under its dotted key. Rules between keys are checked once each key, but the
            role of an instance, is right by itself. Values that may be secrets are not shown.
    """
    if unusable := tuple(_unusable_texts(mapping)):
        raise ConfigError(unusable)
    renamed = with_new_names(mapping)
    try:
        config = Config.model_validate(renamed)
    except ValidationError as error:
        # A key of several types has one error for each of them.
        faults = {fault.key: fault for fault in map(_fault, error.errors(include_url=False))}
        raise ConfigError((*faults.values(), *_faults_beside_roles(renamed, faults))) from None
    if between := tuple(faults_between_keys(config)):
        raise ConfigError(between)
    return config


def _faults_beside_roles(mapping: Mapping[str, Any], faults: Mapping[str, ConfigFault]) -> Iterator[ConfigFault]:
    """The faults between keys if only roles are missing or wrong: no such rule depends on which role it is."""
    services = mapping.get("services") if isinstance(mapping, Mapping) else None
    if not isinstance(services, Mapping) or not faults.keys() <= {f"services.{name}.role" for name in services}:
        return
    assumed = {name: dict(service or {}) for name, service in services.items()}
    for name, service in assumed.items():
        if f"services.{name}.role" in faults:
            service["role"] = name if name in set(Role) else Role.GPU if "gpus" in service else Role.CPU
    with suppress(ValidationError):
        yield from faults_between_keys(Config.model_validate({**mapping, "services": assumed}))


def _unusable_texts(value: Any, key: str = "") -> Iterator[ConfigFault]:
    """Texts that can be neither an argument, a variable, nor a path."""
    if isinstance(value, str) and (problem := _text_problem(value)):
        yield ConfigFault(key, f"has {problem} in it, which cannot be passed to a program")
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if isinstance(name, str) and (problem := _text_problem(name)):
                yield ConfigFault(ascii(inner)[1:-1], f"has {problem} in its name")
            else:
                yield from _unusable_texts(entry, inner)
    elif isinstance(value, list):
        for entry in value:
            yield from _unusable_texts(entry, key)


def _text_problem(text: str) -> str:
    if "\0" in text:
        return "a NUL character"
    return "" if text.isascii() or all(not "\ud800" <= char <= "\udfff" for char in text) else "half a surrogate pair"


def _fault(error: Mapping[str, Any]) -> ConfigFault:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        new = new_name(key)
        return ConfigFault(key, no_such_key(key) if new == key else f"is the old name of {new}, which is set, too")
    if error["type"] == "invalid_key" or error["loc"][-1:] == ("[key]",):
        return ConfigFault(key.removesuffix(".[key]"), "the name must be a string; quote it")
    try:
        known = find_key(key)
    except ConfigError:
        if "did you mean" in (problem := no_such_key(key)):
            return ConfigFault(key, problem)
        return ConfigFault(
            key, "must be a mapping" if is_private(key) else f"must be a mapping, not {shown(error['input'])}"
        )
    if known.has_entries:  # after the entry's name comes the type that was tried
        key = ".".join(str(part) for part in error["loc"][: len(path_of(key))])
    if error["type"] == "missing":
        return ConfigFault(key, f"required: {known.allowed}")
    if error["type"] == "value_error":
        return ConfigFault(key, str(error["msg"]).removeprefix("Value error, "))
    if is_private(key):
        return ConfigFault(key, f"must be {known.allowed}")
    return ConfigFault(key, must_be(known, error["input"]))
