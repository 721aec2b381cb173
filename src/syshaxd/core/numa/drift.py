# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Decides from successive readings of a running instance when drift begins and ends."""

from dataclasses import dataclass

from syshaxd.core.numa.verify import Drift, Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingStatus:
    """The binding status of one generation of an instance."""

    verification: Verification
    """The latest reading."""
    read_at_s: float
    """Unix time."""
    drifts: tuple[Drift, ...] = ()
    """Drift in both of the last two readings; a single reading may catch an instance in transition."""
    drifted_at_s: float | None = None
    """Unix time at which the drift was confirmed; None: no drift."""

    @property
    def drifted(self) -> bool:
        """Whether drift is confirmed."""
        return bool(self.drifts)


@dataclass(frozen=True, slots=True)
class Unverified:
    """An instance that could not be checked."""

    reason: str


def next_status(before: BindingStatus | None, seen: Verification, *, at_s: float) -> BindingStatus:
    """Returns the status after one more reading.

    A kind of drift is confirmed by two readings in a row, and cleared by the first without it.

    Args:
        before: The status before; None: this is the generation's first reading.
        seen: The reading.
        at_s: Unix time of the reading.
    """
    kinds = {drift.kind for drift in before.verification.drifts} if before is not None else frozenset()
    drifts = tuple(drift for drift in seen.drifts if drift.kind in kinds)
    since_s = before.drifted_at_s if before is not None and before.drifted_at_s is not None else at_s
    return BindingStatus(verification=seen, read_at_s=at_s, drifts=drifts, drifted_at_s=since_s if drifts else None)
