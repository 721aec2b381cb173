# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl render`: what syshaxd would start. Needs no daemon."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from syshaxd import configfile
from syshaxd.cli import default_config
from syshaxd.core.config import is_secret
from syshaxd.core.container import docker_run, shell_text
from syshaxd.core.cpulist import format_cpulist
from syshaxd.core.errors import SyshaxError
from syshaxd.core.types import InstanceSpec, RuntimeKind

_HIDDEN = "(hidden)"


@click.command()
@click.argument("name", type=click.Choice(["gpu", "cpu"]))
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Configuration file. Unset: $SYSHAX_CONFIG, else the system's or your own; the daemon is not asked.",
)
@click.option("--show-secrets", is_flag=True, help="Show the values of variables that look like secrets.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def render(name: str, path: Path | None, output: str, *, show_secrets: bool) -> None:
    """Prints the command line that starts the instance NAME.

    For a container it is the `docker run` line. It starts the same as syshaxd does with the configuration file.

    \b
    Examples:
      syshaxctl render cpu
      syshaxctl render gpu --config /etc/syshax/config.yaml -o json
    """  # noqa: D301
    from syshaxd.binder import bind  # noqa: PLC0415 - it takes long to load, and only this command needs it

    path = path or default_config()
    try:
        specs = {spec.name: spec for spec in bind(configfile.load(path)).specs}
    except SyshaxError as error:
        raise click.ClickException(configfile.fault_text(path, error)) from None
    if name not in specs:
        raise click.ClickException(f"{path}: services.{name}.enabled is false")
    spec = specs[name]
    if spec.runtime is RuntimeKind.EXTERNAL:
        raise click.ClickException(f"{name} is started by somebody else (services.{name}.runtime is external)")
    secrets = {} if show_secrets else {key: _HIDDEN for key, _ in spec.env if is_secret(f"services.{name}.env.{key}")}
    if output == "json":
        told = asdict(spec) | {"env": {key: secrets.get(key, value) for key, value in spec.env}}
        click.echo(json.dumps(told | {"command": _words(spec, secrets)}, indent=2))
    elif spec.container is not None:
        click.echo(shell_text(_words(spec, secrets)))
    else:
        click.echo(shlex.join(_words(spec, secrets)))


def _words(spec: InstanceSpec, secrets: dict[str, str]) -> list[str]:
    if spec.container is not None:
        return docker_run(spec, secret=secrets)
    variables = [f"{key}={secrets.get(key, value)}" for key, value in spec.env]
    bound = ["taskset", "--cpu-list", format_cpulist(spec.cores)] if spec.cores else []
    return [*(["env", *variables] if variables else []), *bound, *spec.argv]
