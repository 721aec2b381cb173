# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes a quantised checkpoint by a plan, with little memory. Runs in the engine's environment, and needs its NumPy.

What is to be made is decided in `syshaxd.core.weights`, which the plan comes from; nothing here knows a model.
"""
