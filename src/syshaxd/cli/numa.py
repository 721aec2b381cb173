# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl numa`: the best binding to CPUs for a host. Needs no daemon."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

import click

from syshaxd import host
from syshaxd.core.cpulist import format_cpulist
from syshaxd.core.errors import SyshaxError
from syshaxd.core.topology import Dialect, Settings, Surroundings, parse_topology, plan_binding, reserve_cores


@click.group()
def numa() -> None:
    """Plans on which CPUs an instance computes. `syshaxd --check-config` checks the bindings of a configuration."""


@numa.command()
@click.argument("text", type=click.File(), required=False, metavar="[FILE]")
@click.option("--threads", type=click.IntRange(min=1), help="Compute threads in all. Unset: as many as possible.")
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Processes (stock vLLM).")
@click.option("--stock", is_flag=True, help="For vLLM's own CPU backend rather than the sysHAX images.")
@click.option("--reserve", multiple=True, metavar="NAME=CORES", help="Cores for others, near the accelerators.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def plan(
    text: TextIO | None, threads: int | None, ranks: int, reserve: Sequence[str], output: str, *, stock: bool
) -> None:
    """Prints the best binding for this host, or for the one whose `lscpu` or `numactl -H` text FILE holds.

    \b
    Examples:
      syshaxctl numa plan --reserve gpu=4
      syshaxctl numa plan --threads 80 -o json
      syshaxctl numa plan --stock --ranks 4 lscpu.txt
    """  # noqa: D301
    wanted = _reservations(reserve)
    try:
        topology = host.topology() if text is None else parse_topology(text.read())
        around = Surroundings() if text else Surroundings(allowed_cpus=host.allowed().cpus)
        reserved = reserve_cores(topology, wanted, around)
        binding = plan_binding(
            topology,
            dialect=Dialect.STOCK if stock else Dialect.PATCHED,
            threads=threads,
            ranks=ranks,
            surroundings=Surroundings(taken=reserved, allowed_cpus=around.allowed_cpus),
        )
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None
    if output == "json":
        told = asdict(binding.settings()) | {
            "reserved": {name: format_cpulist(cpus) for name, cpus in reserved.items()}
        }
        click.echo(json.dumps(told, indent=2))
        return
    for name, cpus in reserved.items():
        click.echo(f"# {name}: CPUs {format_cpulist(cpus)}")
    click.echo("\n".join(Settings(dialect=binding.dialect).changes_to(binding.settings())))


def _reservations(texts: Sequence[str]) -> dict[str, int]:
    cores = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not (name and count.isascii() and count.isdecimal() and int(count)):
            raise click.BadParameter(f"{text!r} is not like gpu=4", param_hint="--reserve")
        cores[name] = int(count)
    return cores
