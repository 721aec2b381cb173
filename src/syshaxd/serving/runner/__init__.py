# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Sends requests to instances, and their answers to clients."""

from syshaxd.serving.runner.runner import Runner
from syshaxd.serving.runner.time_limits import TimeLimits

__all__ = ["Runner", "TimeLimits"]
