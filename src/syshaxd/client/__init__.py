# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""ControlClient: the daemon's commands over its admin socket, in the terms of core/."""

from syshaxd.client.client import ControlClient, SlowError, UnreachableError

__all__ = ["ControlClient", "SlowError", "UnreachableError"]
