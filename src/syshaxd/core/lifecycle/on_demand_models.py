# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""On-demand models: what is configured and seen of them, and the effects of the rule in `on_demand`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from syshaxd.core.types import State


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandModel:
    """A model that runs only while it is used."""

    name: str
    instances: tuple[str, ...]
    """All start together."""
    needs: Mapping[str, float] = field(default_factory=dict)
    """What they take of each resource, together."""
    idle_ttl_s: float | None = 300.0
    """Time without a request after which it is stopped; None: only to make room."""
    min_up_s: float = 60.0
    """Time for which it stays up although another model waits for its room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandPlan:
    """All on-demand models, and what there is for them."""

    models: tuple[OnDemandModel, ...] = ()
    capacity: Mapping[str, float] = field(default_factory=dict)
    """What there is of each resource, without what other instances take; one that is not here is not limited."""
    backoff_base_s: float = 1.0
    """Pause after a failed start."""
    backoff_cap_s: float = 60.0


class Phase(StrEnum):
    """Where a model stands."""

    DOWN = "down"
    STARTING = "starting"
    UP = "up"
    ENDING = "ending"
    RETRYING = "retrying"
    """Its launch has failed, and is tried again without being asked."""
    FAILED = "failed"


_PHASES = {
    State.READY: Phase.UP,
    State.UNHEALTHY: Phase.UP,
    State.STARTING: Phase.STARTING,
    State.DRAINING: Phase.ENDING,
    State.STOPPING: Phase.ENDING,
    State.BACKOFF: Phase.RETRYING,
    State.FAILED: Phase.FAILED,
    State.STOPPED: Phase.DOWN,
}
# Of several instances, the first of these that one is in.
_ORDER = (Phase.UP, Phase.STARTING, Phase.ENDING, Phase.RETRYING, Phase.FAILED, Phase.DOWN)


def phase_of(instances: Sequence[tuple[State, bool]]) -> Phase:
    """The phase of a model by its instances' states, and whether each is wanted: a wanted one that is STOPPED waits."""
    seen = {Phase.STARTING if wanted and state is State.STOPPED else _PHASES[state] for state, wanted in instances}
    return next((phase for phase in _ORDER if phase in seen), Phase.DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of a model at a moment."""

    phase: Phase = Phase.DOWN
    launches: int = 0
    """Of its instances, so far."""
    queued: int = 0
    """Requests that wait for it."""
    inflight: int = 0
    """Requests that it answers."""
    available: bool = True
    """An operator has not stopped all its instances."""
    reason: str = ""
    """Why it is in this phase, for a person."""


class Cause(StrEnum):
    """Why a model is stopped."""

    IDLE = "idle"
    ROOM = "room"


# Effects.


@dataclass(frozen=True, slots=True)
class StartModel:
    """Start its instances that no operator has stopped."""

    model: str
    queued: int


@dataclass(frozen=True, slots=True)
class StopModel:
    """Stop its instances; no request runs there."""

    model: str
    cause: Cause
    text: str
    """For a person."""


@dataclass(frozen=True, slots=True)
class RefuseWaiting:
    """Refuse the requests that wait for it."""

    model: str
    text: str
    retry_after_s: float


Effect = StartModel | StopModel | RefuseWaiting
