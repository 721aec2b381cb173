# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""No request ends every instance, and what it did is remembered for a while."""

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.placement.retries import KEPT_S, MAX_BREAKS, MAX_TRIES, Retries, Suspects

failures = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=8)


def count(retries: Retries, *, broke: bool = True, unresponsive: bool = False, begun: bool = False) -> None:
    retries.failed(ValueError(), broke=broke, unresponsive=unresponsive, begun=begun)


@given(failures, st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_tries_and_broken_instances_are_bounded(
    told: list[tuple[bool, bool, bool]], healthy: int, instances: int, remembered: bool
) -> None:
    retries = Retries()
    if remembered:
        retries.remember()
    tries = breaks = 0
    for broke, unresponsive, begun in told:
        if retries.refusal(healthy, instances):
            break
        tries, breaks = tries + 1, breaks + broke
        count(retries, broke=broke, unresponsive=unresponsive, begun=begun)
    assert tries <= MAX_TRIES
    assert breaks <= MAX_BREAKS
    if remembered:
        assert tries <= 1
        assert not tries or healthy > 1 or instances == 1


def test_a_break_may_be_the_instances_own_fault_once() -> None:
    retries = Retries()
    count(retries)
    assert (retries.suspect, retries.refusal(1, 2)) == (False, "")
    count(retries)
    assert retries.suspect
    assert "2 instances broke off" in retries.refusal(2, 3)


def test_what_blocked_an_instance_before_it_said_anything_is_not_tried_elsewhere() -> None:
    retries = Retries()
    count(retries, unresponsive=True)
    assert retries.suspect
    assert retries.refusal(1, 2)
    streaming = Retries()
    count(streaming, unresponsive=True, begun=True)
    assert not streaming.suspect


def test_an_error_counts_once() -> None:
    retries, error = Retries(), ValueError()
    for _ in range(5):
        retries.failed(error, broke=True, unresponsive=False, begun=False)
    assert not retries.suspect


def test_suspects_are_remembered_for_a_while_and_in_bounds() -> None:
    suspects = Suspects()
    suspects.add("/v1/completions", b"body", 0.0)
    assert suspects.knows("/v1/completions", b"body", KEPT_S - 1)
    assert not suspects.knows("/v1/completions", b"body", KEPT_S + 1)
    assert not suspects.knows("/v1/completions", b"bodx", 0.0)
    assert not suspects.knows("/v1/chat/completions", b"body", 0.0)
    suspects.forget("/v1/completions", b"body")
    assert not suspects.knows("/v1/completions", b"body", 0.0)
    for number in range(5000):
        suspects.add("/", b"x" * (number % 7) + str(number).encode(), 0.0)
    assert len(suspects) <= 256
    assert suspects.knows("/", b"x" * (4999 % 7) + b"4999", 1.0)
