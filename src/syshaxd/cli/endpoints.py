# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl endpoints`: the list of hosts, for routers in front of them."""

from collections.abc import Sequence
from pathlib import Path

import click

from syshaxd.cli.connection import run
from syshaxd.client import ControlClient
from syshaxd.core.errors import BadRequestError
from syshaxd.core.report.endpoints import FORMS, endpoints_text, is_everywhere


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(tuple(FORMS)),
    default="urls",
    show_default=True,
    help="Form of the list.",
)
@click.pass_obj
def endpoints(socket: Path | None, urls: Sequence[str], form: str) -> None:
    """Writes the list of hosts that a router reads.

    URL: an endpoint with the same models as this one, such as http://10.0.0.2:8010. Without any, lists this one.

    \b
    Formats:
      urls              one URL a line, for `vllm-router --worker-urls`
      production-stack  dynamic configuration of the vLLM production stack's router
      llm-d             file of llm-d's file-discovery plugin
      prometheus        file of Prometheus's file_sd_configs

    \b
    Examples:
      syshaxctl endpoints http://10.0.0.1:8010 http://10.0.0.2:8010
      syshaxctl endpoints http://10.0.0.1:8010 -f llm-d > endpoints.json
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        status = await client.status()
        if not urls and is_everywhere(status.endpoint):
            raise BadRequestError(
                f"syshaxd listens at {status.endpoint}, which stands for every address of this host; name one that "
                "routers can connect to, such as `syshaxctl endpoints http://10.0.0.1:8010`"
            )
        models = list(dict.fromkeys(instance.spec.served_model for instance in status.instances))
        click.echo(endpoints_text(form, urls or [status.endpoint], models))

    run(socket, work)
