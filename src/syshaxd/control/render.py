# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What differs between the values of core/ and their messages; all else goes by names (`messages.py`)."""

from collections.abc import Mapping, Sequence

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.control.messages import make, message_of
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingSettings, Fault, Unverified, Verification, dialect_of
from syshaxd.core.parity import ParityReport
from syshaxd.core.report.engine_status import EngineStatus, HostTopology


def status(status: EngineStatus, *, now_s: float) -> api.GetStatusResponse:
    """The whole status. `now_s` is monotonic time; it turns times of readings into ages."""
    return message_of(
        api.GetStatusResponse,
        status,
        snapshot=_snapshot(status.snapshot, now_s),
        handover_pairs=[
            make(api.HandoverPair, source=source, target=target, refusal=refusal)
            for (source, target), refusal in status.handover_refusals.items()
        ],
        parity=[parity(report) for report in status.parity],
    )


def parity(report: ParityReport) -> api.ParityReport:
    """A comparison of two instances."""
    verdict = report.verdict
    return message_of(
        api.ParityReport,
        report,
        agreement=verdict.agreement,
        cause=verdict.cause,
        reasons=verdict.reasons,
        allowed=verdict.allowed,
    )


def _snapshot(snapshot: Snapshot, now_s: float) -> api.Snapshot:
    return message_of(
        api.Snapshot,
        snapshot,
        age_s=now_s - snapshot.taken_at_s if snapshot.taken_at_s else None,
        instances={
            name: message_of(api.InstanceLoad, load, age_s=now_s - load.read_at_s)
            for name, load in snapshot.instances.items()
        },
    )


def topology(host: HostTopology) -> api.GetTopologyResponse:
    """The host and the owners of its CPUs and GPUs."""
    return message_of(api.GetTopologyResponse, host.topology, owners=host.owners, gpu_owners=host.gpu_owners)


def settings(request: api.CheckBindingRequest) -> BindingSettings | None:
    """The settings to check; None: those of the instance."""
    if not request.HasField("settings"):
        return None
    given = request.settings
    env = dict(given.env)
    return BindingSettings(
        dialect=dialect_of(env, on_cpu=True),
        env=env,
        cpuset_cpus=given.cpuset_cpus,
        cpuset_mems=given.cpuset_mems,
        ranks=given.ranks or 1,
    )


def faults(faults: Sequence[Fault]) -> api.CheckBindingResponse:
    """All faults with the proposed settings."""
    return make(api.CheckBindingResponse, faults=faults, proposal=faults[0].proposal if faults else None)


def verifications(seen: Mapping[str, Verification | Unverified]) -> api.VerifyBindingResponse:
    """By instance."""
    return make(
        api.VerifyBindingResponse,
        verifications={name: found for name, found in seen.items() if isinstance(found, Verification)},
        unverified={name: found.reason for name, found in seen.items() if isinstance(found, Unverified)},
    )
