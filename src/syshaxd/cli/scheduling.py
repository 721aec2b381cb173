# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl's commands for requests and their placement."""

import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from syshaxd.cli import complete, show
from syshaxd.cli.connection import run
from syshaxd.cli.explain import decision_line, decision_text
from syshaxd.cli.options import output_option
from syshaxd.client import ControlClient
from syshaxd.core.placement.interference import LEAST
from syshaxd.core.placement.replay.export import header, line
from syshaxd.core.placement.rules import RULES
from syshaxd.core.report.engine_status import Interference

_LOADS = {"running": int, "waiting": int, "kv_usage_ratio": float, "generation_tokens_per_s": float}


def _query_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--pinned", default="", help="Only this instance may run the request."),
        click.option("--full-weights", is_flag=True, help="Only instances with full weights may run it."),
        click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens that the answer may have."),
        click.option("--prompt-tokens", type=click.IntRange(min=0), default=0, help="Tokens of the prompt."),
        click.option("--path", default="", help="Route of the request. Unset: /v1/chat/completions."),
        click.option("--model", default="", shell_complete=complete.models, help="Model of the request. Unset: any."),
    ):
        command = option(command)
    return command


def _query(max_tokens: int | None, **query: Any) -> dict[str, Any]:
    return query if max_tokens is None else query | {"max_tokens": max_tokens}


@click.command()
@output_option
@click.pass_obj
def requests(socket: Path | None, output: str) -> None:
    """Lists the running and queued requests, oldest first.

    \b
    Examples:
      syshaxctl requests
      syshaxctl requests -o json | jq '.[] | select(.age_s > 60)'
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        found = (await client.ask("ListRequests"))["requests"]
        if output == "json":
            click.echo(json.dumps(found, indent=2))
            return
        if not found:
            click.echo("no requests are running or waiting", err=True)
            return
        table = Table(box=None, pad_edge=False)
        for name in ("REQUEST", "ROUTE", "INSTANCE", "AGE", "TOKENS"):
            table.add_column(name, justify="right" if name in {"AGE", "TOKENS"} else "left")
        for item in found:
            where = item["placement"] or "(queue)"
            table.add_row(
                Text(item["request_id"]),
                Text(item["path"]),
                Text(f"{where} (leased)" if item["leased"] else where),
                show.duration_text(item["age_s"]),
                str(item["tokens"]) if item["stream"] else "-",
            )
        show.console().print(table)

    run(socket, work)


@click.command()
@click.argument("request_id")
@click.pass_obj
def cancel(socket: Path | None, request_id: str) -> None:
    """Cancels the request REQUEST_ID.

    The client gets an error, or loses its connection if the answer has begun. A request that another
    gateway runs loses its lease.

    \b
    Examples:
      syshaxctl cancel 5f1c22ab-1f
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        count = (await client.ask("CancelRequest", request_id=request_id))["cancelled"]
        click.echo(f"{count} {'request' if count == 1 else 'requests'} cancelled")

    run(socket, work)


@click.command()
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="Show this many recent decisions."
)
@click.option("-f", "--follow", is_flag=True, help="Continue with new ones until Ctrl-C.")
@click.option("--model", default="", shell_complete=complete.models, help="Show only those for this model.")
@click.option(
    "--export",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="File for a trace of the recent requests; `-`: stdout.",
)
@output_option
@click.pass_obj
def decisions(socket: Path | None, lines: int, model: str, output: str, *, follow: bool, export: str | None) -> None:
    """Shows where requests were placed and why. JSON output has one line per decision.

    With --export, writes the requests that were answered (the latest 2000 are kept) as JSON lines, which `syshaxctl
    replay` reads: arrival, tokens, placement, prediction and measured times, but no text.

    \b
    Examples:
      syshaxctl decisions -n 20
      syshaxctl decisions --model qwen-7b
      syshaxctl decisions -f -o json | jq -r .decision.decode
      syshaxctl decisions --export trace.jsonl && syshaxctl replay trace.jsonl
    """  # noqa: D301
    ends: list[str | None] = []

    async def read_ends(client: ControlClient) -> None:
        async with aclosing(client.stream("ListEnds")) as answers:
            ends.extend([line(answer["end"]) async for answer in answers])

    async def work(client: ControlClient) -> None:
        async with aclosing(client.stream("WatchDecisions", last=lines, follow=follow, model=model)) as answers:
            count = 0
            async for answer in answers:
                count += 1
                entry = answer["decision"]
                click.echo(json.dumps(entry) if output == "json" else decision_line(entry))
        if not count and lines:
            click.echo("no decisions yet" + (f" on requests for the model {model}" if model else ""), err=True)

    if export is None:
        run(socket, work)
        return
    run(socket, read_ends)
    kept = [text for text in ends if text is not None]
    with click.open_file(export, "w", "utf-8") as file:  # closed here, where an error of the last byte is seen
        file.write("\n".join((header(), *kept, "")))
    omitted = f"; {len(ends) - len(kept)} omitted: not answered, or tokens not counted" if len(kept) < len(ends) else ""
    click.echo(f"{len(kept)} requests exported{omitted}", err=True)


@click.command()
@_query_options
@click.option("--ttl", "ttl_s", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              help="Seconds until the slot is released unless the lease is renewed.")  # fmt: skip
@click.pass_obj
def place(socket: Path | None, /, ttl_s: float, **query: Any) -> None:
    """Takes a slot for a request that another gateway runs.

    Prints the decision and the lease as JSON.

    \b
    Examples:
      syshaxctl place --model ds-32b --prompt-tokens 2000
      syshaxctl report-end "$(syshaxctl place | jq -r .lease_id)"
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        click.echo(json.dumps(await client.ask("PlaceRequest", query=_query(**query), ttl_s=ttl_s), indent=2))

    run(socket, work)


@click.command("renew-lease")
@click.argument("lease_id")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds from now until the lease expires. Unset: as before.",
)
@click.pass_obj
def renew_lease(socket: Path | None, lease_id: str, *, ttl_s: float | None) -> None:
    """Renews the lease LEASE_ID.

    \b
    Examples:
      syshaxctl renew-lease 0f3e...
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        answer = await client.ask("RenewLease", lease_id=lease_id, ttl_s=ttl_s or 0.0)
        click.echo(f"kept for {answer['ttl_s']:g} s")

    run(socket, work)


@click.command("report-end")
@click.argument("lease_id")
@click.option("--failed", is_flag=True, help="The request failed.")
@click.pass_obj
def report_end(socket: Path | None, lease_id: str, *, failed: bool) -> None:
    """Ends the lease LEASE_ID and releases its slots.

    \b
    Examples:
      syshaxctl report-end 0f3e...
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        await client.ask("ReportEnd", lease_id=lease_id, failed=failed)

    run(socket, work)


@click.command("dry-run")
@_query_options
@click.option(
    "--load", "loads", multiple=True, metavar="NAME:KEY=VALUE[,...]", help="A load to assume; see the examples."
)
@output_option
@click.pass_obj
def dry_run(socket: Path | None, /, loads: Sequence[str], output: str, **query: Any) -> None:
    """Shows where a request would be placed now, or under given loads. Changes nothing.

    \b
    Examples:
      syshaxctl dry-run --prompt-tokens 2000
      syshaxctl dry-run --load gpu:running=256,waiting=3,kv_usage_ratio=0.95
    """  # noqa: D301
    assumed = dict(map(_load, loads))

    async def work(client: ControlClient) -> None:
        answer = await client.ask("DryRun", query=_query(**query), loads=assumed)
        click.echo(json.dumps(answer["decision"], indent=2) if output == "json" else decision_text(answer["decision"]))

    run(socket, work)


@click.command()
@click.argument("name", type=click.Choice(list(RULES)), required=False)
@click.option("--gpu-cache-threshold", type=float, help="KV cache usage (0..1) at which the GPU counts as full.")
@click.option(
    "--cpu-throughput-threshold", type=float, help="Tokens/s below which the CPU gets no more requests; 0: no limit."
)
@click.option(
    "--offload-min-prompt-tokens", type=int, help="Tokens below which a prompt is prefilled where it is decoded."
)
@click.option("--holdout", type=float, help="Share of requests that wait for the GPU to measure the CPU's help.")
@output_option
@click.pass_obj
def policy(socket: Path | None, /, output: str, **values: str | float | None) -> None:
    """Shows or sets the placement policy.

    NAME switches to another policy; the options set thresholds. New values hold at once, until the next reload or
    restart. `syshaxctl config set scheduler.policy NAME --apply` sets the policy for good.

    \b
    Examples:
      syshaxctl policy
      syshaxctl policy gpu-only
      syshaxctl policy --gpu-cache-threshold 0.8
    """  # noqa: D301
    given = {name: value for name, value in values.items() if value is not None}

    async def work(client: ControlClient) -> None:
        if given:
            await client.ask("SetPolicy", policy=given)
        answer = await client.ask("GetPolicy")
        item, choices = answer["policy"], answer["choices"]
        if output == "json":
            click.echo(json.dumps(item | {"choices": choices}))
            return
        click.echo(f"policy = {item['name']}")
        for key in (key for key in item if key != "name"):
            click.echo(f"{key} = {item[key]:g}")
        click.echo()
        for choice in choices:
            click.echo(f"{'*' if choice['name'] == item['name'] else ' '} {choice['name']:<20}{choice['summary']}")
        if given:
            click.echo("\nUntil the next reload or restart; `syshaxctl config set KEY VALUE --apply` sets it for good.")

    run(socket, work)


@click.command()
@output_option
@click.pass_obj
def offload(socket: Path | None, output: str) -> None:
    """Shows whether the CPU's help pays: predicted against measured.

    A share of the requests that the CPU would help with (scheduler.holdout) waits for the GPU instead. The benefit is
    what help gains compared with them, in seconds to the end of an answer, less what it takes from others. Help that is
    not sure to gain is switched off, and tried again later.

    \b
    Examples:
      syshaxctl offload
      syshaxctl offload -o json | jq .low_s
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        trial = (await client.status()).offload
        if output == "json":
            click.echo(json.dumps(asdict(trial), indent=2))
            return
        state = "on" if trial.on else f"off until {show.clock_text(trial.off_until_s)}"
        click.echo(f"help by the CPU: {state}; {trial.text or 'not measured'}")
        table = Table(box=None, pad_edge=False)
        for name in ("BENEFIT", "SECONDS", "95% INTERVAL", "ANSWERS"):
            table.add_column(name, justify="left" if name == "BENEFIT" else "right")
        bounds = "-" if trial.low_s is None or trial.high_s is None else f"{trial.low_s:.2f} to {trial.high_s:.2f}"
        counts = f"{trial.helped} helped, {trial.held_out} held out"
        table.add_row("predicted", _optional(trial.predicted_s), "", str(trial.helped + trial.held_out))
        table.add_row("measured", _optional(trial.measured_s), bounds, counts)
        show.console().print(table)
        click.echo(
            f"scheduler.holdout = {trial.holdout:g}; since the start {trial.all_held_out} held out, "
            f"switched off {trial.times_off} times"
        )
        for pair in trial.interference:
            click.echo(_interference_text(pair))

    run(socket, work)


def _interference_text(pair: Interference) -> str:
    source = "learnt" if pair.is_learnt else "calibrated or assumed"
    text = f"{pair.gpu}: a step takes {pair.ratio:.1%} longer while {pair.cpu} computes ({source})"
    if pair.seen is None or pair.low is None or pair.high is None:
        return f"{text}; {pair.comparisons} of {LEAST} comparisons seen" if pair.comparisons else text
    return f"{text}; seen {pair.seen:.1%} ({pair.low:.1%} to {pair.high:.1%}, {pair.comparisons} comparisons)"


def _optional(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _load(text: str) -> tuple[str, dict[str, float]]:
    name, _, rest = text.partition(":")
    try:
        parts = dict(part.split("=", 1) for part in rest.split(","))
        return name, {key: _LOADS[key](value) for key, value in parts.items()}
    except (ValueError, KeyError):
        raise click.BadParameter(
            f"{text!r} does not look like gpu:running=3,kv_usage_ratio=0.5 (keys: {', '.join(_LOADS)})",
            param_hint="--load",
        ) from None
