# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What operators are told of the daemon: its status, its host, and the progress of what they have begun."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingStatus, NumaTopology
from syshaxd.core.parity import ParityReport
from syshaxd.core.types import InstanceStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTopology:
    """The host at one moment and the owners of its CPUs."""

    topology: NumaTopology
    owners: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """CPUs to which instances are bound, by name."""
    gpu_owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """PCI addresses of the GPUs that instances may use, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """How much a CPU's work lengthens a GPU's steps, as a share of their time."""

    gpu: str
    cpu: str
    ratio: float
    """What placement counts with."""
    is_learnt: bool = False
    """It was learnt while requests were served; else it is calibrated or assumed."""
    seen: float | None = None
    """The mean of what was seen while requests were served; None: too little."""
    low: float | None = None
    """Bounds of its confidence interval, which holds at all times."""
    high: float | None = None
    comparisons: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadTrial:
    """Whether help by a CPU pays: requests that it helped with, against requests held out, which waited for the GPU.

    Benefits are seconds to the end of an answer, less what help was predicted to take from others.
    """

    on: bool = True
    """The CPU may help."""
    off_until_s: float = 0.0
    """Unix time at which help is tried again; 0: it is on."""
    text: str = ""
    """What is known, in a sentence; empty: nothing is measured."""
    holdout: float = 0.0
    """Share of the requests that the CPU would help with, which are held out."""
    held_out: int = 0
    """Answers that have ended, in the present round or, as long as that has too few, in the last one."""
    helped: int = 0
    """As above."""
    predicted_s: float | None = None
    """Mean of the predicted benefits."""
    measured_s: float | None = None
    """The measured benefit; None: too few answers."""
    low_s: float | None = None
    """Bounds of its confidence interval, which holds at all times."""
    high_s: float | None = None
    all_held_out: int = 0
    """Since the daemon started."""
    times_off: int = 0
    """As above."""
    interference: tuple[Interference, ...] = ()
    """Of each CPU with each GPU that was seen at work beside it, or calibrated."""


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """An instance that a rollout is about to restart."""

    instance: str
    number: int
    """The first one is 1."""
    count: int
    """Instances that the rollout restarts."""
    carried_by: tuple[str, ...]
    """The instances that answer requests for its model meanwhile; empty: none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandStatus:
    """An on-demand model."""

    text: str = ""
    """Where it stands, for a person."""
    queued: int = 0
    """Requests that wait for it."""
    starts: int = 0
    """By requests, since the daemon started."""
    failures: int = 0
    """Starts that have failed."""
    stops: Mapping[str, int] = field(default_factory=dict)
    """How often it was stopped, by cause: `idle`, or `room` for another model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedModel:
    """A model that CPUs answer alone, as none of its GPUs takes requests."""

    by: tuple[str, ...]
    """The CPU instances."""
    instead_of: tuple[str, ...]
    """The GPU instances."""

    def __str__(self) -> str:
        takes = "takes" if len(self.instead_of) == 1 else "take"
        return f"{', '.join(self.by)} alone, as {', '.join(self.instead_of)} {takes} no requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationStatus:
    """What operators should know of calibrations."""

    done: int = 0
    """Runs that the present calibration has done."""
    runs: int = 0
    """Runs that it consists of; 0: none is running."""
    stale: tuple[str, ...] = ()
    """Instances that are no longer as they were when they were calibrated, by their fingerprint or their readings."""
    text: str = ""
    """Where a calibration at first start stands, for a person; empty: nothing is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The daemon's status at one moment, for `syshaxctl status`."""

    version: str
    started_at_s: float
    """Unix time."""
    endpoint: str
    """URL of the OpenAI endpoint; empty before it listens."""
    queued: int
    """Requests in the admission queue."""
    inflight: Mapping[str, int]
    """Running requests of each instance, by the daemon's own count."""
    instances: tuple[InstanceStatus, ...]
    snapshot: Snapshot
    binding_faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Faults of CPU bindings and advice, by instance, one line each."""
    handover_refusals: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Why an instance cannot hand over to another, by source and target; empty: it can."""
    open_circuits: Mapping[str, str] = field(default_factory=dict)
    """Why instances get no requests although they are READY, by name: they failed too many."""
    faults: tuple[str, ...] = ()
    """Faults of the daemon itself, one line each."""
    parity: tuple[ParityReport, ...] = ()
    """Reports on the present generations of each compared pair of instances."""
    queued_models: Mapping[str, int] = field(default_factory=dict)
    """Requests in the admission queue, by the model that they name."""
    bindings: Mapping[str, BindingStatus] = field(default_factory=dict)
    """Binding status by instance; instances that are unbound or not read yet are absent."""
    offload: OffloadTrial = field(default_factory=OffloadTrial)
    """Whether help by a CPU pays, as measured."""
    on_demand: Mapping[str, OnDemandStatus] = field(default_factory=dict)
    """The models that only requests start, by name."""
    calibration: CalibrationStatus = field(default_factory=CalibrationStatus)
    """Of the instances."""
    carried: Mapping[str, CarriedModel] = field(default_factory=dict)
    """The models that CPUs answer alone, by name."""
