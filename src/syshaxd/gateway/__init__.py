# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAI endpoint: reads each request once, passes it to the Engine, and answers the daemon's own routes."""

from syshaxd.gateway.gateway import Gateway
from syshaxd.gateway.limits import Limits

__all__ = ["Gateway", "Limits"]
