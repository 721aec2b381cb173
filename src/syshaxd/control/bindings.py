# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The host's CPUs and bindings to them as messages, and settings from one. `client/bindings.py` does the reverse."""

from collections.abc import Iterable, Mapping, Sequence

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.control.messages import make
from syshaxd.core.numa import (
    BindingStatus,
    Drift,
    Fault,
    Node,
    Settings,
    Unverified,
    Verification,
    dialect_of,
)
from syshaxd.core.types import HostTopology


def topology(host: HostTopology) -> api.GetTopologyResponse:
    """The host, and whose its CPUs are."""
    its = host.topology
    return make(
        api.GetTopologyResponse,
        nodes=[_node(node) for node in its.nodes],
        cores=_groups(its.cores),
        clusters=_groups(its.clusters),
        sockets=_groups(its.sockets),
        offline=its.offline,
        accelerators=[
            make(api.Accelerator, kind=device.kind, address=device.address, vendor=device.vendor, node=device.node)
            for device in its.accelerators
        ],
        owners={name: make(api.CpuGroup, cpus=cpus) for name, cpus in host.owners.items()},
    )


def settings(request: api.CheckBindingRequest) -> Settings | None:
    """What is to be checked; None: what the instance has."""
    if not request.HasField("settings"):
        return None
    given = request.settings
    env = dict(given.env)
    return Settings(
        dialect=dialect_of(env, on_cpu=True),
        env=env,
        cpuset_cpus=given.cpuset_cpus,
        cpuset_mems=given.cpuset_mems,
        ranks=given.ranks or 1,
    )


def faults(faults: Sequence[Fault]) -> api.CheckBindingResponse:
    """All faults with their one proposal."""
    proposal = faults[0].proposal if faults else None
    return make(
        api.CheckBindingResponse,
        faults=[
            make(api.BindingFault, rule=fault.rule, part=fault.part, detail=fault.detail, blocking=fault.blocking)
            for fault in faults
        ],
        proposal=None if proposal is None else _settings(proposal),
    )


def verifications(seen: Mapping[str, Verification | Unverified]) -> api.VerifyBindingResponse:
    """By instance."""
    return make(
        api.VerifyBindingResponse,
        verifications={name: _verification(its) for name, its in seen.items() if isinstance(its, Verification)},
        unverified={name: its.reason for name, its in seen.items() if isinstance(its, Unverified)},
    )


def binding_status(status: BindingStatus) -> api.BindingStatus:
    """As of the last periodic reading."""
    return make(
        api.BindingStatus,
        verification=_verification(status.verification),
        read_at_s=status.read_at_s,
        drifts=[_drift(drift) for drift in status.drifts],
        drifted_at_s=status.drifted_at_s,
    )


def _node(node: Node) -> api.Node:
    return make(api.Node, id=node.id, cpus=node.cpus, memory_bytes=node.memory_bytes, distances=node.distances)


def _groups(groups: Iterable[Sequence[int]]) -> list[api.CpuGroup]:
    return [make(api.CpuGroup, cpus=cpus) for cpus in groups]


def _settings(settings: Settings) -> api.BindingSettings:
    return make(
        api.BindingSettings,
        env=settings.env,
        cpuset_cpus=settings.cpuset_cpus,
        cpuset_mems=settings.cpuset_mems,
        ranks=settings.ranks,
    )


def _verification(verification: Verification) -> api.Verification:
    return make(
        api.Verification,
        drifts=[_drift(drift) for drift in verification.drifts],
        threads=verification.threads,
        threads_outside=verification.threads_outside,
        cpus_planned=verification.cpus_planned,
        cpus_bound=verification.cpus_bound,
        memory_bytes=verification.memory_bytes,
        memory_far_bytes=verification.memory_far_bytes,
        unreadable=verification.unreadable,
        walk_s=verification.walk_s,
    )


def _drift(drift: Drift) -> api.Drift:
    return make(api.Drift, kind=drift.kind, detail=drift.detail, tids=drift.tids, cpus=drift.cpus, nodes=drift.nodes)
