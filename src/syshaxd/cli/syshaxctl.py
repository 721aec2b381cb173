# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl: controls the running daemon.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no daemon answers, 130 ended with Ctrl-C.
"""

import asyncio
import json
import time
from contextlib import aclosing, suppress
from dataclasses import asdict
from pathlib import Path

import click

from syshaxd import __version__
from syshaxd.cli import complete, show
from syshaxd.cli.batches import batches
from syshaxd.cli.calibrate import calibrate
from syshaxd.cli.connection import run
from syshaxd.cli.control import config, events, reload, shutdown
from syshaxd.cli.endpoints import endpoints
from syshaxd.cli.explain import explain
from syshaxd.cli.instances import drain, restart, start, stop
from syshaxd.cli.keys import keys
from syshaxd.cli.numa import numa
from syshaxd.cli.options import output_option, shown_errors
from syshaxd.cli.parity import parity_table
from syshaxd.cli.render import render
from syshaxd.cli.replay import replay
from syshaxd.cli.rollout import rollout
from syshaxd.cli.scheduling import cancel, decisions, dry_run, offload, place, policy, renew_lease, report_end, requests
from syshaxd.cli.sections import SectionedGroup
from syshaxd.cli.top import TopView, latest_decisions, watch
from syshaxd.cli.weights import weights
from syshaxd.client import ControlClient, UnreachableError
from syshaxd.core.numa import draw_topology, parse_topology
from syshaxd.core.parity import report_json
from syshaxd.core.report.engine_status import HostTopology
from syshaxd.core.report.status import status_json
from syshaxd.system import host, rundir
from syshaxd.system.terminal import FileText


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    type=click.Path(path_type=Path, readable=False),
    envvar="SYSHAX_SOCKET",
    show_envvar=True,
    help="Admin socket of the daemon. Unset: your own daemon's if it answers, else the service's.",
)
@click.version_option(__version__, prog_name="syshaxctl")
@click.pass_context
def main(context: click.Context, socket: Path | None) -> None:
    """Inspects and controls a running syshaxd.

    \b
    Examples:
      syshaxctl status
      syshaxctl logs -f cpu
      syshaxctl restart cpu --timeout 300
    """  # noqa: D301 - \b keeps click from joining the lines
    context.obj = socket


@click.command()
@output_option
@click.pass_obj
def status(socket: Path | None, output: str) -> None:
    """Shows the daemon, its instances and their loads.

    \b
    Examples:
      syshaxctl status
      syshaxctl status -o json | jq '.instances[].state'
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        now = await client.status()
        if output == "json":
            click.echo(json.dumps(status_json(now, monotonic_s=time.monotonic()), indent=2))
            return
        console = show.console()
        table = show.status_table(now, width=console.width, now_s=time.time(), monotonic_s=time.monotonic())
        console.print(table)

    run(socket, work)


@click.command()
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two readings."
)
@click.option("--once", is_flag=True, help="Print one view and exit; needs no terminal.")
@click.pass_obj
def top(socket: Path | None, interval: float, *, once: bool) -> None:
    """Shows instances, queue, devices, decisions and events, live. Quit with `q` or Ctrl-C.

    \b
    Examples:
      syshaxctl top
      syshaxctl top --interval 5
      syshaxctl top --once
    """  # noqa: D301
    console = show.console()

    async def print_once(client: ControlClient) -> None:
        view = TopView()
        view.saw(await client.status(), now_s=time.time(), monotonic_s=time.monotonic())
        view.decisions = await latest_decisions(client)
        console.print(view.render(width=console.width, now_s=time.time(), monotonic_s=time.monotonic()))

    if once:
        run(socket, print_once)
        return
    if not console.is_terminal:
        raise click.UsageError("not a terminal; `--once` prints one view")
    with shown_errors(), suppress(KeyboardInterrupt):
        asyncio.run(watch(socket, console, interval_s=interval))


@click.command()
@click.argument("name", shell_complete=complete.instances)
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="Show this many recent lines."
)
@click.option("--all", "everything", is_flag=True, help="Show all kept lines.")
@click.option("-f", "--follow", is_flag=True, help="Continue with new lines until Ctrl-C.")
@click.pass_obj
def logs(socket: Path | None, name: str, lines: int, *, everything: bool, follow: bool) -> None:
    """Shows the log of the instance NAME.

    \b
    Examples:
      syshaxctl logs gpu
      syshaxctl logs cpu -n 20 -f
      syshaxctl logs cpu --all | grep ERROR
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        async with aclosing(client.logs(name, tail=None if everything else lines, follow=follow)) as output:
            async for line in output:
                click.echo(line, color=True)  # unchanged, unless the output is a terminal

    run(socket, work)


@click.command()
@click.argument("first", shell_complete=complete.instances)
@click.argument("second", shell_complete=complete.instances)
@output_option
@click.pass_obj
def parity(socket: Path | None, first: str, second: str, output: str) -> None:
    """Compares what the instances FIRST and SECOND compute.

    Sends both the same short prompts, one request at a time. The verdict: they agree, differ by noise (rounding), or
    differ, with the likely cause. Exit code 1: no request may move between them, because they differ by more than
    parity.max_distance or could not be compared.

    \b
    Examples:
      syshaxctl parity gpu cpu
      syshaxctl parity gpu cpu -o json | jq '.agreement, .cause, .figures'
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        report = await client.compare(first, second)
        if output == "json":
            click.echo(json.dumps(report_json(report), indent=2, ensure_ascii=False))
        else:
            console = show.console()
            console.print(parity_table(report, console.width))
        if not report.verdict.allowed:
            raise click.exceptions.Exit(1)

    run(socket, work)


@click.command()
@click.argument("text", type=FileText("replace"), required=False, metavar="[FILE]")
@output_option
@click.pass_obj
def topology(socket: Path | None, text: str | None, output: str) -> None:
    """Draws the NUMA nodes, CPUs and accelerators of this host.

    If a daemon answers, also shows which cores and GPUs are taken. FILE holds the output of `LC_ALL=C lscpu`,
    `numactl -H`, or both, to draw another host. `-` is standard input.

    \b
    Examples:
      syshaxctl topology
      syshaxctl topology -o json | jq '.nodes[].cpus'
      ssh server 'LC_ALL=C lscpu; numactl -H' | syshaxctl topology -
    """  # noqa: D301
    with shown_errors():
        shown = asyncio.run(_this_host(socket)) if text is None else HostTopology(topology=parse_topology(text))
    if output == "json":
        owners = {"owners": dict(shown.owners), "gpu_owners": dict(shown.gpu_owners)}
        click.echo(json.dumps(asdict(shown.topology) | owners, indent=2))
    else:
        click.echo("\n".join(draw_topology(shown.topology, shown.owners, shown.gpu_owners)))


async def _this_host(socket: Path | None) -> HostTopology:
    """The host as the daemon sees it, or read directly, without owners, if none answers."""
    try:
        async with ControlClient(rundir.find_socket(socket)) as client:
            return await client.topology()
    except UnreachableError:
        return HostTopology(topology=host.topology())


main.add_section("State", status, top, logs, events, topology, numa, parity, calibrate)
main.add_section("Instances", start, stop, drain, restart, rollout, render)
main.add_section("Requests", requests, batches, decisions, explain, cancel, dry_run, policy, offload, replay)
main.add_section("Configuration and daemon", config, keys, weights, reload, shutdown)
main.add_section("For other gateways", endpoints, place, renew_lease, report_end)
