# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""sysHAX: one OpenAI endpoint over vLLM on the GPU and vLLM on the CPU."""

__version__ = "0.3.0"
