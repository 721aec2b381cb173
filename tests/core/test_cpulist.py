# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syshaxd.core.numa.cpulist import format_cpulist, parse_cpulist

CPUS = st.sets(st.integers(0, 300), min_size=1)


@given(CPUS)
def test_what_was_formatted_is_parsed_again(cpus: set[int]) -> None:
    assert parse_cpulist(format_cpulist(cpus)) == tuple(sorted(cpus))


@given(CPUS)
def test_the_shortest_list_is_written(cpus: set[int]) -> None:
    ranges = [part.split("-") for part in format_cpulist(cpus).split(",")]
    for before, after in pairwise(ranges):
        assert int(after[0]) > int(before[-1]) + 1


@settings(deadline=None)  # long lists take their time on a busy machine
@given(st.text(alphabet="0123456789-,: "))
def test_any_text_gives_cpus_or_an_error(text: str) -> None:
    try:
        cpus = parse_cpulist(text)
    except ValueError:
        return
    assert cpus
    assert cpus == tuple(sorted(set(cpus)))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0-3,8", (0, 1, 2, 3, 8)),
        (" 0-1 , 3 ", (0, 1, 3)),
        ("16-30:7", (16, 23, 30)),
        ("8,0-1", (0, 1, 8)),
        ("0-0", (0,)),
    ],
)
def test_lists(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpulist(text) == cpus


@pytest.mark.parametrize(
    "text", ["", ",", "0,", "3-1", "0-3:0", "1,1", "0-3,2", "a", "-1", "0-", "1:2", "9999999", "٣"]
)
def test_faults(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|empty|twice"):
        parse_cpulist(text)


def test_no_cpus_are_an_empty_text() -> None:
    assert format_cpulist([]) == ""
