# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshax quantize` and `syshax weights`: makes, lists and removes quantised weights. Needs no daemon."""

import asyncio
import json
import sys
import time
from pathlib import Path

import click

from syshaxd.cli.options import config_option, output_option, shown_errors
from syshaxd.core.config import Config, default_model, device_of, enabled_services, model_of
from syshaxd.core.types import Device
from syshaxd.core.weights import Quantize, WeightsPlan
from syshaxd.runtime.quantiser import ProcessWorker, Progress, make_weights
from syshaxd.system import configfile, rundir
from syshaxd.system.terminal import controlled, visible
from syshaxd.system.weights import kept, left_texts, plan_for, remove, weights_dir

_INTERRUPTED = 130
_ERASE_LINE = "\r\x1b[2K"
_PLAIN_INTERVAL_S = 10.0

_into_option = click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the weights. Unset: `weights` in the state folder (/var/lib/syshax/weights for the service).",
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option(
    "--to",
    "quantize_",
    type=click.Choice([str(each) for each in (Quantize.Q8_0, Quantize.Q4_0)]),
    default=str(Quantize.Q8_0),
    show_default=True,
    help="8 or 4 bits per weight.",
)
@click.option("--python", help="Python interpreter with NumPy. Unset: that of an instance on CPUs.")
@click.option("--dry-run", is_flag=True, help="Only show what would be made.")
@_into_option
@config_option("Configuration file; supplies MODEL and --python if they are not given.")
def quantize(
    model: Path | None, quantize_: str, python: str | None, into: Path | None, path: Path, *, dry_run: bool
) -> None:
    """Makes weights of fewer bits for vLLM on CPUs.

    MODEL is the folder of a model. Unset: the model that the configuration names. The weights are kept for instances to
    use. An interrupted run continues where it stopped.

    \b
    Examples:
      syshax quantize
      syshax quantize /models/ds-32b --to q4_0
      syshax quantize /models/ds-32b --python /opt/vllm/bin/python --dry-run
    """  # noqa: D301
    try:
        with shown_errors(path):
            wants_python = python is None and not dry_run
            # Who names the model may have no configuration yet.
            config = configfile.load(path) if model is None or (wants_python and path.exists()) else Config()
            model = model or _model(config)
            plan = plan_for(model, Quantize(quantize_))
            folder = into or weights_dir()
            _tell(plan, folder)
            if not dry_run:
                made = asyncio.run(_make(plan, folder, python or _python(config)))
                click.echo(made)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command continues from here", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None


def _model(config: Config) -> Path:
    services = enabled_services(config).values()
    on_cpus = [model_of(config, service).path for service in services if device_of(service) is Device.CPU]
    path = next(filter(None, on_cpus), None) or default_model(config).path
    if path is None:
        raise click.UsageError("which model? Give its folder, or set models.path")
    return Path(path)


def _python(config: Config) -> str:
    for service in enabled_services(config).values():
        if service.python and device_of(service) is Device.CPU:
            return service.python
    raise click.UsageError("which interpreter? Give one with NumPy as --python, or set services.cpu.python")


def _tell(plan: WeightsPlan, folder: Path) -> None:
    made = folder / plan.name
    already = ", which is there already" if made.exists() else ""
    click.echo(f"{plan.source}: {plan.stored_bytes >> 20} MiB as {plan.quantize}, {made}{already}", err=True)
    for text in left_texts(plan.left):
        click.echo(f"left as it is: {text}", err=True)


async def _make(plan: WeightsPlan, folder: Path, python: str) -> Path:
    shown_s = -_PLAIN_INTERVAL_S

    def show(progress: Progress) -> None:
        nonlocal shown_s
        if sys.stderr.isatty():
            click.echo(f"{_ERASE_LINE}{visible(str(progress))}", nl=False, file=controlled(sys.stderr))
        elif (now_s := time.monotonic()) - shown_s >= _PLAIN_INTERVAL_S:
            shown_s = now_s
            click.echo(str(progress), err=True)

    try:
        return await make_weights(plan, folder, worker=ProcessWorker(python, rundir.state_dir()), report=show)
    finally:
        if sys.stderr.isatty():
            click.echo(_ERASE_LINE, nl=False, file=controlled(sys.stderr))


@click.command()
@click.option("--remove", "names", multiple=True, metavar="NAME", help="Remove these weights; repeatable.")
@_into_option
@output_option
def weights(names: tuple[str, ...], into: Path | None, output: str) -> None:
    """Lists or removes the quantised weights on this host.

    Incomplete weights have a name that begins with a dot. An instance keeps running with weights that you remove; its
    next start makes them again.

    \b
    Examples:
      syshax weights
      syshax weights --remove ds-32b-q8_0-0123456789ab
    """  # noqa: D301
    try:
        with shown_errors():
            folder = into or weights_dir()
            for name in names:
                click.echo(f"{remove(folder, name)} is removed")
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    if names:
        return
    found = kept(folder)
    if output == "json":
        listed = [
            {
                "path": str(entry.path),
                "stored_bytes": entry.stored_bytes,
                "whole": entry.is_whole,
                "made": dict(entry.record),
            }
            for entry in found
        ]
        click.echo(json.dumps(listed, indent=2))
        return
    for entry in found:
        source = entry.record.get("source", "incomplete" if not entry.is_whole else "source unknown")
        click.echo(f"{entry.path.name}  {entry.stored_bytes >> 20} MiB  {source}")
    if not found:
        click.echo(f"no quantised weights in {folder}", err=True)
