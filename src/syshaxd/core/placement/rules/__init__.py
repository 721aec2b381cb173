# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The rules of placement that can be chosen by name."""

from collections.abc import Mapping

from syshaxd.core.placement.rules.cost import CostRules
from syshaxd.core.placement.rules.fixed import CpuOnlyRules, GpuOnlyRules, UpstreamThresholdRules
from syshaxd.core.placement.rules.turn import TurnRules
from syshaxd.core.placement.rules.view import Move, Policy, Rules, View

RULES: Mapping[str, Rules] = {
    "cost": CostRules(),
    "turn": TurnRules(),
    "gpu-only": GpuOnlyRules(),
    "cpu-only": CpuOnlyRules(),
    "upstream-threshold": UpstreamThresholdRules(),
}
"""By the name of the policy (Policy.name)."""

__all__ = ["RULES", "Move", "Policy", "Rules", "View"]
