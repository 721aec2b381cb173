# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The one back-off rule: whatever the number of failures and the time that passed, a pause within its bounds."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.backoff import backoff_s
from syshaxd.core.lifecycle import RestartPolicy

SOURCES = Path(__file__).parents[2] / "src" / "syshaxd"
pauses = st.floats(1e-3, 1e9)


@given(st.integers(-5, 10**30), pauses, pauses)
def test_a_pause_is_within_its_bounds_and_never_gets_shorter(failures: int, first_s: float, cap_s: float) -> None:
    pause_s = backoff_s(failures, first_s=first_s, cap_s=cap_s)
    assert min(first_s, cap_s) <= pause_s <= cap_s
    assert pause_s <= backoff_s(failures + 1, first_s=first_s, cap_s=cap_s)


def test_it_doubles() -> None:
    assert [backoff_s(failures, first_s=30, cap_s=3600) for failures in (0, 1, 2, 3, 20)] == [30, 30, 60, 120, 3600]


def test_years_of_failures_do_no_harm() -> None:
    now_s, failures = 0.0, 0
    while now_s < 10 * 365 * 86400:  # ten years, at the pauses of an instance that never starts
        failures += 1
        now_s += backoff_s(failures, first_s=30.0, cap_s=3600.0)
    assert failures > 50_000
    assert RestartPolicy().backoff_s(failures) == RestartPolicy().backoff_cap_s


def test_nobody_has_a_rule_of_its_own() -> None:
    own = re.compile(r"2(\.0)? ?\*\* ?[a-z(]")
    found = [path for path in SOURCES.rglob("*.py") if own.search(path.read_text()) and path.name != "backoff.py"]
    assert not found
