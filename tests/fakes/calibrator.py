# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A calibrator that keeps nothing."""

from pathlib import Path

from syshaxd.core.loads import Snapshot
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.calibrator import Calibrator


def no_calibrator(registry: InstanceRegistry) -> Calibrator:
    """For tests that calibrate nothing."""
    return Calibrator(
        registry,
        path=Path("/dev/null/calibration.json"),
        running=lambda: 0,
        snapshot=Snapshot,
        seed=lambda calibration, name: None,
        drift=lambda calibration, name: None,
    )
