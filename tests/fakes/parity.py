# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A ParityService that asks nobody and allows everything."""

from syshaxd.core.parity import Bounds, PromptAnswer
from syshaxd.core.types import InstanceSpec
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.parity import ParityService


def no_parity(registry: InstanceRegistry) -> ParityService:
    return ParityService(registry, _nobody_is_asked, Bounds(), enabled=False)


async def _nobody_is_asked(spec: InstanceSpec) -> tuple[PromptAnswer, ...]:
    raise AssertionError(spec.name)
