# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A comparison as a picture (SVG): goodput and p99 of whole answers over the load, a line for each policy."""

from collections.abc import Callable, Sequence
from html import escape

from syshaxd.core.placement.replay.compare import Row

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_WIDTH, _HEIGHT, _MARGIN = 360, 220, 48
_LEGEND_HEIGHT = 40


def draw(rows: Sequence[Row]) -> str:
    """Returns an SVG document for the rows of one profile."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    panels: list[tuple[str, Callable[[Row], float]]] = [
        ("requests/s within both targets", lambda row: row.goodput),
        ("tokens/s", lambda row: row.tokens_per_s),
        ("p99 of whole answers, s", lambda row: row.whole_p99_s),
    ]
    width = len(panels) * (_WIDTH + _MARGIN) + _MARGIN
    height = _HEIGHT + 2 * _MARGIN + _LEGEND_HEIGHT
    attributes = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, value) in enumerate(panels):
        left = _MARGIN + number * (_WIDTH + _MARGIN)
        parts.append(f'<g transform="translate({left},{_MARGIN})">{_panel(title, value, rows, policies)}</g>')
    for number, policy in enumerate(policies):
        x, y = _MARGIN + 160 * number, height - 14
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}">{escape(policy)}</text>')
    parts.append(f'<text x="{_MARGIN}" y="20" font-weight="bold">{escape(rows[0].profile)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(title: str, value: Callable[[Row], float], rows: Sequence[Row], policies: Sequence[str]) -> str:
    most_load = max(row.load for row in rows)
    most = max(1e-9, *(value(row) for row in rows))
    parts = [
        f'<text x="0" y="-8">{escape(title)}</text>',
        f'<path d="M0,0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="black"/>',
        f'<text x="-4" y="10" text-anchor="end">{most:.3g}</text>',
        f'<text x="-4" y="{_HEIGHT}" text-anchor="end">0</text>',
    ]
    for load in sorted({row.load for row in rows}):
        x = _WIDTH * load / most_load
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{load:g}x</text>')
    for number, policy in enumerate(policies):
        points = " ".join(
            f"{_WIDTH * row.load / most_load:.1f},{_HEIGHT * (1 - value(row) / most):.1f}"
            for row in sorted(rows, key=lambda row: row.load)
            if row.policy == policy
        )
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return "".join(parts)
