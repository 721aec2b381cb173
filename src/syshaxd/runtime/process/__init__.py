# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances as processes of this host: launched, watched, ended with all their children, and found again."""

from syshaxd.runtime.process.process_runtime import ProcessRuntime

__all__ = ["ProcessRuntime"]
