# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""InstanceSpecs: `make_spec` for instances that a test launches, `external_spec` for servers that are there."""

from typing import Any

from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind


def make_spec(name: str = "gpu", **settings: Any) -> InstanceSpec:
    """An instance named by its role, unless `role` tells it."""
    usual = {"device": Device.CPU, "runtime": RuntimeKind.PROCESS, "model": "tiny", "served_model": "tiny"}
    usual |= {"host": "127.0.0.1", "port": 0}
    return InstanceSpec(**({"name": name} | usual | settings | {"role": settings.get("role") or Role(name)}))


def external_spec(name: str, **settings: Any) -> InstanceSpec:
    """As `make_spec`, for a server of the model `m` that syshaxd does not start."""
    return make_spec(name, **({"runtime": RuntimeKind.EXTERNAL, "model": "m", "served_model": "m"} | settings))
