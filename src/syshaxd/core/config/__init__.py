# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The configuration: turns a file's content into one frozen `Config`, or reports every fault at once.

`schema`, `endpoints` and `services` define the keys, `parse` and `rules` the rules between them, `instances` what they
describe together, `keys` access by dotted key, `aliases` other names of keys.
"""

from syshaxd.core.config.aliases import RENAMED_KEYS, SHORT_KEYS, full_keys, new_name, old_names, old_names_in
from syshaxd.core.config.endpoints import GatewayConfig, TcpConfig, TlsConfig, TracingConfig
from syshaxd.core.config.exposures import exposures, secret_keys, unprotected
from syshaxd.core.config.instances import (
    container_name,
    default_model,
    device_of,
    enabled_services,
    flag_name,
    model_of,
    named_models,
    on_demand_instances,
    section_of,
)
from syshaxd.core.config.keys import (
    ENTRY,
    describe,
    find_key,
    get_value,
    keys_in,
    known_keys,
    parse_text,
    path_of,
    set_value,
    unset_value,
)
from syshaxd.core.config.parse import parse
from syshaxd.core.config.schema import Config, LifecycleConfig, ModelParams
from syshaxd.core.config.services import (
    AUTO,
    ArgValue,
    ContainerConfig,
    ServiceConfig,
)

__all__ = [
    "AUTO",
    "ENTRY",
    "RENAMED_KEYS",
    "SHORT_KEYS",
    "ArgValue",
    "Config",
    "ContainerConfig",
    "GatewayConfig",
    "LifecycleConfig",
    "ModelParams",
    "ServiceConfig",
    "TcpConfig",
    "TlsConfig",
    "TracingConfig",
    "container_name",
    "default_model",
    "describe",
    "device_of",
    "enabled_services",
    "exposures",
    "find_key",
    "flag_name",
    "full_keys",
    "get_value",
    "keys_in",
    "known_keys",
    "model_of",
    "named_models",
    "new_name",
    "old_names",
    "old_names_in",
    "on_demand_instances",
    "parse",
    "parse_text",
    "path_of",
    "secret_keys",
    "section_of",
    "set_value",
    "unprotected",
    "unset_value",
]
