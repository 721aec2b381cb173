# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The rules between keys of the configuration."""

import re
from collections.abc import Iterator

from syshaxd.core.address import PUBLISHED_AT, is_ip
from syshaxd.core.config.endpoints import TlsConfig
from syshaxd.core.config.gpus import faults_of_gpus
from syshaxd.core.config.instances import (
    ServedModel,
    container_name,
    default_model,
    enabled_services,
    model_of,
    named_models,
    on_demand_instances,
    section_of,
    sections,
)
from syshaxd.core.config.schema import Config
from syshaxd.core.config.services import ServiceConfig
from syshaxd.core.errors import ConfigFault
from syshaxd.core.types import RuntimeKind

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_LAST_PORT = 65535
# All mean this host as far as ports are concerned.
_LOCAL_HOSTS = frozenset(("127.0.0.1", "localhost", "0.0.0.0", "::", "::1"))  # noqa: S104 - compared, not bound


def faults_between_keys(config: Config) -> Iterator[ConfigFault]:
    """Every fault of a configuration whose keys are right by themselves."""
    found = [*_faults_of_names(config), *_faults_of_models(config), *faults_of_gpus(config)]
    for name, service in enabled_services(config).items():
        found += _faults_of_service(config, name, service)
    yield from dict.fromkeys(found)  # replicas have their faults in common
    tcp = config.control.tcp
    if tcp.port is not None:
        for name in ("cert", "key", "client_ca"):
            if getattr(tcp, name) is None:
                yield ConfigFault(f"control.tcp.{name}", "required with control.tcp.port: a PEM file")
    yield from _faults_of_tls(config.gateway.tls)
    yield from _faults_of_ports(config)
    if config.lifecycle.backoff_cap_s < config.lifecycle.backoff_base_s:
        yield ConfigFault("lifecycle.backoff_cap_s", "must not be less than lifecycle.backoff_base_s")


def _faults_of_names(config: Config) -> Iterator[ConfigFault]:
    services = sections(config)
    if not any(service.enabled for service in services.values()):
        named = len(services) > 2
        which = "no service is enabled" if named else "neither gpu nor cpu is enabled"
        yield ConfigFault("services", f"{which}; enable at least one")
    for name in services:
        if not _NAME.fullmatch(name):
            yield ConfigFault(
                f"services.{name}", "a name has up to 40 letters, digits, `-` and `_`, the first no `-` or `_`"
            )
    for name, service in services.items():
        for other in services:
            head, _, number = other.rpartition("-")
            if head == name and number.isdecimal() and int(number) < (service.replicas or 0):
                yield ConfigFault(f"services.{other}", f"is also the name of a replica of services.{name}")


def _faults_of_models(config: Config) -> Iterator[ConfigFault]:
    services, models = sections(config), named_models(config)
    for name, service in services.items():
        is_key = service.model is not None and "/" not in service.model and (models or name not in {"gpu", "cpu"})
        if is_key and service.model not in models:
            there = f"available: {', '.join(models)}" if models else "there is none"
            yield ConfigFault(
                f"services.{name}.model",
                f"no model {service.model} under `models`; {there}. The path of a folder contains a `/`",
            )
    served = {model_of(config, service).name for service in services.values()}
    for key in models:
        if key not in served:
            yield ConfigFault(f"models.{key}", f"no service serves it; set services.NAME.model to {key}")
    if config.models.default in models:
        for key in ("aliases", "path"):
            if getattr(config.models, key):
                instead = f"models.{config.models.default}.{key}"
                yield ConfigFault(f"models.{key}", f"set {instead} instead: models.default is the key of that model")
    yield from _faults_of_aliases(config)
    yield from _faults_on_demand(config)


def _faults_on_demand(config: Config) -> Iterator[ConfigFault]:
    services = enabled_services(config)
    for name, model in on_demand_instances(config).items():
        if services[name].runtime is RuntimeKind.EXTERNAL:
            yield ConfigFault(
                f"models.{model}.start",
                f"syshaxd can't start services.{section_of(config, name)} (runtime external): leave it out, or set "
                "another runtime",
            )


def _faults_of_aliases(config: Config) -> Iterator[ConfigFault]:
    default = default_model(config)
    all_models = {"models.default": (default.name, "models.aliases", default.aliases)} | {
        f"models.{key}": (key, f"models.{key}.aliases", tuple(model.aliases))
        for key, model in named_models(config).items()
    }
    if default.name in named_models(config):
        del all_models["models.default"]
    taken: dict[str, str] = {}
    for key, (name, _, _) in all_models.items():
        taken.setdefault(name, key)
    for key, (_, aliases_key, aliases) in all_models.items():
        for alias in aliases:
            other = taken.setdefault(alias, aliases_key)
            if other != aliases_key or aliases.count(alias) > 1:
                whose = "given twice" if other in {key, aliases_key} else f"already a name by {other}"
                yield ConfigFault(aliases_key, f"{alias} is {whose}")


def _faults_of_tls(tls: TlsConfig) -> Iterator[ConfigFault]:
    if tls.cert or tls.key or tls.client_ca:
        for name in ("cert", "key"):
            if getattr(tls, name) is None:
                yield ConfigFault(f"gateway.tls.{name}", "required with the other keys of gateway.tls: a PEM file")


def _faults_of_ports(config: Config) -> Iterator[ConfigFault]:
    conductor, tcp = config.services.conductor, config.control.tcp
    taken = {_place(conductor.host, conductor.port): "services.conductor.port"}
    for name, service in enabled_services(config).items():
        section = section_of(config, name)
        key = f"services.{section}.port"
        of_replica = "" if section == name else f" of {name}"
        if service.port > _LAST_PORT:
            yield ConfigFault(key, f"with {sections(config)[section].replicas} replicas, ports exceed {_LAST_PORT}")
            return
        place = _place(service.host, service.port)
        if place in taken:
            yield ConfigFault(key, f"{service.port}{of_replica} is already taken by {taken[place]}")
        taken.setdefault(place, key)
    if tcp.port is not None and _place(tcp.host, tcp.port) in taken:
        other = taken[_place(tcp.host, tcp.port)]
        yield ConfigFault("control.tcp.port", f"{tcp.port} is already taken by {other}")


def _faults_of_service(config: Config, name: str, service: ServiceConfig) -> Iterator[ConfigFault]:
    key = f"services.{section_of(config, name)}"
    if service.runtime is RuntimeKind.EXTERNAL:
        return
    if service.runtime is RuntimeKind.PROCESS and service.python is None:
        yield ConfigFault(f"{key}.python", "required with runtime `process`: the Python interpreter with vLLM")
    model = model_of(config, service)
    if model.path is None:
        yield _without_path(model, key, service.runtime)
    if service.runtime is RuntimeKind.DOCKER:
        yield from _faults_of_container(config, name, service, key)


def _without_path(model: ServedModel, key: str, runtime: RuntimeKind) -> ConfigFault:
    if model.path_key == "models.path":
        return ConfigFault(f"{key}.model", f"required with runtime `{runtime}`, here or as models.path")
    return ConfigFault(model.path_key, f"required by {key} with runtime `{runtime}`: the folder of the weights")


def _faults_of_container(config: Config, name: str, service: ServiceConfig, key: str) -> Iterator[ConfigFault]:
    if not is_ip(service.host):
        yield ConfigFault(f"{key}.host", f"{PUBLISHED_AT}, not {service.host!r}")
    if service.container.image is None:
        yield ConfigFault(f"{key}.container.image", "required with runtime `docker`: an image with vLLM")
    if service.container.ports and (sections(config)[section_of(config, name)].replicas or 0) > 1:
        yield ConfigFault(f"{key}.container.ports", "several replicas cannot have the same port; leave it out")
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
