# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""From one reading of a running instance to the next: when a drift is certain, and when it is over."""

from dataclasses import dataclass

from syshaxd.core.numa.verify import Drift, Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingStatus:
    """How one generation of an instance keeps to its binding, by the readings so far."""

    verification: Verification
    """What was read last."""
    read_at_s: float
    """Unix time."""
    drifts: tuple[Drift, ...] = ()
    """What the last two readings agree on: an instance that changes just now looks odd for a moment."""
    drifted_at_s: float | None = None
    """Unix time at which the drift became certain; None while there is none."""

    @property
    def drifted(self) -> bool:
        """Whether the instance does not keep to its binding, for certain."""
        return bool(self.drifts)


@dataclass(frozen=True, slots=True)
class Unverified:
    """An instance that could not be looked at."""

    reason: str


def next_status(before: BindingStatus | None, seen: Verification, *, at_s: float) -> BindingStatus:
    """Returns what is known after one more reading.

    A kind of drift is certain once two readings in a row show it, and over with the first that does not.

    Args:
        before: What was known; None: this is the first reading of the generation.
        seen: The reading.
        at_s: Unix time of the reading.
    """
    kinds = {drift.kind for drift in before.verification.drifts} if before is not None else frozenset()
    drifts = tuple(drift for drift in seen.drifts if drift.kind in kinds)
    since_s = before.drifted_at_s if before is not None and before.drifted_at_s is not None else at_s
    return BindingStatus(verification=seen, read_at_s=at_s, drifts=drifts, drifted_at_s=since_s if drifts else None)
