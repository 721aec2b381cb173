# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl's commands that start and stop one instance."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from pathlib import Path

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from syshaxd.cli import complete, show
from syshaxd.cli.connection import run
from syshaxd.client import ControlClient
from syshaxd.core.errors import SyshaxError
from syshaxd.core.types import InstanceStatus
from syshaxd.system.terminal import controlled

Statuses = AsyncGenerator[InstanceStatus, None]

_name_argument = click.argument("name", shell_complete=complete.instances)
_now_option = click.option("--now", is_flag=True, help="Do not wait for running requests.")


def _waiting_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), help="Longest time to wait, in seconds."
    )(command)
    return click.option(
        "--wait/--no-wait", default=True, help="Wait until the command has completed (the default), or return at once."
    )(command)


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
