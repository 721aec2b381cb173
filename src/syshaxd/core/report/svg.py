# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Lines over one axis as a picture (SVG), in panels beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_WIDTH, _HEIGHT, _MARGIN = 360, 220, 48
_LEGEND_HEIGHT = 40

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """What one panel shows. Both axes begin at zero."""

    title: str
    lines: Mapping[str, Points]
    """By the name in the legend."""
    circles: Mapping[str, Points] = field(default_factory=dict)
    """Points that no line connects, in the colour of the line of that name."""


def draw(panels: Sequence[Panel], *, heading: str, x_unit: str = "") -> str:
    """Returns an SVG document; `x_unit` stands behind each number below the panels."""
    names = list(dict.fromkeys(name for panel in panels for name in (*panel.lines, *panel.circles)))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    width = len(panels) * (_WIDTH + _MARGIN) + _MARGIN
    height = _HEIGHT + 2 * _MARGIN + _LEGEND_HEIGHT
    attributes = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_MARGIN}" y="20" font-weight="bold">{escape(heading)}</text>',
    ]
    for number, panel in enumerate(panels):
        left = _MARGIN + number * (_WIDTH + _MARGIN)
        parts.append(f'<g transform="translate({left},{_MARGIN})">{_panel(panel, colours, x_unit)}</g>')
    for number, (name, colour) in enumerate(colours.items()):
        x, y = _MARGIN + 160 * number, height - 14
        parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}">{escape(name)}</text>')
    return "\n".join((*parts, "</svg>", ""))


def _panel(panel: Panel, colours: Mapping[str, str], x_unit: str) -> str:
    found = [point for shown in (panel.lines, panel.circles) for points in shown.values() for point in points]
    most_x, most_y = max((x for x, _ in found), default=1.0), max((y for _, y in found), default=0.0) or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return _WIDTH * point[0] / most_x, _HEIGHT * (1 - point[1] / most_y)

    parts = [
        f'<text x="0" y="-8">{escape(panel.title)}</text>',
        f'<path d="M0,0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="black"/>',
        f'<text x="-4" y="10" text-anchor="end">{most_y:.3g}</text>',
        f'<text x="-4" y="{_HEIGHT}" text-anchor="end">0</text>',
    ]
    for value in sorted({x for x, _ in found}):
        x, _ = at((value, 0.0))
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{value:g}{escape(x_unit)}</text>')
    for name, points in panel.lines.items():
        corners = " ".join("{:.1f},{:.1f}".format(*at(point)) for point in sorted(points))
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
    for name, points in panel.circles.items():
        for x, y in map(at, points):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{colours[name]}"/>')
    return "".join(parts)
