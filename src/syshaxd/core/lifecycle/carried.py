# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Models that CPUs answer alone, as none of their GPUs takes requests: in a rollout, after a failure, when stopped."""

from collections.abc import Iterable, Mapping

from syshaxd.core.report.engine_status import CarriedModel
from syshaxd.core.types import InstanceSpec, Role


def carried_models(specs: Iterable[InstanceSpec], ready: Iterable[InstanceSpec]) -> Mapping[str, CarriedModel]:
    """The models that have GPUs of which none is ready, and CPUs that are.

    Args:
        specs: All instances.
        ready: Those of them that take requests.
    """
    gpus: dict[str, list[str]] = {}
    for spec in specs:
        if spec.role is Role.GPU:
            gpus.setdefault(spec.served_model, []).append(spec.name)
    cpus: dict[str, list[str]] = {}
    for spec in ready:
        if spec.role is Role.GPU:
            gpus.pop(spec.served_model, None)
        else:
            cpus.setdefault(spec.served_model, []).append(spec.name)
    return {
        model: CarriedModel(by=tuple(cpus[model]), instead_of=tuple(names))
        for model, names in gpus.items()
        if model in cpus
    }
