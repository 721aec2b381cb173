# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl replay: how the requests of a trace fare under other policies, or on other hosts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from syshaxd.cli import show
from syshaxd.cli.options import output_option
from syshaxd.cli.tables import Heading, fitting_table
from syshaxd.core.placement.replay.compare import DEFAULT_LOADS, Comparison, Row, compare
from syshaxd.core.placement.replay.plot import draw
from syshaxd.core.placement.replay.profiles import PROFILES
from syshaxd.core.placement.replay.trace import parse
from syshaxd.core.placement.rules import RULES
from syshaxd.system.terminal import FileText

_BAR_WIDTH = 12
_HEADINGS = (
    Heading("LOAD", right=True),
    Heading("POLICY"),
    Heading("GOOD/S", right=True),
    Heading("", spare=8),
    Heading("TOKENS/S", right=True, spare=2),
    Heading("OF IDEAL", right=True, spare=5),
    Heading("FIRST", right=True, spare=3),
    Heading("P99", right=True, spare=4),
    Heading("WHOLE", right=True),
    Heading("P99", right=True),
    Heading("TOKEN", right=True, spare=6),
    Heading("HELPED", right=True, spare=1),
    Heading("BATCH", right=True, spare=7),
)


@click.command()
@click.argument("trace", type=FileText())
@click.option("--policy", "policies", multiple=True, type=click.Choice(sorted(RULES)),
              help="Policy to compare; repeatable. Unset: gpu-only, cost, turn and upstream-threshold.")  # fmt: skip
@click.option("--profile", type=click.Choice(sorted(PROFILES)), default="h200-scarce-kv", show_default=True,
              help="Host to simulate.")  # fmt: skip
@click.option("--load", "loads", multiple=True, type=click.FloatRange(min=0, min_open=True),
              help="Arrivals, as a multiple of what the GPU alone answers; repeatable. Unset: 0.5 to 3.")  # fmt: skip
@click.option("--requests", type=click.IntRange(min=10), default=1000, show_default=True,
              help="Requests in each section of the trace.")  # fmt: skip
@click.option(
    "--sections",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of sections to take from the trace.",
)
@click.option("--holdout", type=click.FloatRange(0, 0.5), default=0.0, show_default=True,
              help="Share of requests that wait for the GPU to measure the CPU's help.")  # fmt: skip
@click.option("--told-limits", is_flag=True, help="Requests send the length of their answers as max_tokens.")
@click.option("--batch", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of requests of the class batch. The other columns then count interactive ones.")  # fmt: skip
@click.option("--targets", is_flag=True, help="Placement knows the profile's targets (scheduler.slo.interactive).")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Also write a plot to this file.")
@output_option
def replay(
    trace: str,
    profile: str,
    policies: Sequence[str],
    loads: Sequence[float],
    *,
    requests: int,
    sections: int,
    holdout: float,
    told_limits: bool,
    batch: float,
    targets: bool,
    svg: Path | None,
    output: str,
) -> None:
    """Compares policies of placement on a trace. Needs no daemon.

    TRACE is a file that `syshaxctl decisions --export` wrote, or one in the form of Azure's CSV (TIMESTAMP,
    ContextTokens, GeneratedTokens) or of Mooncake's JSON lines (timestamp, input_length, output_length). `-` is
    standard input.

    \b
    Examples:
      syshaxctl replay azure.csv --profile t4-3b
      syshaxctl replay azure.csv --policy cost --policy turn --load 1.2 --svg plot.svg
    """  # noqa: D301
    try:
        requests_ = parse(trace)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="TRACE") from None
    what = Comparison(
        profile=PROFILES[profile],
        policies=policies or ("gpu-only", "cost", "turn", "upstream-threshold"),
        loads=loads or DEFAULT_LOADS,
        requests=requests,
        seeds=range(1, sections + 1),
        told_limits=told_limits,
        batch_share=batch,
        targets=targets,
        holdout=holdout,
    )
    rows = list(compare(requests_, what))
    if svg is not None:
        svg.write_text(draw(rows), "utf-8")
    if output == "json":
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        console = show.console()
        console.print(_table(rows, console.width))


def _table(rows: Sequence[Row], width: int) -> Table:
    most = {load: max(row.goodput for row in rows if row.load == load) for load in {row.load for row in rows}}
    cells = []
    for row in rows:
        share = row.goodput / most[row.load] if most[row.load] else 0.0
        texts = (
            f"{row.load:g}x",
            row.policy,
            f"{row.goodput:.3g}",
            "█" * round(_BAR_WIDTH * share),
            f"{row.tokens_per_s:.0f}",
            f"{row.tokens_per_s / row.ideal_tokens_per_s:.2f}",
            *(f"{value:.2f}" for value in (row.first_s, row.first_p99_s, row.whole_s, row.whole_p99_s)),
            f"{row.token_s:.3f}",
            f"{row.helped:.0%}",
            f"{row.batch_whole_s:.2f}" if row.batch_whole_s else "-",
        )
        cells.append(texts)
    return fitting_table(_HEADINGS, cells, width)
