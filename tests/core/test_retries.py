# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""No request ends every instance, and what it did is remembered for a while."""

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.placement.retries import ABANDONED_S, KEPT_S, MAX_ENDS, MAX_TRIES, Retries, Suspects, Trials

failures = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8)


def count(retries: Retries, *, ended: bool = True, begun: bool = False) -> None:
    retries.failed(ValueError(), ended=ended, begun=begun)


@given(failures, st.booleans())
def test_tries_and_ended_instances_are_bounded(told: list[tuple[bool, bool]], remembered: bool) -> None:
    retries = Retries()
    if remembered:
        retries.remember()
    tries = ends = 0
    for ended, begun in told:
        if retries.refusal():
            break
        tries, ends = tries + 1, ends + ended
        count(retries, ended=ended, begun=begun)
        # A second instance is only at risk where a third is ready, or where the first had begun to answer.
        assert retries.suspect or not ended or begun
    assert tries <= (1 if remembered else MAX_TRIES)
    assert ends <= MAX_ENDS


def test_what_has_no_answer_is_suspect() -> None:
    retries = Retries()
    count(retries)
    assert (retries.suspect, retries.refusal()) == (True, "")
    count(retries)
    assert "2 instances ended" in retries.refusal()


def test_what_has_begun_to_answer_is_not_suspect_at_once() -> None:
    retries = Retries()
    count(retries, begun=True)
    assert (retries.suspect, retries.refusal()) == (False, "")
    count(retries, begun=True)
    assert retries.suspect
    assert "2 instances ended" in retries.refusal()


def test_an_error_counts_once() -> None:
    retries, error = Retries(), ValueError()
    for _ in range(5):
        retries.failed(error, ended=True, begun=True)
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
            trials.harmed()
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
    assert len(suspects) <= 1024
    assert suspects.knows("/", b"x" * (4999 % 7) + b"4999", 1.0)


def test_what_has_ended_two_instances_is_not_tried_for_a_while() -> None:
    suspects, first, second = Suspects(), Retries(), Retries()
    count(first)
    assert not first.harmful
    suspects.add("/", b"body", 0.0, harmful=first.harmful)
    assert not suspects.refused_for_s("/", b"body", 1.0)
    second.remember()
    count(second)
    assert second.harmful
    suspects.add("/", b"body", 1.0, harmful=second.harmful)
    suspects.add("/", b"body", 2.0)
    assert suspects.refused_for_s("/", b"body", 2.0) == KEPT_S
    assert not suspects.refused_for_s("/", b"other", 2.0)
    assert not suspects.refused_for_s("/", b"body", 2.0 + KEPT_S)


def test_what_clients_have_abandoned_is_suspect_once_the_instance_ends() -> None:
    suspects = Suspects()
    suspects.abandon("gpu", "/", b"old", 0.0)
    suspects.abandon("gpu", "/", b"gpu", ABANDONED_S)
    suspects.abandon("cpu", "/", b"cpu", ABANDONED_S)
    assert not suspects.knows("/", b"gpu", ABANDONED_S)
    suspects.blame_abandoned("gpu", ABANDONED_S + 1)
    assert suspects.knows("/", b"gpu", ABANDONED_S + 1)
    assert not suspects.knows("/", b"cpu", ABANDONED_S + 1)
    assert not suspects.knows("/", b"old", ABANDONED_S + 1)
    for number in range(5000):
        suspects.abandon("cpu", "/", b"%d" % number, ABANDONED_S)
    suspects.blame_abandoned("cpu", ABANDONED_S + 1)
    assert len(suspects) <= 1024


def test_long_bodies_are_told_apart_by_their_ends() -> None:
    suspects, middle = Suspects(), b"x" * (3 << 20)
    suspects.add("/", b"a" + middle + b"z", 0.0)
    assert suspects.knows("/", b"a" + middle + b"z", 1.0)
    assert not suspects.knows("/", b"b" + middle + b"z", 1.0)
    assert not suspects.knows("/", b"a" + middle + b"y", 1.0)
