# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A simulated vLLM instance, for tests and load runs without a model."""
