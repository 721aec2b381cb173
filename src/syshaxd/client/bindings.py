# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Messages about the host's CPUs and bindings to them, as values. `control/bindings.py` does the reverse."""

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.core import errors
from syshaxd.core.numa import (
    Accelerator,
    AcceleratorKind,
    BindingStatus,
    Drift,
    DriftKind,
    Fault,
    Node,
    NumaTopology,
    Rule,
    Settings,
    Unverified,
    Verification,
    dialect_of,
)
from syshaxd.core.types import HostTopology

_Name = TypeVar("_Name", bound=StrEnum)


def topology(message: api.GetTopologyResponse) -> HostTopology:
    """The host, and whose its CPUs are."""
    return HostTopology(
        topology=NumaTopology(
            nodes=tuple(_node(node) for node in message.nodes),
            cores=_groups(message.cores),
            clusters=_groups(message.clusters),
            sockets=_groups(message.sockets),
            offline=tuple(message.offline),
            accelerators=tuple(_accelerator(device) for device in message.accelerators),
        ),
        owners={name: tuple(group.cpus) for name, group in message.owners.items()},
    )


def faults(message: api.CheckBindingResponse) -> tuple[Fault, ...]:
    """Each with the one proposal."""
    proposal = _settings(message.proposal) if message.HasField("proposal") else None
    return tuple(
        Fault(
            rule=_named(Rule, fault.rule),
            part=fault.part,
            detail=fault.detail,
            blocking=fault.blocking,
            proposal=proposal,
        )
        for fault in message.faults
    )


def settings_message(settings: Settings) -> api.BindingSettings:
    """What is to be checked. The dialect does not travel: the daemon knows the instance."""
    return api.BindingSettings(
        env=settings.env, cpuset_cpus=settings.cpuset_cpus, cpuset_mems=settings.cpuset_mems, ranks=settings.ranks
    )


def verifications(message: api.VerifyBindingResponse) -> dict[str, Verification | Unverified]:
    """By instance."""
    seen: dict[str, Verification | Unverified] = {
        name: _verification(its) for name, its in message.verifications.items()
    }
    return seen | {name: Unverified(reason) for name, reason in message.unverified.items()}


def binding_status(message: api.BindingStatus) -> BindingStatus:
    """As of the last periodic reading."""
    return BindingStatus(
        verification=_verification(message.verification),
        read_at_s=message.read_at_s,
        drifts=tuple(_drift(drift) for drift in message.drifts),
        drifted_at_s=message.drifted_at_s if message.HasField("drifted_at_s") else None,
    )


def _node(message: api.Node) -> Node:
    return Node(
        id=message.id,
        cpus=tuple(message.cpus),
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        distances=tuple(message.distances),
    )


def _accelerator(message: api.Accelerator) -> Accelerator:
    return Accelerator(
        kind=_named(AcceleratorKind, message.kind),
        address=message.address,
        vendor=message.vendor,
        node=message.node if message.HasField("node") else None,
    )


def _groups(messages: Iterable[api.CpuGroup]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(group.cpus) for group in messages)


def _settings(message: api.BindingSettings) -> Settings:
    env = dict(message.env)
    return Settings(
        dialect=dialect_of(env, on_cpu=True),
        env=env,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        ranks=message.ranks,
    )


def _verification(message: api.Verification) -> Verification:
    return Verification(
        drifts=tuple(_drift(drift) for drift in message.drifts),
        threads=message.threads,
        threads_outside=message.threads_outside,
        cpus_planned=message.cpus_planned,
        cpus_bound=message.cpus_bound,
        memory_bytes=dict(sorted(message.memory_bytes.items())),
        memory_far_bytes=message.memory_far_bytes,
        unreadable=tuple(message.unreadable),
        walk_s=message.walk_s,
    )


def _drift(message: api.Drift) -> Drift:
    return Drift(
        kind=_named(DriftKind, message.kind),
        detail=message.detail,
        tids=tuple(message.tids),
        cpus=tuple(message.cpus),
        nodes=tuple(message.nodes),
    )


def _named(names: type[_Name], text: str) -> _Name:
    try:
        return names(text)
    except ValueError:
        raise errors.SyshaxError(
            f"syshaxd is newer than this syshaxctl and says {text!r}, which it does not know"
        ) from None
