# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A comparison as a picture (SVG): goodput and p99 of whole answers over the load, a line for each policy."""

from collections.abc import Callable, Sequence

from syshaxd.core.placement.replay.compare import Row
from syshaxd.core.report import svg


def draw(rows: Sequence[Row]) -> str:
    """Returns an SVG document for the rows of one profile."""

    def panel(title: str, value: Callable[[Row], float]) -> svg.Panel:
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            lines.setdefault(row.policy, []).append((row.load, value(row)))
        return svg.Panel(title, lines)

    panels = (
        panel("requests/s within both targets", lambda row: row.goodput),
        panel("tokens/s", lambda row: row.tokens_per_s),
        panel("p99 of whole answers, s", lambda row: row.whole_p99_s),
    )
    return svg.draw(panels, heading=rows[0].profile, x_unit="x")
