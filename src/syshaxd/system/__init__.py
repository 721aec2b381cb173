# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The host as the daemon needs it: files, folders, logs, sockets, descriptors, terminals."""
