# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The pause before something that failed is tried again: it doubles, up to a cap. The one rule for the whole daemon."""

# Beyond any ratio of cap and first pause; 2.0**1024 would overflow.
_MAX_DOUBLINGS = 64


def backoff_s(failures: int, *, first_s: float, cap_s: float) -> float:
    """Returns the pause after so many failures in a row, for any number of them.

    Args:
        failures: In a row; 1 or less: the first pause.
        first_s: Pause after the first failure, in seconds.
        cap_s: The longest pause, in seconds.
    """
    doublings = min(max(0, failures - 1), _MAX_DOUBLINGS)
    return float(min(cap_s, first_s * 2.0**doublings))
