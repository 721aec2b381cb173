# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Placement: which instance a request runs on, from loads, capacity and estimates."""
