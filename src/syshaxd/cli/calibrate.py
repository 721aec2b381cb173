# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl calibrate: measures the instances, with a table and a plot."""

import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict
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
from syshaxd.cli.tables import Heading, fitting_table
from syshaxd.client import ControlClient
from syshaxd.core.placement.calibration import RunResult, interference
from syshaxd.core.report import svg
from syshaxd.system.terminal import controlled


@click.command()
@click.option("--force", is_flag=True, help="Measure even while requests are running; this slows them down.")
@click.option(
    "--svg", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Also write a plot to this file."
)
@output_option
@click.pass_obj
def calibrate(socket: Path | None, *, force: bool, picture: Path | None, output: str) -> None:
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
    if picture is not None:
        picture.write_text(draw(results), "utf-8")
    if output == "json":
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
        return
    show_results(results, show.console())


def show_results(results: Sequence[RunResult], console: Console) -> None:
    """Prints a table, a plot if the console is a terminal, and how much the instances slow each other down."""
    console.print(_table(results, console.width))
    if console.is_terminal:
        console.print(Text("\n".join(["", *_chart(results, console.width), ""])))
    for (name, other), ratio in interference(results).items():
        console.print(Text(f"{name}: a token takes {ratio:.2f} times as long while {other} computes"))


def _table(results: Sequence[RunResult], width: int) -> Table:
    numbers = ("REQUESTS", "PROMPT", "FIRST S", "TOKEN MS", "TOKENS/S")
    headings = (Heading("INSTANCE"), Heading("BESIDE"), *(Heading(name, right=True) for name in numbers))
    rows = [
        (
            result.instance,
            result.beside or "-",
            str(result.batch),
            str(result.prompt_tokens),
            f"{result.first_s:.3f}",
            f"{1000 * result.token_s:.1f}",
            f"{result.batch / result.token_s:.1f}" if result.token_s else "-",
        )
        for result in results
    ]
    return fitting_table(headings, rows, width)


def _chart(results: Sequence[RunResult], width: int) -> list[str]:
    """The same as `draw` for a terminal."""
    series: dict[str, list[tuple[float, float]]] = {}
    for one in results:
        if one.token_s > 0:
            name = f"{one.instance} beside {one.beside}" if one.beside else one.instance
            series.setdefault(name, []).append((one.batch, 1000 * one.token_s))
    return chart(series, width=width, x_name="requests at once", y_name="ms a token")


def draw(results: Sequence[RunResult]) -> str:
    """An SVG document: a line for each instance, circles for what it did beside another one."""
    lines: dict[str, list[tuple[float, float]]] = {}
    circles: dict[str, list[tuple[float, float]]] = {}
    for one in results:
        shown = circles if one.beside else lines
        shown.setdefault(one.instance, []).append((one.batch, 1000 * one.token_s))
    title = "ms a token over requests at once; circles: beside another"
    return svg.draw([svg.Panel(title, lines, circles)], heading="calibration")
