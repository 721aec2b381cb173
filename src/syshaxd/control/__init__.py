# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The control plane: admin and scheduling, health and reflection, on a unix socket and, if wished, with mutual TLS."""

import os

# gRPC's handlers for fork() can't cope with a running server: a child of ours could die before its program starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from syshaxd.control.config import Operations
from syshaxd.control.server import ControlServer, TlsEndpoint
from syshaxd.control.servicer import AdminEngine

__all__ = ["AdminEngine", "ControlServer", "Operations", "TlsEndpoint"]
