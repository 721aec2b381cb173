# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What happens to an instance (events), and what is to be done about it (effects)."""

from dataclasses import dataclass
from enum import StrEnum

from syshaxd.core.types import ExitStatus, Handle


class Timer(StrEnum):
    """What a timer waits for."""

    START = "start"
    """The first good probe."""
    STABLE = "stable"
    """Good health for so long that failed attempts are forgotten."""
    DRAIN = "drain"
    """The end of the requests that still run."""
    BACKOFF = "backoff"
    """The pause before the next attempt."""
    TERMINATE = "terminate"
    """The pause before ending it is tried again."""
    BUSY = "busy"
    """How long it may be too busy to answer a probe."""


# Events.


@dataclass(frozen=True, slots=True)
class StartRequested:
    """Somebody wants it up. Failed attempts are forgotten."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants it down, after its running requests if `drain`."""

    drain: bool
    reason: str = ""
    """Why; empty: just so."""


@dataclass(frozen=True, slots=True)
class DependencyUp:
    """The instance that this one depends on is there."""


@dataclass(frozen=True, slots=True)
class DependencyLost:
    """The instance that this one depends on goes away (`drain`: after its running requests) or is gone."""

    name: str
    drain: bool


@dataclass(frozen=True, slots=True)
class Adopted:
    """A server that an earlier daemon launched was found running."""

    handle: Handle
    healthy: bool
    age_s: float
    """Since its launch."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The server runs; it need not answer yet."""

    handle: Handle

    @property
    def generation(self) -> int:
        """The launched generation."""
        return self.handle.generation


@dataclass(frozen=True, slots=True)
class LaunchNoted:
    """The launch makes progress with something that may take long, such as fetching an image."""

    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """Nothing runs. `permanent`: trying again cannot help."""

    generation: int
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Exited:
    """The server has ended, and nothing of it is left."""

    generation: int
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class WatchFailed:
    """A fault of the daemon's own keeps it from watching the server, which may still run. The next launch ends it."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TerminateFailed:
    """The server could not be ended."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """The server says that it is well."""

    generation: int


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The server says otherwise, or nothing."""

    generation: int
    reason: str
    counts: bool = True
    """It may be ended for it; not so while its runtime is away."""
    busy: bool = False
    """It did not answer in time, but it is at work: it gets no new requests, and much more time."""


@dataclass(frozen=True, slots=True)
class Drained:
    """No request runs on the server any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The timer that an effect set has run out."""

    generation: int
    timer: Timer


Command = StartRequested | StopRequested | DependencyUp | DependencyLost | Adopted
GenerationEvent = (
    Launched
    | LaunchNoted
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
    """Launch the server; answered by Launched and later Exited, or by LaunchFailed."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """The launch under way is not wanted any more: it need not go on; answered as Launch."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """End the server; answered by Exited or TerminateFailed."""

    handle: Handle
    served: bool = True
    """It may have requests to end. One that was never ready has none, and some can't be asked while they start."""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with TimerFired after `after_s`, unless the state changes or another timer is set before."""

    generation: int
    timer: Timer
    after_s: float


Effect = Launch | Abandon | Terminate | SetTimer
