# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The plot of characters: it fits, hides no line, and has a form in ASCII."""

from hypothesis import example, given
from hypothesis import strategies as st

from syshaxd.cli.chart import chart
from syshaxd.system.terminal import _ERRORS

names = st.sampled_from(["gpu", "cpu", "gpu beside cpu", "chat-0"])
points = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 1e6)), max_size=6)
every_series = st.dictionaries(names, points, max_size=4)


@given(every_series, st.integers(1, 200))
@example({"gpu": [(1, 1.0)]}, 14)
def test_it_fits_whatever_is_drawn(series: dict[str, list[tuple[float, float]]], width: int) -> None:
    lines = chart(series, width=width, x_name="requests", y_name="ms")
    assert max(map(len, lines), default=0) <= width
    drawn = "".join(lines[1:13])
    if lines:
        assert [mark for mark in "●▲■◆" if mark in drawn] == [
            mark for mark, its in zip("●▲■◆", series.values(), strict=False) if its
        ]


def test_what_is_higher_is_drawn_higher() -> None:
    lines = chart({"slow": [(1, 100.0), (4, 200.0)], "quick": [(1, 1.0), (4, 2.0)]}, width=80, x_name="n", y_name="ms")
    assert lines[0] == "ms over n"
    assert lines[1].startswith("     200 │")
    assert lines[1].endswith("●")
    assert "●" in lines[2]
    assert lines[12].startswith("       1 │")
    assert lines[14].split() == ["1", "4"]


def test_a_terminal_without_its_characters_gets_others() -> None:
    lines = chart({"a": [(1, 1.0), (2, 9.0)], "b": [(1, 2.0), (2, 5.0)]}, width=80, x_name="n", y_name="ms")
    text = "\n".join(lines).encode("ascii", _ERRORS).decode("ascii")
    assert "?" not in text
    assert {"o", "^", ".", "|", "+", "-"} <= set(text)


def test_nothing_is_drawn_without_points_or_room() -> None:
    assert chart({"a": []}, width=80, x_name="n", y_name="ms") == []
    assert chart({"a": [(1, 1.0)]}, width=12, x_name="n", y_name="ms") == []
