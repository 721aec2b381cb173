# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl: controls the running daemon.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no daemon answers, 130 ended with Ctrl-C.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from syshaxd import __version__
from syshaxd.cli import complete, show
from syshaxd.cli.batches import batches
from syshaxd.cli.calibrate import calibrate
from syshaxd.cli.connection import run
from syshaxd.cli.control import config, events, reload, shutdown
from syshaxd.cli.endpoints import endpoints
from syshaxd.cli.explain import explain
from syshaxd.cli.keys import keys
from syshaxd.cli.numa import numa
from syshaxd.cli.parity import parity_table
from syshaxd.cli.render import render
from syshaxd.cli.replay import replay
from syshaxd.cli.rollout import rollout
from syshaxd.cli.scheduling import cancel, decisions, dry_run, offload, place, policy, renew_lease, report_end, requests
from syshaxd.cli.sections import SectionedGroup
from syshaxd.cli.top import TopView, latest_decisions, watch
from syshaxd.cli.weights import weights
from syshaxd.client import ControlClient, UnreachableError
from syshaxd.core.errors import SyshaxError
from syshaxd.core.numa import draw_topology, parse_topology
from syshaxd.core.parity import report_json
from syshaxd.core.report.status import status_json
from syshaxd.core.types import HostTopology, InstanceStatus
from syshaxd.system import host, rundir
from syshaxd.system.terminal import FileText, controlled

Statuses = AsyncGenerator[InstanceStatus, None]


_name_argument = click.argument("name", shell_complete=complete.instances)


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
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
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
    try:
        asyncio.run(watch(socket, console, interval_s=interval))
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        return


@click.command()
@_name_argument
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
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
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
            show.console().print(parity_table(report))
        if not report.verdict.allowed:
            raise click.exceptions.Exit(1)

    run(socket, work)


@click.command()
@click.argument("text", type=FileText("replace"), required=False, metavar="[FILE]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
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
    try:
        shown = asyncio.run(_this_host(socket)) if text is None else HostTopology(topology=parse_topology(text))
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None
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


def _waiting_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), help="Longest time to wait, in seconds."
    )(command)
    return click.option(
        "--wait/--no-wait", default=True, help="Wait until the command has completed (the default), or return at once."
    )(command)


_now_option = click.option("--now", is_flag=True, help="Do not wait for running requests.")


@click.command()
@_name_argument
@_waiting_options
@click.pass_obj
def start(socket: Path | None, name: str, timeout: float | None, *, wait: bool) -> None:
    """Starts the instance NAME. Waits until it is READY.

    \b
    Examples:
      syshaxctl start gpu
      syshaxctl start gpu --timeout 600
      syshaxctl start cpu --no-wait
    """  # noqa: D301
    _command(socket, name, timeout, lambda client: client.start(name, wait=wait), wait=wait)


@click.command()
@_name_argument
@_waiting_options
@_now_option
@click.pass_obj
def stop(socket: Path | None, name: str, timeout: float | None, *, wait: bool, now: bool) -> None:
    """Stops the instance NAME after its running requests. Waits until it is STOPPED.

    \b
    Examples:
      syshaxctl stop cpu
      syshaxctl stop cpu --now
    """  # noqa: D301
    _command(socket, name, timeout, lambda client: client.stop(name, drain=not now, wait=wait), wait=wait)


@click.command()
@_name_argument
@_waiting_options
@click.pass_obj
def drain(socket: Path | None, name: str, timeout: float | None, *, wait: bool) -> None:
    """Takes the instance NAME out of service. Same as `stop` without --now.

    It gets no new requests; running ones finish or migrate to another instance; then it stops.

    \b
    Examples:
      syshaxctl drain gpu
      syshaxctl drain gpu --no-wait
    """  # noqa: D301
    _command(socket, name, timeout, lambda client: client.stop(name, drain=True, wait=wait), wait=wait)


@click.command()
@_name_argument
@_waiting_options
@_now_option
@click.pass_obj
def restart(socket: Path | None, name: str, timeout: float | None, *, wait: bool, now: bool) -> None:
    """Restarts the instance NAME after its running requests. Waits until it is READY.

    \b
    Examples:
      syshaxctl restart cpu
      syshaxctl restart gpu --now --timeout 600
    """  # noqa: D301
    _command(socket, name, timeout, lambda client: client.restart(name, drain=not now, wait=wait), wait=wait)


def _command(
    socket: Path | None, name: str, timeout_s: float | None, send: Callable[[ControlClient], Statuses], *, wait: bool
) -> None:
    last: InstanceStatus | None = None

    async def work(client: ControlClient) -> None:
        nonlocal last
        with _Live(name) if wait else nullcontext() as live:
            try:
                async with asyncio.timeout(timeout_s), aclosing(send(client)) as statuses:
                    async for last in statuses:
                        if live is not None:
                            live.show(last)
            except TimeoutError:
                state = "not known" if last is None else last.state
                raise SyshaxError(
                    f"{name} is still {state} after {timeout_s:g} s; the command continues, see `syshaxctl status`"
                ) from None
        assert last is not None
        click.echo(f"{name} is {last.state}" if wait else f"{name}: accepted; it is {last.state} now")

    run(socket, work)


class _Live:
    """Shows an instance's state changes as they happen, if stderr is a terminal."""

    def __init__(self, name: str) -> None:
        self._console = show.VisibleConsole(file=controlled(sys.stderr), highlight=False)
        self._progress = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(name)
        self._name = name
        self._started_s = time.monotonic()
        self._shown = ""

    def __enter__(self) -> "_Live":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, status: InstanceStatus) -> None:
        """Prints a line if the status is news."""
        if self._progress.disable or self._shown == (news := f"{status.state} {status.reason}"):
            return
        self._shown = news
        age_s = time.monotonic() - self._started_s
        line = Text.assemble(f"{age_s:6.1f} s  ", show.state_text(status.state), f"  {status.reason}")
        self._progress.console.print(line)
        self._progress.update(self._task, description=f"{self._name} {status.state}")


main.add_section("State", status, top, logs, events, topology, numa, parity, calibrate)
main.add_section("Instances", start, stop, drain, restart, rollout, render)
main.add_section("Requests", requests, batches, decisions, explain, cancel, dry_run, policy, offload, replay)
main.add_section("Configuration and daemon", config, keys, weights, reload, shutdown)
main.add_section("For other gateways", endpoints, place, renew_lease, report_end)
