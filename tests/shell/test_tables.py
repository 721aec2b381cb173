# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Tables fit the terminal: what they show is whole, and what a narrow one leaves out is what is needed least."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from syshaxd.cli.parity import parity_table
from syshaxd.cli.tables import Heading, fitting_table
from tests.fakes.engine import parity_report

HEADINGS = (
    Heading("NAME"),
    Heading("A NUMBER", right=True, spare=1),
    Heading("NOTE", least=8),
    Heading("AGE", spare=2),
)
WORDS = st.text("abcdefgh中", min_size=1, max_size=9)
ROWS = st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=5)


def shown(rows: list[tuple[str, str, str, str]], width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(fitting_table(HEADINGS, rows, width))
    return file.getvalue().splitlines()


@given(ROWS, st.integers(40, 120))
def test_columns_are_whole_or_absent(rows: list[tuple[str, str, str, str]], width: int) -> None:
    lines = shown(rows, width)
    kept = [number for number, heading in enumerate(HEADINGS) if heading.name in lines[0]]
    assert {0, 2} <= set(kept)
    assert 3 not in kept or 1 in kept, "the age is the first that may be left out"
    text = "\n".join(lines)
    assert "…" not in text
    for row in rows:
        for number in set(kept) - {2}:
            assert row[number] in text


def test_a_wide_terminal_gets_all_and_a_narrow_one_smaller_gaps_first() -> None:
    rows = [("gpu", "12", "fine", "3s")]
    assert shown(rows, 40)[0] == "NAME  A NUMBER  NOTE  AGE"
    assert shown(rows, 22)[0] == "NAME A NUMBER NOTE AGE"
    assert shown(rows, 21)[0].split() == ["NAME", "A", "NUMBER", "NOTE"]
    assert shown(rows, 12)[0].split() == ["NAME", "NOTE"]


def test_a_comparison_is_whole_at_60_columns() -> None:
    file = io.StringIO()
    Console(file=file, width=60).print(parity_table(parity_report(), 60))
    text = file.getvalue()
    assert "35/36" in text
    assert "0.0120" in text
    assert "other tokens" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 60
