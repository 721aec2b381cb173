# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl's commands for the daemon itself: configuration, events, shutdown."""

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from syshaxd.cli import complete, show
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option
from syshaxd.cli.values import ValuesCommand, check_keys
from syshaxd.client import ControlClient
from syshaxd.core import jsontext
from syshaxd.core.errors import ConfigError, ConfigFault
from syshaxd.system.terminal import FileText

_CHANGES = {
    "keys": "changed",
    "replaced": "restarted",
    "added": "added",
    "removed": "removed",
    "needs_restart": "needs a restart of syshaxd",
}


@click.group()
def config() -> None:
    """Shows and changes the configuration of the running daemon.

    `syshax config` edits the file without a daemon.

    \b
    Examples:
      syshaxctl config get
      syshaxctl config set services.cpu.max_num_seqs 64 --apply
    """  # noqa: D301


@config.command("get")
@click.argument("keys", nargs=-1, shell_complete=complete.keys)
@output_option
@click.pass_obj
def get(socket: Path | None, keys: Sequence[str], output: str) -> None:
    """Shows the values in effect. Values that may be secrets are not shown.

    \b
    Examples:
      syshaxctl config get
      syshaxctl config get decider.gpu_cache_threshold -o json
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        answer = await client.ask("GetConfig", keys=list(keys))
        values = {item["key"]: jsontext.loads(item["value"]) if item["value"] else None for item in answer["values"]}
        if output == "json":
            click.echo(json.dumps(answer | {"values": values}))
            return
        for item in answer["values"]:
            click.echo(f"{item['key']} = {item['value'] or '(not shown)'}")
        for key in answer["needs_restart"]:
            click.echo(f"{key}: a different value was applied; it takes effect when syshaxd restarts", err=True)
        if answer["file_differs"]:
            click.echo(
                f"{answer['path']} differs from the running configuration; `syshaxctl reload` applies it", err=True
            )

    run(socket, work)


@config.command("set", cls=ValuesCommand)
@click.argument("words", nargs=-1, required=True, metavar="KEY VALUE...", shell_complete=complete.keys_and_values)
@click.option("--apply", "apply_too", is_flag=True, help="Apply the file at once, as `syshaxctl reload` does.")
@click.pass_obj
def set_values(socket: Path | None, words: Sequence[str], *, apply_too: bool) -> None:
    """Sets keys in the daemon's configuration file, all or none.

    Comments are kept. The new values take effect once the file is applied.

    \b
    Examples:
      syshaxctl config set decider.gpu_cache_threshold 0.8 --apply
      syshaxctl config set services.cpu.port 8003 services.cpu.max_num_seqs 64
    """  # noqa: D301
    check_keys(words)
    if len(words) % 2:
        raise click.UsageError(f"{words[-1]} has no value")
    values = dict(zip(words[::2], words[1::2], strict=True))

    async def work(client: ControlClient) -> None:
        answer = await client.ask("SetConfig", values=values)
        if apply_too:
            answer = await client.ask("ReloadConfig", timeout_s=None)
            _show_changes(answer["changes"], "table")
        else:
            would = answer["would_change"]
            _show_changes(would, "table")
            at_once = any(would[name] for name in _CHANGES if name != "needs_restart")
            click.echo(f"File written{'; `syshaxctl reload` applies it' if at_once else ''}.", err=True)

    run(socket, work)


@config.command()
@click.argument("file", type=FileText(), required=False)
@output_option
@click.pass_obj
def validate(socket: Path | None, file: str | None, output: str) -> None:
    """Checks FILE and shows what applying it would change.

    Without FILE, checks the daemon's own file.

    \b
    Examples:
      syshaxctl config validate
      syshaxctl config validate new.yaml
    """  # noqa: D301
    text: dict[str, Any] = {} if file is None else {"text": file}

    async def work(client: ControlClient) -> None:
        answer = await client.ask("ValidateConfig", **text)
        if answer["faults"]:
            raise ConfigError(tuple(ConfigFault(fault["key"], fault["problem"]) for fault in answer["faults"]))
        _show_changes(answer["would_change"], output)

    run(socket, work)


@config.command()
@click.argument("file", type=FileText())
@output_option
@click.pass_obj
def apply(socket: Path | None, file: str, output: str) -> None:
    """Makes FILE the configuration.

    Waits until every changed instance is READY; if one fails, rolls everything back.

    \b
    Examples:
      syshaxctl config apply new.yaml
      ssh server cat new.yaml | syshaxctl config apply -
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        answer = await client.ask("ApplyConfig", timeout_s=None, text=file)
        _show_changes(answer["changes"], output)

    run(socket, work)


@click.command()
@output_option
@click.pass_obj
def reload(socket: Path | None, output: str) -> None:
    """Applies the configuration file.

    Waits until every changed instance is READY; if one fails, rolls everything back.

    \b
    Examples:
      syshaxctl reload
      syshaxctl reload -o json | jq .needs_restart
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        _show_changes((await client.ask("ReloadConfig", timeout_s=None))["changes"], output)

    run(socket, work)


@click.command()
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="Show this many recent events."
)
@click.option("-f", "--follow", is_flag=True, help="Continue with new ones until Ctrl-C.")
@click.option("--instance", default="", shell_complete=complete.instances, help="Show only events of this instance.")
@output_option
@click.pass_obj
def events(socket: Path | None, lines: int, instance: str, output: str, *, follow: bool) -> None:
    """Shows events of instances and of the configuration.

    Includes drift from CPU bindings and failed hand-overs. JSON output has one line per event.

    \b
    Examples:
      syshaxctl events
      syshaxctl events -f --instance gpu
      syshaxctl events -f -o json | jq -r .text
    """  # noqa: D301

    async def work(client: ControlClient) -> None:
        async with aclosing(client.stream("WatchEvents", last=lines, follow=follow, instance=instance)) as answers:
            async for answer in answers:
                event = answer["event"]
                event["kind"] = str(event["kind"]).removeprefix("EVENT_KIND_").lower()
                click.echo(json.dumps(event) if output == "json" else _event_text(event))

    run(socket, work)


@click.command()
@click.option(
    "--leave-running/--end-instances",
    default=None,
    help="Leave instances running for the next daemon. Unset: as in lifecycle.leave_running.",
)
@click.pass_obj
def shutdown(socket: Path | None, *, leave_running: bool | None) -> None:
    """Stops the daemon after its running requests.

    \b
    Examples:
      syshaxctl shutdown
      syshaxctl shutdown --leave-running
    """  # noqa: D301
    fields: dict[str, Any] = {} if leave_running is None else {"leave_running": leave_running}

    async def work(client: ControlClient) -> None:
        await client.ask("Shutdown", **fields)
        click.echo("syshaxd stops after its running requests")

    run(socket, work)


def _event_text(event: Mapping[str, Any]) -> str:
    at = show.clock_text(event["at_s"], "%Y-%m-%d %H:%M:%S")
    return f"{at}  {event['kind']:<8} {event['instance'] or '-':<8} {event['text']}"


def _show_changes(changes: Mapping[str, Sequence[str]], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(dict(changes)))
        return
    lines = [f"{label}: {', '.join(changes[name])}" for name, label in _CHANGES.items() if changes[name]]
    click.echo("\n".join(lines) or "nothing changes")
