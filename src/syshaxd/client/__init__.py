# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""ControlClient: calls the daemon over its admin socket and returns core types."""

from syshaxd.client.client import ControlClient, SlowError, UnreachableError

__all__ = ["ControlClient", "SlowError", "UnreachableError"]
