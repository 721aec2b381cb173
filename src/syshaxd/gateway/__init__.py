# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAI endpoint: reads each request once, lets the Engine place it, answers what concerns the daemon itself."""

from syshaxd.gateway.gateway import Gateway, Limits

__all__ = ["Gateway", "Limits"]
