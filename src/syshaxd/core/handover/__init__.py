# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Answers that two instances make together: which requests, by which bodies, and how the parts are joined."""
