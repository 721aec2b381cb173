# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl rollout`: restarts the instances of a model one at a time."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syshaxd.cli import complete, show
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option
from syshaxd.client import ControlClient, UnreachableError
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import State

_REFRESH_S = 0.5


@click.command()
@click.argument("name", metavar="NAME|MODEL", shell_complete=complete.models_and_instances)
@output_option
@click.pass_obj
def rollout(socket: Path | None, name: str, output: str) -> None:
    """Restarts the instances of a model or a service one at a time.

    Each is restarted after its running requests. The next one follows when the last is READY and computes as before;
    otherwise the rollout stops. Ctrl-C ends it after the current instance. A terminal gets a table that shows the
    progress.

    \b
    Examples:
      syshaxctl rollout qwen-7b
      syshaxctl rollout chat -o json | jq .step.instance
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        progress, console = RolloutProgress(), show.console()
        as_table = output != "json" and console.is_terminal
        with Live(console=console, auto_refresh=False) if as_table else nullcontext() as live:
            following = asyncio.create_task(_follow(client, progress, live)) if live else None
            try:
                async with aclosing(client.stream("RolloutInstances", name=name)) as answers:
                    async for answer in answers:
                        progress.step(answer["step"], time.monotonic())
                        if output == "json":
                            click.echo(json.dumps(answer))
                        elif live is None:
                            click.echo(progress.line())
                progress.end(time.monotonic())
            finally:
                if live and following:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                    live.update(progress.table(time.monotonic()), refresh=True)
        if output != "json":
            click.echo(progress.result())

    run(socket, work)


async def _follow(client: ControlClient, progress: "RolloutProgress", live: Live) -> None:
    """Keeps the table up to date. Never returns."""
    while True:
        with suppress(UnreachableError):
            progress.saw(await client.status())
        live.update(progress.table(time.monotonic()), refresh=True)
        await asyncio.sleep(_REFRESH_S)


@dataclass(slots=True)
class _Restart:
    """An instance that was restarted, or is."""

    instance: str
    meanwhile: str
    """Who answers."""
    since_s: float
    """Monotonic."""
    took_s: float | None = None
    """None: it is not READY yet."""


class RolloutProgress:
    """What a rollout has done so far. Times are those of a monotonic clock."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._restarts: list[_Restart] = []
        self._count = 0
        self._states: Mapping[str, Text] = {}

    def step(self, step: Mapping[str, Any], now_s: float) -> None:
        """An instance is about to be restarted; the one before is READY."""
        self.end(now_s)
        by = step["carried_by"]
        verb = "answers" if len(by) == 1 else "answer"
        meanwhile = f"{', '.join(by)} {verb} meanwhile" if by else "nothing answers meanwhile"
        self._restarts.append(_Restart(step["instance"], meanwhile, now_s))
        self._count = step["count"]

    def end(self, now_s: float) -> None:
        """The current instance is READY."""
        if self._restarts and self._restarts[-1].took_s is None:
            self._restarts[-1].took_s = now_s - self._restarts[-1].since_s

    def saw(self, status: EngineStatus) -> None:
        """Notes the states of the instances."""
        self._states = {each.spec.name: show.state_text(each.state) for each in status.instances}

    def line(self) -> str:
        """The current instance, for a file."""
        restart, number = self._restarts[-1], len(self._restarts)
        after_s = restart.since_s - self._began_s
        return f"{after_s:6.1f} s  {number} of {self._count}  {restart.instance}  {restart.meanwhile}"

    def table(self, now_s: float) -> Table:
        """All instances so far, for a terminal."""
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        table.add_column("INSTANCE")
        table.add_column("STATE")
        table.add_column("FOR", justify="right")
        table.add_column("MEANWHILE")
        for number, restart in enumerate(self._restarts, 1):
            done = restart.took_s is not None
            state = show.state_text(State.READY) if done else self._states.get(restart.instance, Text("-"))
            took_s = now_s - restart.since_s if restart.took_s is None else restart.took_s
            table.add_row(
                f"{number} of {self._count}", Text(restart.instance), state, f"{took_s:.0f}s", Text(restart.meanwhile)
            )
        return table

    def result(self) -> str:
        """How it ended."""
        done = (
            f"{self._count} restarted, all READY" if self._restarts else "nothing is running, so nothing was restarted"
        )
        return f"{time.monotonic() - self._began_s:6.1f} s  {done}"
