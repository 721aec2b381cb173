# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""When a drift is certain and when it is over, over any readings."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.numa import BindingStatus, Drift, DriftKind, Verification, next_status
from tests.core.topologies import on_any_host

READINGS = st.lists(st.frozensets(st.sampled_from(DriftKind)), min_size=1, max_size=12)


def reading(kinds: frozenset[DriftKind], detail: str = "") -> Verification:
    return Verification(
        drifts=tuple(Drift(kind=kind, detail=detail) for kind in DriftKind if kind in kinds),
        threads=1,
        threads_outside=0,
        cpus_planned=1,
        cpus_bound=1,
        memory_bytes={},
        remote_memory_bytes=0,
    )


def history(readings: list[frozenset[DriftKind]]) -> list[BindingStatus]:
    """What is known after each reading; they come ten seconds apart."""
    first = next_status(None, reading(readings[0]), at_s=0.0)
    return list(
        accumulate(
            enumerate(readings[1:], 1),
            lambda before, item: next_status(before, reading(item[1], "later"), at_s=10.0 * item[0]),
            initial=first,
        )
    )


def certain(status: BindingStatus) -> frozenset[DriftKind]:
    return frozenset(drift.kind for drift in status.drifts)


@on_any_host
@given(READINGS)
def test_what_two_readings_in_a_row_show_is_certain_and_nothing_else(readings: list[frozenset[DriftKind]]) -> None:
    known = history(readings)
    assert known[0].drifts == ()
    for (before, now), status in zip(pairwise(readings), known[1:], strict=True):
        assert certain(status) == before & now


@on_any_host
@given(READINGS)
def test_a_drift_began_when_it_was_first_certain(readings: list[frozenset[DriftKind]]) -> None:
    since_s: float | None = None
    for number, status in enumerate(history(readings)):
        since_s = (10.0 * number if since_s is None else since_s) if status.drifts else None
        assert status.drifted_at_s == since_s
        assert status.drifted is (since_s is not None)
        assert status.read_at_s == 10.0 * number


def test_the_details_are_those_of_the_latest_reading() -> None:
    outside = frozenset({DriftKind.THREAD_OUTSIDE})
    assert [drift.detail for drift in history([outside, outside])[-1].drifts] == ["later"]
