# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances as containers: created, started, watched, stopped and removed through a container engine's API."""

from syshaxd.runtime.docker.docker_runtime import DockerRuntime

__all__ = ["DockerRuntime"]
