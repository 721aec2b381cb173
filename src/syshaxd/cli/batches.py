# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl's commands for batches: files of requests that clients have sent."""

import json
import time
from pathlib import Path

import click
from rich.table import Table

from syshaxd.cli import show
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option
from syshaxd.client import ControlClient


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
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
        for name in ("BATCH", "KEY", "ENDPOINT", "STATUS", "DONE", "FAILED", "CREATED", "EXPIRES"):
            table.add_column(name, justify="right" if name in {"DONE", "FAILED"} else "left", overflow="fold")
        for batch in found:
            done = batch["completed"] + batch["failed"]
            table.add_row(
                batch["id"],
                batch["owner"] or "-",
                batch["endpoint"],
                batch["status"],
                f"{done} of {batch['total']}" if batch["total"] else "-",
                str(batch["failed"]),
                f"{show.duration_text(time.time() - float(batch['created_at']))} ago",
                "-" if batch.get("ended_at") else f"in {show.duration_text(float(batch['expires_at']) - time.time())}",
            )
        show.console().print(table)

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
