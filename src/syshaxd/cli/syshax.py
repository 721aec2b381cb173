# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshax: creates, edits and checks the configuration, and runs the daemon. Needs no running daemon.

Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from syshaxd import __version__
from syshaxd.cli import complete
from syshaxd.cli.options import config_option, shown_errors
from syshaxd.cli.values import ValuesCommand, check_keys
from syshaxd.cli.weights import quantize, weights
from syshaxd.core.address import Address
from syshaxd.core.config import SHORT_KEYS, describe, enabled_services, find_key, full_keys, get_value
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.secrets import safe_text, safe_value
from syshaxd.system import configfile
from syshaxd.system.terminal import ProgramGroup

_SHORT_KEYS_HELP = (
    "`gpu.`, `cpu.` and `conductor.` are short for `services.gpu.` and so on; "
    + "; ".join(f"`{short}` for {', '.join(keys)}" for short, keys in SHORT_KEYS.items())
    + "."
)

_config_option = config_option("Configuration file.")


class _ConfigCommand(ValuesCommand):
    """A command whose help lists all keys."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Keys"):
            for key in describe():
                formatter.write_text(key.name)
                default = f"; default: {key.default}" if key.default else ""
                with formatter.indentation():
                    formatter.write_text(f"{key.meaning} [{key.allowed}{default}]")
        with formatter.section("Short keys"):
            formatter.write_text(_SHORT_KEYS_HELP)


@click.group(cls=ProgramGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="syshax")
def main() -> None:
    """Configures and runs sysHAX. `syshaxctl` controls the running daemon.

    \b
    Examples:
      syshax init
      syshax config services.gpu.port 8001
      syshax config models.default ds-32b
      syshax run
    """  # noqa: D301 - \b keeps click from joining the lines


main.add_command(quantize)
main.add_command(weights)


@main.command()
@click.option("--force", is_flag=True, help="Replace an existing file.")
@_config_option
def init(path: Path, *, force: bool) -> None:
    """Creates a configuration file with the usual keys.

    \b
    Examples:
      syshax init
      syshax init --config ./syshax.yaml
    """  # noqa: D301
    with shown_errors(path):
        configfile.create(path, force=force)
    name = click.get_current_context().find_root().info_name
    click.echo(f"Created {path}. Edit it, or set keys with `{name} config KEY VALUE`; then `{name} run`.")


@main.command(cls=_ConfigCommand)
@click.argument("words", nargs=-1, metavar="[KEY [VALUE]] ...", shell_complete=complete.keys_and_values)
@click.option("--unset", multiple=True, metavar="KEY", shell_complete=complete.keys, help="Reset KEY to its default.")
@_config_option
def config(path: Path, words: tuple[str, ...], unset: tuple[str, ...]) -> None:
    """Sets, shows or lists keys of the configuration file.

    Several keys are set together or not at all. Nothing is written if the result would not be valid. A
    running syshaxd is not affected until `syshaxctl reload` or a restart.

    \b
    Examples:
      syshax config                               what the file sets
      syshax config services.gpu.port             one value
      syshax config services.gpu.port 8001
      syshax config services.gpu.port 8002 services.cpu.port 8001
      syshax config services.cpu.args.max-model-len 8192
      syshax config services.cpu.env.VLLM_CPU_KVCACHE_SPACE 40
      syshax config services.gpu.args.seed -1
      syshax config --unset services.cpu.cores
    """  # noqa: D301
    check_keys(words)
    if len(words) % 2 and (len(words) > 1 or unset):
        raise click.UsageError(f"the key {words[-1]} has no value")
    with shown_errors(path):
        if len(words) > 1 or unset:
            changes = [*zip(words[::2], words[1::2], strict=True), *((key, None) for key in unset)]
            _edit(path, {key: text for short, text in changes for key in full_keys(short)})
        elif words:
            _show(path, full_keys(words[0]))
        else:
            _list(path)


@main.command("check-config")
@_config_option
def check_config(path: Path) -> None:
    """Checks the configuration file and lists every fault.

    \b
    Examples:
      syshax check-config
      syshax check-config --config ./syshax.yaml
    """  # noqa: D301
    configfile.use_state_of_daemon(path)
    with shown_errors(path):
        config = configfile.load(path)
        instance_specs(config)
    for warning in configfile.warnings(path, config):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{path} is valid. Instances: {', '.join(enabled_services(config))}.")


@main.command()
@_config_option
def interfaces(path: Path) -> None:
    """Shows the URLs that the configuration file defines.

    \b
    Examples:
      syshax interfaces
    """  # noqa: D301
    with shown_errors(path):
        config = configfile.load(path)
    conductor = config.services.conductor
    places = {name: Address(service.host, service.port) for name, service in enabled_services(config).items()}
    for name, address in (places | {"conductor": Address(conductor.host, conductor.port)}).items():
        click.echo(f"{name}: {address.url()}")


@main.command()
@_config_option
def model(path: Path) -> None:
    """Shows the model that the configuration file names.

    Tokens and temperature apply to the connectivity test only: sysHAX does not change clients' requests.

    \b
    Examples:
      syshax model
    """  # noqa: D301
    with shown_errors(path):
        models = configfile.load(path).models
    click.echo(f"model name: {models.default}")
    click.echo(f"max_tokens: {models.params.test_tokens}")
    click.echo(f"temperature: {models.params.temperature:g}")


@main.command(context_settings={"ignore_unknown_options": True})
@_config_option
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION OF syshaxd]...")
def run(path: Path, options: tuple[str, ...]) -> None:
    """Runs syshaxd in the foreground. `syshaxd --help` lists its options.

    \b
    Examples:
      syshax run
      syshax run --config ./syshax.yaml --log-level debug
    """  # noqa: D301
    from syshaxd import daemon  # noqa: PLC0415 - the other commands need not wait for its libraries

    daemon.main.main(["--config", str(path), *options], prog_name="syshaxd")


def _edit(path: Path, changes: Mapping[str, str | None]) -> None:
    configfile.edit(path, changes)
    for key, text in changes.items():
        click.echo(f"{key} has its default" if text is None else f"{key} is set")


def _show(path: Path, keys: Sequence[str]) -> None:
    known = [find_key(key) for key in keys]
    content = configfile.read(path)
    for key, known_key in zip(keys, known, strict=True):
        value = get_value(content, key)
        click.echo(known_key.default if value is None else _text(value))
        if value is None:
            click.echo(f"{key} is not set in {path}" + ("; that is the default" if known_key.default else ""), err=True)


def _list(path: Path) -> None:
    values = list(_flat(configfile.read(path)))
    for key, value in values:
        click.echo(f"{safe_text(key)} {_text(safe_value(key, value))}")
    if not values:
        click.echo(f"{path} sets no keys: all have their defaults", err=True)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
