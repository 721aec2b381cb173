# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The control plane: admin, scheduling, health and reflection, on a Unix socket and optionally over mutual TLS."""

import os

# gRPC's fork() handlers can't cope with a running server: a child process could die before it executes its program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from syshaxd.control.operations import Operations
from syshaxd.control.server import ControlServer, TlsEndpoint

__all__ = ["ControlServer", "Operations", "TlsEndpoint"]
