# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxd: reads the configuration, builds the parts by hand, runs them, and stops them in order."""

from syshaxd.daemon.program import main

__all__ = ["main"]
