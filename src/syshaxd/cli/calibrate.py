# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl calibrate: measures the instances, with a table and a plot."""

import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from html import escape
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from syshaxd.cli import show
from syshaxd.cli.chart import chart
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option
from syshaxd.client import ControlClient
from syshaxd.core.placement.calibration import RunResult, interference
from syshaxd.system.terminal import controlled

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_WIDTH, _HEIGHT, _MARGIN = 480, 240, 56


@click.command()
@click.option("--force", is_flag=True, help="Measure even while requests are running; this slows them down.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Also write a plot to this file.")
@output_option
@click.pass_obj
def calibrate(socket: Path | None, *, force: bool, svg: Path | None, output: str) -> None:
    """Measures the instances by short runs of requests.

    Each instance is measured alone, then GPUs and CPUs together. The results are kept in the state folder, and
    predictions begin with them at every start, as long as hardware, model, engine and weights are the same. A terminal
    also gets a plot.

    \b
    Examples:
      syshaxctl calibrate
      syshaxctl calibrate --svg plot.svg
    """  # noqa: D301
    results: list[RunResult] = []

    async def work(client: ControlClient) -> None:
        console = show.VisibleConsole(file=controlled(sys.stderr), highlight=False)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("calibrating", total=None)
            async with aclosing(client.stream("Calibrate", force=force)) as answers:
                async for answer in answers:
                    results.append(RunResult(**answer["result"]))
                    progress.update(task, total=answer["runs"], completed=len(results))

    run(socket, work)
    if svg is not None:
        svg.write_text(draw(results), "utf-8")
    if output == "json":
        click.echo(json.dumps([_values(result) for result in results], indent=2))
        return
    show_results(results, show.console())


def show_results(results: Sequence[RunResult], console: Console) -> None:
    """Prints a table, a plot if the console is a terminal, and how much the instances slow each other down."""
    console.print(_table(results))
    if console.is_terminal:
        console.print(Text("\n".join(["", *_chart(results, console.width), ""])))
    for (name, other), ratio in interference(results).items():
        console.print(Text(f"{name}: a token takes {ratio:.2f} times as long while {other} computes"))


def _values(result: RunResult) -> dict[str, object]:
    names = ("instance", "batch", "prompt_tokens", "beside", "first_s", "token_s")
    return {name: getattr(result, name) for name in names}


def _table(results: Sequence[RunResult]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("INSTANCE", "BESIDE"):
        table.add_column(name)
    for name in ("REQUESTS", "PROMPT", "FIRST S", "TOKEN MS", "TOKENS/S"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            result.instance,
            result.beside or "-",
            str(result.batch),
            str(result.prompt_tokens),
            f"{result.first_s:.3f}",
            f"{1000 * result.token_s:.1f}",
            f"{result.batch / result.token_s:.1f}" if result.token_s else "-",
        )
    return table


def _chart(results: Sequence[RunResult], width: int) -> list[str]:
    """The same as `draw` for a terminal."""
    series: dict[str, list[tuple[float, float]]] = {}
    for one in results:
        if one.token_s > 0:
            name = f"{one.instance} beside {one.beside}" if one.beside else one.instance
            series.setdefault(name, []).append((one.batch, 1000 * one.token_s))
    return chart(series, width=width, x_name="requests at once", y_name="ms a token")


def draw(results: Sequence[RunResult]) -> str:
    """An SVG document: milliseconds a token over the requests that run, a line for each instance."""
    names = list(dict.fromkeys(result.instance for result in results))
    most_batch = max(result.batch for result in results)
    most_s = max(1e-9, *(result.token_s for result in results))
    width, height = _WIDTH + 2 * _MARGIN, _HEIGHT + 3 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<g transform="translate({_MARGIN},{_MARGIN})" font-size="12">',
        '<text x="0" y="-12">ms a token over requests at once; circles: beside the other instance</text>',
        f'<path d="M0,0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="black"/>',
        f'<text x="-4" y="10" text-anchor="end">{1000 * most_s:.3g}</text>',
    ]

    def at(result: RunResult) -> tuple[float, float]:
        return _WIDTH * result.batch / most_batch, _HEIGHT * (1 - result.token_s / most_s)

    for batch in sorted({result.batch for result in results}):
        x = _WIDTH * batch / most_batch
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{batch}</text>')
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        mine = sorted((one for one in results if one.instance == name), key=lambda one: one.batch)
        points = " ".join("{:.1f},{:.1f}".format(*at(one)) for one in mine if not one.beside)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for one in mine:
            if one.beside:
                x, y = at(one)
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{colour}"/>')
        parts.append(f'<rect x="{140 * number}" y="{_HEIGHT + 31}" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{140 * number + 20}" y="{_HEIGHT + 40}">{escape(name)}</text>')
    return "\n".join([*parts, "</g></svg>"]) + "\n"
