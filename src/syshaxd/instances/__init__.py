# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances: what is known of each, and the Supervisor that starts, watches and stops them."""
