# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""NUMA: a host's topology, valid CPU bindings, and whether running instances keep to them.

Needs only Python's standard library.
"""

from syshaxd.core.numa.binding import VARIABLES, Binding, BindingSettings, Constraints, Dialect, dialect_of
from syshaxd.core.numa.check import Fault, Rule, check_binding
from syshaxd.core.numa.draw import draw_topology
from syshaxd.core.numa.drift import BindingStatus, Unverified, next_status
from syshaxd.core.numa.gpu_plan import ALWAYS, Gpu, GpuWish, fits, plan_gpus
from syshaxd.core.numa.memory import Weights, memory_needs
from syshaxd.core.numa.model import Accelerator, AcceleratorKind, Node, NumaTopology
from syshaxd.core.numa.picture import picture
from syshaxd.core.numa.plan import plan_binding, plan_nearest, reserve_cores, share_out
from syshaxd.core.numa.reading import binding_of, read_settings
from syshaxd.core.numa.text import parse_lscpu, parse_numactl, parse_topology
from syshaxd.core.numa.verify import Drift, DriftKind, Memory, NumaUsage, Thread, Verification, verify_binding

__all__ = [
    "ALWAYS",
    "VARIABLES",
    "Accelerator",
    "AcceleratorKind",
    "Binding",
    "BindingSettings",
    "BindingStatus",
    "Constraints",
    "Dialect",
    "Drift",
    "DriftKind",
    "Fault",
    "Gpu",
    "GpuWish",
    "Memory",
    "Node",
    "NumaTopology",
    "NumaUsage",
    "Rule",
    "Thread",
    "Unverified",
    "Verification",
    "Weights",
    "binding_of",
    "check_binding",
    "dialect_of",
    "draw_topology",
    "fits",
    "memory_needs",
    "next_status",
    "parse_lscpu",
    "parse_numactl",
    "parse_topology",
    "picture",
    "plan_binding",
    "plan_gpus",
    "plan_nearest",
    "read_settings",
    "reserve_cores",
    "share_out",
    "verify_binding",
]
