# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl render`: prints what syshaxd would start. Needs no daemon."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from syshaxd.cli import complete
from syshaxd.cli.options import config_option
from syshaxd.core.errors import SyshaxError
from syshaxd.core.launch.container import docker_run, shell_text
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.secrets import safe_value, safe_words
from syshaxd.core.types import InstanceSpec, RuntimeKind
from syshaxd.system import configfile


@click.command()
@click.argument("name", shell_complete=complete.instances)
@config_option("Configuration file. The daemon is not asked.")
@click.option("--show-secrets", is_flag=True, help="Show the values of flags and variables that look like secrets.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def render(name: str, path: Path, output: str, *, show_secrets: bool) -> None:
    """Prints the command line that starts the instance NAME.

    For a container, prints the equivalent `docker run` command. Either starts what syshaxd starts with this file.

    \b
    Examples:
      syshaxctl render cpu
      syshaxctl render gpu --config /etc/syshax/config.yaml -o json
    """  # noqa: D301
    from syshaxd.instances.binder import bind  # noqa: PLC0415 - it takes long to load, and only this command needs it

    configfile.use_state_of_daemon(path)
    try:
        specs = {spec.name: spec for spec in bind(configfile.load(path)).specs}
    except SyshaxError as error:
        raise click.ClickException(configfile.fault_text(path, error)) from None
    if name not in specs:
        raise click.ClickException(f"{path}: no instance {name} is enabled; available: {', '.join(specs)}")
    spec = specs[name]
    if spec.runtime is RuntimeKind.EXTERNAL:
        raise click.ClickException(f"syshaxd does not start {name} ({spec.key}.runtime is external)")
    if spec.weights is not None and spec.weights.source and not Path(spec.model).exists():
        click.echo(f"# {spec.model} is made at the first start, or by `syshax quantize`", err=True)
    words = _words(spec) if show_secrets else safe_words(_words(spec))
    if output == "json":
        fields = asdict(spec) | {"env": dict(spec.env)}
        click.echo(json.dumps((fields if show_secrets else safe_value(name, fields)) | {"command": words}, indent=2))
    elif spec.container is not None:
        click.echo(shell_text(words))
    else:
        click.echo(shlex.join(words))


def _words(spec: InstanceSpec) -> list[str]:
    if spec.container is not None:
        return docker_run(spec)
    variables = [f"{key}={value}" for key, value in spec.env]
    bound = ["taskset", "--cpu-list", format_cpulist(spec.cores)] if spec.cores else []
    return [*(["env", *variables] if variables else []), *bound, *spec.argv]
