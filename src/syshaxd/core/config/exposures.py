# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a valid configuration exposes."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from syshaxd.core.config.instances import enabled_services, named_models, sections
from syshaxd.core.config.schema import Config
from syshaxd.core.config.services import ServiceConfig
from syshaxd.core.secrets import is_secret, safe_value

_API_KEY = "api-key"
_API_KEY_VARIABLE = "VLLM_API_KEY"


def exposures(config: Config, *, keys_exist: bool) -> tuple[str, ...]:
    """Returns what others can reach or read and how to prevent that, as messages; there are API keys, or not."""
    host = config.services.conductor.host
    if not unprotected(config, (host,)):
        return ()
    if config.gateway.insecure:
        text = "gateway.insecure gives other hosts access without a key; a proxy or a firewall must keep strangers away"
    elif keys_exist and config.gateway.tls.cert is not None:
        return ()
    elif keys_exist:
        text = "API keys travel unencrypted; set gateway.tls.cert and key, or put a proxy with TLS in front"
    else:
        text = "syshaxd starts there only with API keys (`syshaxctl keys create`) or with gateway.insecure: true"
    return (f"services.conductor.host is {host}: {text}",)


def unprotected(config: Config, hosts: Iterable[str]) -> str:
    """The first of these addresses of the endpoint at which other hosts could use an instance that asks for no key."""
    services = enabled_services(config).values()
    if services and all(map(_asks_for_a_key, services)):
        return ""
    return next((host for host in hosts if not _is_loopback(host)), "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _asks_for_a_key(service: ServiceConfig) -> bool:
    args = {name.replace("_", "-"): value for name, value in service.args.items()}
    return bool(args.get(_API_KEY)) or bool(service.env.get(_API_KEY_VARIABLE))


def secret_keys(config: Config) -> tuple[str, ...]:
    """Returns the dotted keys that hold secrets."""
    mappings: dict[str, Mapping[str, object]] = {}
    for name, service in sections(config).items():
        mappings |= {f"services.{name}.args": service.args, f"services.{name}.env": service.env}
    mappings |= {f"models.{name}.args": model.args for name, model in named_models(config).items()}
    return tuple(
        f"{section}.{key}"
        for section, values in mappings.items()
        for key, value in values.items()
        if value is not None and (is_secret(key) or safe_value(key, value) != value)
    )
