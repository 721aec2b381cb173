# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""No request ends every instance, and what it did is remembered for a while."""

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.placement.retries import HARMLESS_S, KEPT_S, MAX_ENDS, MAX_TRIES, Retries, Suspects, Trials

failures = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.floats(0, 60)), max_size=8)


def count(
    retries: Retries, *, ended: bool = True, unresponsive: bool = False, begun: bool = False, ran_s: float = 0.0
) -> None:
    retries.failed(ValueError(), ended=ended, unresponsive=unresponsive, begun=begun, ran_s=ran_s)


@given(failures, st.booleans())
def test_tries_and_ended_instances_are_bounded(told: list[tuple[bool, bool, bool, float]], remembered: bool) -> None:
    retries = Retries()
    if remembered:
        retries.remember()
    tries = ends = 0
    for ended, unresponsive, begun, ran_s in told:
        if retries.refusal():
            break
        tries, ends = tries + 1, ends + ended
        count(retries, ended=ended, unresponsive=unresponsive, begun=begun, ran_s=ran_s)
        # A second instance is only at risk where a third is ready, or where the first was not ended by a prompt.
        assert retries.suspect or not ended or begun or ran_s >= HARMLESS_S
    assert tries <= (1 if remembered else MAX_TRIES)
    assert ends <= MAX_ENDS


def test_what_had_just_come_is_suspect() -> None:
    retries = Retries()
    count(retries)
    assert (retries.suspect, retries.refusal()) == (True, "")
    count(retries)
    assert "2 instances ended" in retries.refusal()


def test_what_an_instance_has_run_for_a_while_is_not_suspect_at_once() -> None:
    for streaming in (True, False):
        retries = Retries()
        count(retries, begun=streaming, ran_s=0.0 if streaming else HARMLESS_S)
        assert (retries.suspect, retries.refusal()) == (False, "")
        count(retries, begun=True)
        assert retries.suspect
        assert "2 instances ended" in retries.refusal()


def test_what_blocked_an_instance_is_suspect_however_long_it_ran() -> None:
    retries = Retries()
    count(retries, unresponsive=True, ran_s=60.0)
    assert (retries.suspect, retries.refusal()) == (True, "")
    streaming = Retries()
    count(streaming, unresponsive=True, begun=True)
    assert not streaming.suspect


def test_an_error_counts_once() -> None:
    retries, error = Retries(), ValueError()
    for _ in range(5):
        retries.failed(error, ended=True, unresponsive=False, begun=True, ran_s=0.0)
    assert not retries.suspect


@given(st.lists(st.booleans(), max_size=100))
def test_suspects_are_tried_more_and_more_at_a_time_until_an_instance_ends(ends: list[bool]) -> None:
    trials, running = Trials(), 0
    for harmless in ends:
        while trials.may_begin:
            trials.begin()
            running += 1
        assert running >= 1
        trials.end(harmless=harmless)
        running -= 1
        if not harmless:
            assert trials.may_begin == (running == 0)
    # Nobody waits for ever: with no instance that ends, the number doubles each time that all of them have ended.
    trials = Trials()
    waiting, rounds = 100, 0
    while waiting:
        begun = 0
        while trials.may_begin and waiting:
            trials.begin()
            begun, waiting = begun + 1, waiting - 1
        for _ in range(begun):
            trials.end(harmless=True)
        rounds += 1
    assert rounds == 7


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
