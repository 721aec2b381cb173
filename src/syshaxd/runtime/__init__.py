# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Starts and stops instances. One implementation per RuntimeKind, all tested by one contract suite."""

from syshaxd.runtime.instance_runtime import InstanceRuntime

__all__ = ["InstanceRuntime"]
