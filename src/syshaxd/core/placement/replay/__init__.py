# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Replay: how the requests of a trace fare under other policies or on other hosts."""
