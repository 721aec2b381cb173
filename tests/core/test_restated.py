# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What an instance repeats of an answer is left out, however it is cut into pieces."""

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from syshaxd.core.handover.restated import RestatedText

TEXTS = st.text(alphabet="ab c", max_size=12)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in pairwise(at)]


def new_in(known: str, pieces: list[str]) -> str:
    filtered = RestatedText(known)
    return "".join(map(filtered.push, pieces)) + filtered.end()


@given(TEXTS, TEXTS, st.lists(st.integers(0, 30), max_size=5))
def test_a_part_that_repeats_everything_gives_what_follows(known: str, new: str, cuts: list[int]) -> None:
    assert new_in(known, pieces_of(known + new, cuts)) == new


@given(TEXTS, TEXTS, st.lists(st.integers(0, 30), max_size=5))
def test_a_part_that_repeats_nothing_comes_through(known: str, new: str, cuts: list[int]) -> None:
    assume(not known or not new.startswith(known))
    assert new_in(known, pieces_of(new, cuts)) == new


@given(TEXTS, TEXTS)
def test_what_is_surely_new_is_not_held_back(known: str, new: str) -> None:
    filtered = RestatedText(known)
    filtered.push(known)
    assert filtered.push(new) == new
