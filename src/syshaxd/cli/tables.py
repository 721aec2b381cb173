# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Tables that fit the terminal: a narrow one gets fewer columns, each of them whole."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Heading:
    """A column of a table."""

    name: str
    right: bool = False
    spare: int = 0
    """Narrow terminals leave out the column with the highest number first; 0: none does."""
    least: int = 0
    """The fewest columns of the terminal into which its texts may be wrapped; 0: they are not wrapped."""


def fitting_table(headings: Sequence[Heading], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Returns the columns that fit a terminal of `width` columns, with narrower gaps if that keeps more of them."""
    texts = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    least = [_least(heading, [row[number] for row in texts]) for number, heading in enumerate(headings)]
    kept = list(range(len(headings)))
    while sum(least[number] + 1 for number in kept) - 1 > width:
        spare = max(kept, key=lambda number: headings[number].spare)
        if not headings[spare].spare:
            break
        kept.remove(spare)
    gap = 2 if sum(least[number] + 2 for number in kept) - 2 <= width else 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for number in kept:
        heading = headings[number]
        justify = "right" if heading.right else "left"
        table.add_column(heading.name, justify=justify, no_wrap=not heading.least, overflow="fold")  # type: ignore[arg-type]
    for row in texts:
        table.add_row(*(row[number] for number in kept))
    return table


def _least(heading: Heading, cells: Sequence[Text]) -> int:
    """The width that a column needs."""
    widest = max((line.cell_len for cell in cells for line in cell.split("\n")), default=0)
    return max(len(heading.name), min(widest, heading.least or widest))
