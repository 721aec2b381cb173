# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl's commands for the API keys of the endpoint's clients."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from syshaxd.cli import complete, show
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option, shown_errors
from syshaxd.cli.tables import Heading, fitting_table
from syshaxd.client import ControlClient
from syshaxd.core.config.api_keys import Access, ApiKey
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.types import FULL_WEIGHTS
from syshaxd.system.api_keys import ApiKeys

_HEADINGS = (
    Heading("NAME", least=12),
    Heading("ACCESS"),
    Heading("CLASS", spare=1),
    Heading("MODELS", least=12),
    Heading("WEIGHTS", spare=2),
    Heading("LIMITS", least=12),
    Heading("CREATED", spare=3),
    Heading("EXPIRES"),
)
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`90d` as seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhdw])", value, re.ASCII)
    if found is None or not int(found[1]):
        raise click.BadParameter(f"{value!r} is not a number of minutes, hours, days or weeks, such as 90d")
    return float(found[1]) * _UNITS_S[found[2]]


_file_option = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of keys to use instead of asking a daemon, which must not be running.",
)


@click.group()
def keys() -> None:
    """Creates, lists and revokes API keys of the endpoint's clients.

    From the first key on, each request needs one: `Authorization: Bearer KEY` or `x-api-key: KEY`.

    \b
    Examples:
      syshaxctl keys create alice --expires-in 90d
      syshaxctl keys list
    """  # noqa: D301


@keys.command()
@click.argument("name")
@click.option(
    "--access",
    type=click.Choice([str(access) for access in Access]),
    default=str(Access.API),
    show_default=True,
    help="`api`: the API; `monitor`: /metrics and /dashboard; `admin`: both, and routes that change an engine.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    shell_complete=complete.models,
    help="A model that the key may use; repeatable. Unset: all.",
)
@click.option(
    "--expires-in",
    callback=_seconds,
    metavar="TIME",
    help="Time until the key expires, such as 90d, 12h or 30m. Unset: never.",
)
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Requests per minute. Unset: no limit.")
@click.option(
    "--tokens-per-minute",
    type=click.IntRange(min=1),
    help="Tokens per minute, prompts and answers together. Unset: no limit.",
)
@click.option(
    "--max-requests", type=click.IntRange(min=1), help="Requests that may run or wait at a time. Unset: no limit."
)
@click.option(
    "--max-prompt-tokens",
    type=click.IntRange(min=1),
    help="Longest prompt, counted at about four bytes per token. Unset: no limit.",
)
@click.option(
    "--class",
    "request_class",
    type=click.Choice([str(each) for each in RequestClass]),
    help="`interactive`, the default: each request chooses its class; `batch`: all wait behind interactive ones.",
)
@click.option("--batch-only", is_flag=True, help="The same as `--class batch`.")
@click.option(
    "--weights",
    type=click.Choice(["any", FULL_WEIGHTS]),
    default="any",
    show_default=True,
    help="`full`: its requests run only on full weights.",
)
@_file_option
@output_option
@click.pass_obj
def create(socket: Path | None, /, file: Path | None, output: str, expires_in: float | None, **fields: Any) -> None:
    """Creates an API key called NAME and prints it. It is not shown again.

    The key is valid at once. syshaxd stores only its hash.

    \b
    Examples:
      syshaxctl keys create alice
      syshaxctl keys create prometheus --access monitor
      syshaxctl keys create bob --model ds-32b --expires-in 30d --tokens-per-minute 100000 --max-requests 8
    """  # noqa: D301
    request_class = fields.pop("request_class")
    if fields["batch_only"] and request_class == RequestClass.INTERACTIVE:
        raise click.UsageError("--batch-only and --class interactive contradict each other")
    fields["batch_only"] = fields["batch_only"] or request_class == RequestClass.BATCH
    fields["full_weights"] = fields.pop("weights") == FULL_WEIGHTS
    fields["expires_at_s"] = None if expires_in is None else time.time() + expires_in
    fields = {name: value for name, value in fields.items() if value is not None}

    def tell(secret: str, key: Mapping[str, Any]) -> None:
        if output == "json":
            click.echo(json.dumps({"secret": secret, "key": dict(key)}, indent=2))
            return
        click.echo(secret)
        click.echo(f"Keep it: it is not shown again. `syshaxctl keys revoke {key['name']}` revokes it.", err=True)

    async def work(client: ControlClient) -> None:
        answer = await client.ask("CreateKey", key=fields)
        tell(answer["secret"], answer["key"])

    def directly(stored: ApiKeys) -> None:
        new = stored.create(**fields)
        tell(new.secret, _plain(new.key))

    _run(socket, file, work, directly)


@keys.command("list")
@_file_option
@output_option
@click.pass_obj
def list_keys(socket: Path | None, file: Path | None, output: str) -> None:
    """Lists the API keys, without the keys themselves.

    \b
    Examples:
      syshaxctl keys list
      syshaxctl keys list -o json | jq -r '.[].name'
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        answer = await client.ask("ListKeys")
        _show(answer["keys"], output)
        if not answer["required"]:
            click.echo("Requests need no API key.", err=True)

    _run(socket, file, work, lambda stored: _show([_plain(key) for key in stored.list()], output))


@keys.command()
@click.argument("name")
@_file_option
@click.pass_obj
def revoke(socket: Path | None, file: Path | None, name: str) -> None:
    """Makes the API key NAME invalid at once. Running requests continue.

    \b
    Examples:
      syshaxctl keys revoke alice
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        await client.ask("RevokeKey", name=name)
        click.echo(f"{name} is revoked")

    def directly(stored: ApiKeys) -> None:
        stored.revoke(name)
        click.echo(f"{name} is revoked")

    _run(socket, file, work, directly)


def _run(socket: Path | None, file: Path | None, ask: Any, directly: Callable[[ApiKeys], None]) -> None:
    if file is None:
        run(socket, ask)
        return
    with shown_errors():
        directly(ApiKeys(file))


def _plain(key: ApiKey) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"sha256"}, exclude_none=True)


def _limits_text(key: Mapping[str, Any]) -> str:
    forms = {
        "requests_per_minute": "{} requests/min",
        "tokens_per_minute": "{} tokens/min",
        "max_requests": "{} at a time",
        "max_prompt_tokens": "prompts of {}",
    }
    return "\n".join(form.format(key[name]) for name, form in forms.items() if key.get(name)) or "-"


def _show(found: Sequence[Mapping[str, Any]], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no API keys", err=True)
        return
    rows = []
    for key in found:
        expires_at_s = key.get("expires_at_s")
        expiry = "never" if expires_at_s is None else show.clock_text(expires_at_s, "%Y-%m-%d %H:%M")
        if expires_at_s is not None and expires_at_s <= time.time():
            expiry = f"expired ({expiry})"
        created = show.clock_text(key["created_at_s"], "%Y-%m-%d")
        its_class = RequestClass.BATCH if key["batch_only"] else RequestClass.INTERACTIVE
        models = "\n".join(key["models"]) or "all"
        weights = FULL_WEIGHTS if key["full_weights"] else "any"
        texts = (key["name"], key["access"], its_class, models, weights, _limits_text(key), created, expiry)
        rows.append(texts)
    console = show.console()
    console.print(fitting_table(_HEADINGS, rows, console.width))
