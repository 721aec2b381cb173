# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Sends requests to instances, and their answers to clients."""

from syshaxd.serving.runner.runner import Runner

__all__ = ["Runner"]
