# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""InstanceSpecs for tests of the supervisor and the runtimes."""

from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind


def make_spec(
    name: str = "gpu",
    *,
    argv: tuple[str, ...] = (),
    port: int = 0,
    host: str = "127.0.0.1",
    cores: tuple[int, ...] = (),
    env: tuple[tuple[str, str], ...] = (),
    runtime: RuntimeKind = RuntimeKind.PROCESS,
    depends_on: str | None = None,
) -> InstanceSpec:
    return InstanceSpec(
        name=name,
        role=Role(name),
        device=Device.CPU,
        runtime=runtime,
        model="tiny",
        served_model="tiny",
        host=host,
        port=port,
        argv=argv,
        env=env,
        cores=cores,
        depends_on=depends_on,
    )
