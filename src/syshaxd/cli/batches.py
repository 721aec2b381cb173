# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl's commands for batches: files of requests that clients have sent."""

import json
import time
from pathlib import Path

import click

from syshaxd.cli import show
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option
from syshaxd.cli.tables import Heading, fitting_table
from syshaxd.client import ControlClient

_HEADINGS = (
    Heading("BATCH", least=20),
    Heading("KEY", spare=1),
    Heading("ENDPOINT", spare=2),
    Heading("STATUS"),
    Heading("DONE", right=True),
    Heading("FAILED", right=True),
    Heading("CREATED", spare=4),
    Heading("EXPIRES", spare=3),
)


@click.group()
def batches() -> None:
    """Lists and cancels batches of requests.

    Clients send them to /v1/batches.

    \b
    Examples:
      syshaxctl batches list
      syshaxctl batches cancel batch_5f1c22ab1f
    """  # noqa: D301


@batches.command("list")
@output_option
@click.pass_obj
def list_batches(socket: Path | None, output: str) -> None:
    """Lists the batches of all clients, with their progress.

    \b
    Examples:
      syshaxctl batches list
      syshaxctl batches list -o json | jq '.[] | select(.status == "in_progress")'
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        found = (await client.ask("ListBatches"))["batches"]
        if output == "json":
            click.echo(json.dumps(found, indent=2))
            return
        if not found:
            click.echo("no batches", err=True)
            return
        rows = []
        for batch in found:
            done = batch["completed"] + batch["failed"]
            texts = (
                batch["id"],
                batch["owner"] or "-",
                batch["endpoint"],
                batch["status"],
                f"{done} of {batch['total']}" if batch["total"] else "-",
                str(batch["failed"]),
                f"{show.duration_text(time.time() - float(batch['created_at']))} ago",
                "-" if batch.get("ended_at") else f"in {show.duration_text(float(batch['expires_at']) - time.time())}",
            )
            rows.append(texts)
        console = show.console()
        console.print(fitting_table(_HEADINGS, rows, console.width))

    run(socket, work)


@batches.command()
@click.argument("batch_id")
@click.pass_obj
def cancel(socket: Path | None, batch_id: str) -> None:
    """Cancels the batch BATCH_ID.

    The client keeps the answers that are complete.

    \b
    Examples:
      syshaxctl batches cancel batch_5f1c22ab1f
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        batch = (await client.ask("CancelBatch", id=batch_id))["batch"]
        click.echo(f"{batch['id']} is {batch['status']}: {batch['completed']} of {batch['total']} answered")

    run(socket, work)
