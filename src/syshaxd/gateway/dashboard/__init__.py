# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The dashboard: one read-only page and the status that it polls every second."""

from syshaxd.gateway.dashboard.dashboard import Dashboard

__all__ = ["Dashboard"]
