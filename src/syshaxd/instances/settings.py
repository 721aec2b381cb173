# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a configuration says of the supervision of instances."""

from dataclasses import dataclass
from typing import Self

from syshaxd.core.config.schema import LifecycleConfig
from syshaxd.core.lifecycle import RestartPolicy
from syshaxd.core.types import InstanceSpec, RuntimeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """When instances are probed and ended, and when they are given up or started again."""

    policy: RestartPolicy
    """For instances that the daemon launches."""
    probe_interval_s: float
    """Seconds between two probes."""
    probe_timeout_s: float
    """Seconds after which a probe has failed."""
    stop_grace_s: float
    """Seconds between asking an instance to exit and killing it."""

    @classmethod
    def from_config(cls, config: LifecycleConfig) -> Self:
        """The settings of a configuration."""
        return cls(
            policy=RestartPolicy.from_config(config),
            probe_interval_s=config.probe_interval_s,
            probe_timeout_s=config.probe_timeout_s,
            stop_grace_s=config.stop_grace_s,
        )

    def policy_of(self, spec: InstanceSpec) -> RestartPolicy:
        """The policy for one instance."""
        return self.policy.for_external() if spec.runtime is RuntimeKind.EXTERNAL else self.policy
