# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Launches: the command line, environment, CPUs and container of an instance, and what keeps it from starting."""
