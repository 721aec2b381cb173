# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What starts and stops instances. One implementation a RuntimeKind, all held to one contract suite."""

from syshaxd.runtime.instance_runtime import InstanceRuntime

__all__ = ["InstanceRuntime"]
