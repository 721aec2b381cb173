# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes a quantised checkpoint from a plan, with little memory. Runs in the engine's environment and needs its NumPy.

The plan comes from `syshaxd.core.weights`, which decides everything; nothing here knows about models.
"""
