# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The pure rules: values in, values out; no clock, files, sockets or logging."""
