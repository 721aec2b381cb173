# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Events that happen to an instance, and effects to carry out."""

from dataclasses import dataclass
from enum import StrEnum

from syshaxd.core.types import ExitStatus, Handle


class Timer(StrEnum):
    """What a timer waits for."""

    START = "start"
    """The first good probe."""
    STABLE = "stable"
    """Time in READY after which failed attempts are forgotten."""
    DRAIN = "drain"
    """The end of running requests."""
    BACKOFF = "backoff"
    """The pause before the next attempt."""
    TERMINATE = "terminate"
    """The pause before stopping it is retried."""
    BUSY = "busy"
    """How long it may be too busy to answer a probe."""


# Events.


@dataclass(frozen=True, slots=True)
class StartRequested:
    """It is wanted. Failed attempts are forgotten."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """It is no longer wanted; it stops after its running requests if `drain`."""

    drain: bool
    reason: str = ""
    """The reason; empty: none given."""


@dataclass(frozen=True, slots=True)
class DependencyUp:
    """The dependency is up."""


@dataclass(frozen=True, slots=True)
class DependencyLost:
    """The dependency is stopping (`drain`: after its running requests) or is gone."""

    name: str
    drain: bool


@dataclass(frozen=True, slots=True)
class Adopted:
    """A server launched by an earlier daemon was found running."""

    handle: Handle
    healthy: bool
    age_s: float
    """Since its launch."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The server runs; it may not answer yet."""

    handle: Handle

    @property
    def generation(self) -> int:
        """The launched generation."""
        return self.handle.generation


@dataclass(frozen=True, slots=True)
class LaunchProgress:
    """The launch makes progress with a slow step, such as pulling an image."""

    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """Nothing runs. `permanent`: retrying cannot help."""

    generation: int
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Exited:
    """The server has exited completely."""

    generation: int
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class WatchFailed:
    """A fault of the daemon's own keeps it from watching the server, which may still run. The next launch ends it."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TerminateFailed:
    """The server could not be stopped."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """The server is healthy."""

    generation: int


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The server is unhealthy or does not answer."""

    generation: int
    reason: str
    counts: bool = True
    """It may be stopped for it; false while its runtime is away."""
    busy: bool = False
    """It did not answer in time but computes: it gets no new requests and much more time."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The server has no running requests left."""

    generation: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by an effect has expired."""

    generation: int
    timer: Timer


Command = StartRequested | StopRequested | DependencyUp | DependencyLost | Adopted
GenerationEvent = (
    Launched
    | LaunchProgress
    | LaunchFailed
    | Exited
    | WatchFailed
    | TerminateFailed
    | ProbeSucceeded
    | ProbeFailed
    | Drained
    | TimerFired
)
Event = Command | GenerationEvent


# Effects.


@dataclass(frozen=True, slots=True)
class Launch:
    """Launch the server; results in Launched and later Exited, or in LaunchFailed."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Abandon the launch under way, which is no longer wanted; results as for Launch."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """Stop the server; results in Exited or TerminateFailed."""

    handle: Handle
    served: bool = True
    """It may have running requests. A server that was never ready has none, and some ignore signals while they
    start."""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send TimerFired after `after_s`, unless the state changes or another timer is set before."""

    generation: int
    timer: Timer
    after_s: float


Effect = Launch | Abandon | Terminate | SetTimer
