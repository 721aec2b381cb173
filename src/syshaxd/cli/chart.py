# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A plot of characters for a terminal. One whose encoding lacks them gets ASCII (`system/terminal.py`)."""

import itertools
import math
from collections.abc import Mapping, Sequence

_MARKS = "●▲■◆○△□◇"
_LINE = "·"
_HEIGHT = 12
_MAX_WIDTH = 96
_LABEL_EVERY = 4
_LABEL_WIDTH = 8
_GAP = "   "

Points = Sequence[tuple[float, float]]


def chart(series: Mapping[str, Points], *, width: int, x_name: str, y_name: str) -> list[str]:
    """Draws lines through points: evenly spaced x, logarithmic y.

    Args:
        series: The points of each line, by name, with y above zero.
        width: Of the terminal, in columns.
        x_name: What x is.
        y_name: What y is.

    Returns:
        Lines of text, none longer than `width`; none at all if there are no points or no room.
    """
    columns = min(width, _MAX_WIDTH) - _LABEL_WIDTH - 2
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [math.log(y) for points in series.values() for _, y in points]
    if not ys or columns < len(xs) * 4:
        return []
    low, high = min(ys), max(ys)
    span = high - low or 1.0
    margin = columns // (2 * len(xs))
    at_x = {x: margin + (columns - 2 * margin - 1) * at // max(1, len(xs) - 1) for at, x in enumerate(xs)}
    grid = [[" "] * columns for _ in range(_HEIGHT)]

    def row(y: float) -> int:
        return round((_HEIGHT - 1) * (high - math.log(y)) / span)

    places = [sorted((at_x[x], row(y)) for x, y in points) for points in series.values()]
    for line in places:
        for (x, y), (next_x, next_y) in itertools.pairwise(line):
            for step in range(x, next_x):
                grid[round(y + (next_y - y) * (step - x) / (next_x - x))][step] = _LINE
    for mark, line in zip(itertools.cycle(_MARKS), places, strict=False):
        for x, y in line:
            # Beside the marks of other lines in the same place.
            grid[y][next((at for at in range(x, columns) if grid[y][at] in {" ", _LINE, mark}), x)] = mark
    labels = [
        f"{math.exp(high - span * at / (_HEIGHT - 1)):.3g}" if at % _LABEL_EVERY == 0 or at == _HEIGHT - 1 else ""
        for at in range(_HEIGHT)
    ]
    ticks = [" "] * columns
    for value, place in at_x.items():
        text = f"{value:g}"
        ticks[place : place + len(text)] = text
    return [
        f"{y_name} over {x_name}"[:width],
        *(f"{label:>{_LABEL_WIDTH}} │{''.join(cells)}".rstrip() for label, cells in zip(labels, grid, strict=True)),
        f"{'':>{_LABEL_WIDTH}} └{'─' * columns}",
        f"{'':>{_LABEL_WIDTH}}  {''.join(ticks[:columns])}".rstrip(),
        *_wrapped([f"{_MARKS[number % len(_MARKS)]} {name}" for number, name in enumerate(series)], width),
    ]


def _wrapped(names: Sequence[str], width: int) -> list[str]:
    """The legend, in as many lines as it needs."""
    lines = [""]
    for name in names:
        added = f"{lines[-1]}{_GAP}{name}" if lines[-1] else name
        if len(added) <= width or not lines[-1]:
            lines[-1] = added[:width]
        else:
            lines.append(name[:width])
    return lines
