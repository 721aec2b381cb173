# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Prepares the embedded profile: a stock vLLM and a small model on this machine, no hub, no Docker, no GPU needed."""
