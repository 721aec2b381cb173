# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How many tokens of an answer are reasoning."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.handover.reasoning import ReasoningTokens, may_think

THINK, END = 8, 9


@pytest.mark.parametrize(
    ("answer_ids", "expected"),
    [
        ([], 0),
        ([1, 2, END, 3], 0),  # the <think> is the prompt's
        ([THINK, 1, 2, END, 3], 2),
        ([THINK, 1, THINK, 2, END, 3, END, 4], 3),
        ([END, END, THINK, 1], 1),
    ],
)
def test_what_counts(answer_ids: list[int], expected: int) -> None:
    assert ReasoningTokens(THINK, END, from_start=False).among(answer_ids, 0) == expected


@pytest.mark.parametrize(
    ("answer_ids", "thinks", "expected"),
    [([1, 2], True, 2), ([THINK, 1, END, 2, THINK, 3], True, 1), ([END, 2], True, 0), ([THINK, 1], False, 0)],
)
def test_what_counts_from_the_start(answer_ids: list[int], thinks: bool, expected: int) -> None:
    assert ReasoningTokens(THINK, END, from_start=True, thinks=thinks).among(answer_ids, 0) == expected


def test_what_came_as_reasoning_counts_whatever_ended_it() -> None:
    counting = ReasoningTokens(THINK, END, from_start=True)
    assert counting.among([THINK, 1, 2], 3) == 2
    assert counting.among([THINK, 1, 2, 3, 4, END], 4) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"chat_template_kwargs": {}}, True), ({"chat_template_kwargs": {"enable_thinking": False}}, False)],
)
def test_who_may_think(options: dict[str, Any], expected: bool) -> None:
    assert may_think(options) is expected


@given(st.lists(st.sampled_from([1, THINK, END])), st.integers(0, 20))
def test_it_counts_on(answer_ids: list[int], before: int) -> None:
    for from_start in (False, True):
        counting = ReasoningTokens(THINK, END, from_start=from_start)
        counting.among(answer_ids[:before], 0)
        assert counting.among(answer_ids, 0) == ReasoningTokens(THINK, END, from_start=from_start).among(answer_ids, 0)
