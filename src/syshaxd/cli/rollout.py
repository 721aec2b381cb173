# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl rollout`: restarts the instances of a model one at a time."""

import json
import time
from contextlib import aclosing
from pathlib import Path

import click

from syshaxd.cli import complete
from syshaxd.cli.connection import output_option, run
from syshaxd.client import ControlClient


@click.command()
@click.argument("name", metavar="NAME|MODEL", shell_complete=complete.instances)
@output_option
@click.pass_obj
def rollout(socket: Path | None, name: str, output: str) -> None:
    """Restarts the instances of a model or a service one at a time.

    Each is restarted after its running requests. The next one follows when the last is READY and computes as before;
    otherwise the rollout stops. Ctrl-C ends it after the present instance.

    \b
    Examples:
      syshaxctl rollout qwen-7b
      syshaxctl rollout chat -o json | jq .step.instance
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        began_s, step = time.monotonic(), None
        async with aclosing(client.stream("RolloutInstances", name=name)) as answers:
            async for answer in answers:
                step = answer["step"]
                if output == "json":
                    click.echo(json.dumps(answer))
                    continue
                by = f"{', '.join(step['carried_by'])} answers meanwhile" if step["carried_by"] else "nothing answers"
                age_s = time.monotonic() - began_s
                click.echo(f"{age_s:6.1f} s  {step['number']} of {step['count']}  {step['instance']}  {by}")
        if output != "json":
            done = f"{step['count']} restarted, all READY" if step else "nothing runs: nothing was restarted"
            click.echo(f"{time.monotonic() - began_s:6.1f} s  {done}")

    run(socket, work)
