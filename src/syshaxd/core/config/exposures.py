# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a valid configuration exposes."""

from ipaddress import ip_address

from syshaxd.core.config.schema import Config, enabled_services
from syshaxd.core.config.services import ServiceConfig
from syshaxd.core.secrets import is_secret, safe_value

_API_KEY = "api-key"
_API_KEY_VARIABLE = "VLLM_API_KEY"


def exposures(config: Config) -> tuple[str, ...]:
    """Returns what others can reach and how to prevent that, as messages."""
    host, port = config.services.conductor.host, config.services.conductor.port
    open_ones = [name for name, service in enabled_services(config).items() if not _asks_for_a_key(service)]
    if _is_loopback(host) or not open_ones:
        return ()
    text = (
        f"services.conductor.host is {host}: port {port} gives access to {' and '.join(open_ones)} without a key; "
        "put a proxy or a firewall in front of it, or give the instances a key (services.NAME.env.VLLM_API_KEY)"
    )
    return (text,)


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
    return tuple(
        f"services.{name}.{section}.{key}"
        for name, service in (("gpu", config.services.gpu), ("cpu", config.services.cpu))
        for section in ("args", "env")
        for key, value in getattr(service, section).items()
        if value is not None and (is_secret(key) or safe_value(key, value) != value)
    )
