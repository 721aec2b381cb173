# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances as processes of this host: launched, watched, terminated with all children, and adopted."""

from syshaxd.runtime.process.process_runtime import ProcessRuntime

__all__ = ["ProcessRuntime"]
