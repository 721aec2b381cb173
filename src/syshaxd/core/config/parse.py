# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Turns a file's content into the configuration and checks the rules between keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from syshaxd.core.address import PUBLISHED_AT, is_ip
from syshaxd.core.config.aliases import new_name, with_new_names
from syshaxd.core.config.keys import find_key, must_be, no_such_key, shown
from syshaxd.core.config.schema import Config, container_name, enabled_services
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.core.secrets import is_private
from syshaxd.core.types import RuntimeKind

# All mean this host as far as ports are concerned.
_LOCAL_HOSTS = frozenset(("127.0.0.1", "localhost", "0.0.0.0", "::", "::1"))  # noqa: S104 - compared, not bound


def parse(mapping: Mapping[str, Any]) -> Config:
    """Returns the configuration that `mapping` (a file's content) describes.

    Raises:
        ConfigError: With every fault, each under its dotted key. Rules between keys are checked once each key is
            right by itself. Values that may be secrets are not shown.
    """
    if unusable := tuple(_unusable_texts(mapping)):
        raise ConfigError(unusable)
    try:
        config = Config.model_validate(with_new_names(mapping))
    except ValidationError as error:
        # A key of several types has one error for each of them.
        faults = {fault.key: fault for fault in map(_fault, error.errors(include_url=False))}
        raise ConfigError(tuple(faults.values())) from None
    if between := tuple(_faults_between_keys(config)):
        raise ConfigError(between)
    return config


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
        return ConfigFault(
            key, "must be a mapping" if is_private(key) else f"must be a mapping, not {shown(error['input'])}"
        )
    if known.has_entries:  # after the entry's name comes the type that was tried
        key = ".".join(str(part) for part in error["loc"][: known.name.count(".") + 1])
    if error["type"] == "value_error":
        return ConfigFault(key, str(error["msg"]).removeprefix("Value error, "))
    if is_private(key):
        return ConfigFault(key, f"must be {known.allowed}")
    return ConfigFault(key, must_be(known, error["input"]))


def _faults_between_keys(config: Config) -> Iterator[ConfigFault]:
    services = enabled_services(config)
    if not services:
        yield ConfigFault("services", "neither gpu nor cpu is enabled; enable at least one")
    taken = {_place(config.services.conductor.host, config.services.conductor.port): "services.conductor.port"}
    for name, service in services.items():
        key = f"services.{name}"
        other = taken.setdefault(_place(service.host, service.port), f"{key}.port")
        if other != f"{key}.port":
            yield ConfigFault(f"{key}.port", f"{service.port} is already taken by {other}")
        if service.runtime is RuntimeKind.PROCESS:
            if service.python is None:
                yield ConfigFault(f"{key}.python", "required with runtime `process`: the Python interpreter with vLLM")
            if service.model is None and config.models.path is None:
                yield ConfigFault(f"{key}.model", "required with runtime `process`, here or as models.path")
        if service.runtime is RuntimeKind.DOCKER:
            yield from _faults_of_container(config, name)
    tcp = config.control.tcp
    if tcp.port is not None:
        for name in ("cert", "key", "client_ca"):
            if getattr(tcp, name) is None:
                yield ConfigFault(f"control.tcp.{name}", "required with control.tcp.port: a PEM file")
        other = taken.setdefault(_place(tcp.host, tcp.port), "control.tcp.port")
        if other != "control.tcp.port":
            yield ConfigFault("control.tcp.port", f"{tcp.port} is already taken by {other}")
    if config.lifecycle.backoff_cap_s < config.lifecycle.backoff_base_s:
        yield ConfigFault("lifecycle.backoff_cap_s", "must not be less than lifecycle.backoff_base_s")


def _faults_of_container(config: Config, name: str) -> Iterator[ConfigFault]:
    service, key = enabled_services(config)[name], f"services.{name}"
    if not is_ip(service.host):
        yield ConfigFault(f"{key}.host", f"{PUBLISHED_AT}, not {service.host!r}")
    if service.container.image is None:
        yield ConfigFault(f"{key}.container.image", "required with runtime `docker`: an image with vLLM")
    if service.model is None and config.models.path is None:
        yield ConfigFault(f"{key}.model", "required with runtime `docker`, here or as models.path")
    names = {
        other: container_name(other, other_service)
        for other, other_service in enabled_services(config).items()
        if other_service.runtime is RuntimeKind.DOCKER
    }
    if service.container.ipc == f"container:{names[name]}":
        yield ConfigFault(
            f"{key}.container.ipc", "a container can't join its own namespace; `shareable` offers it to others"
        )
    if list(names.values()).index(names[name]) != list(names).index(name):
        yield ConfigFault(f"{key}.container.name", f"{names[name]} is already the name of another instance's container")


def _place(host: str, port: int) -> tuple[str, int]:
    return ("" if host in _LOCAL_HOSTS else host, port)
