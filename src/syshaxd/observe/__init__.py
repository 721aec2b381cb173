# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Readings: loads, bindings, parity, and the metrics made of them."""
