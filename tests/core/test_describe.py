# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The device that is named is the one that computes."""

from dataclasses import replace

import pytest

from syshaxd.core.loads import GpuLoad, Snapshot
from syshaxd.core.report.describe import device_text
from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind
from tests.fakes.specs import make_spec


def _gpu(index: int) -> GpuLoad:
    return GpuLoad(
        index=index, name="NVIDIA A100", uuid=str(index), busy_ratio=0.0, memory_used_bytes=0, memory_total_bytes=1
    )


GPUS = Snapshot(gpus=(_gpu(0), _gpu(1)))
PROCESS = replace(make_spec(), runtime=RuntimeKind.PROCESS, cores=(0, 1, 2, 5))


@pytest.mark.parametrize(
    ("spec", "snapshot", "text"),
    [
        (replace(PROCESS, role=Role.CPU, device=Device.CPU), GPUS, "CPU 0-2,5"),
        (replace(PROCESS, role=Role.GPU, device=Device.CPU), GPUS, "CPU 0-2,5, as gpu"),
        (replace(PROCESS, role=Role.GPU, device=Device.CUDA), GPUS, "NVIDIA A100 0-1"),
        (replace(PROCESS, role=Role.GPU, device=Device.CUDA), Snapshot(), "GPU"),
        (replace(PROCESS, role=Role.CPU, device=Device.CPU, cores=()), GPUS, "CPU"),
    ],
)
def test_device_text(spec: InstanceSpec, snapshot: Snapshot, text: str) -> None:
    assert device_text(spec, snapshot) == text
