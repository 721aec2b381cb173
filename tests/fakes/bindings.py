# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A BindingMonitor of instances that are bound to nothing, for tests of other parts."""

from syshaxd.core.launch.bound import Bound
from syshaxd.core.types import InstanceStatus
from syshaxd.observe.cpu_bindings import BindingMonitor
from tests.fakes.supervisor import FakeSupervisor


def unbound(supervisor: FakeSupervisor) -> BindingMonitor:
    async def no_pid(status: InstanceStatus) -> None:
        return None

    specs = tuple(status.spec for status in supervisor.statuses())
    return BindingMonitor(Bound(specs=specs), supervisor.statuses, no_pid, interval_s=60.0)
