# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Exponential back-off with a cap: the one rule for the whole daemon."""

# Exceeds any ratio of cap to first pause; 2.0**1024 would overflow.
_MAX_DOUBLINGS = 64


def backoff_s(failures: int, *, first_s: float, cap_s: float) -> float:
    """Returns the pause after a number of failures in a row, however many.

    Args:
        failures: In a row; 1 or less: the first pause.
        first_s: Pause after the first failure, in seconds.
        cap_s: The longest pause, in seconds.
    """
    doublings = min(max(0, failures - 1), _MAX_DOUBLINGS)
    return float(min(cap_s, first_s * 2.0**doublings))
