# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl numa`: plans CPU bindings, checks them, and verifies those of running instances."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.text import Text

from syshaxd.cli import show
from syshaxd.cli.connection import run
from syshaxd.cli.options import config_option, output_option, shown_errors
from syshaxd.cli.tables import Heading, fitting_table
from syshaxd.client import ControlClient
from syshaxd.core.config import parse
from syshaxd.core.errors import NoBindingError
from syshaxd.core.launch.apply_plan import PlanRequest, plan_changes
from syshaxd.core.launch.bound import Host
from syshaxd.core.launch.gpu_binding import nodes_of_gpus
from syshaxd.core.numa import (
    VARIABLES,
    BindingSettings,
    Constraints,
    Dialect,
    Fault,
    Gpu,
    GpuWish,
    Unverified,
    Verification,
    check_binding,
    dialect_of,
    memory_needs,
    parse_topology,
    plan_binding,
    plan_gpus,
    reserve_cores,
)
from syshaxd.core.numa.cpulist import format_cpulist, parse_cpulist
from syshaxd.core.report.status import verification_json
from syshaxd.instances import binder
from syshaxd.system import configfile, host
from syshaxd.system.gpus import host_gpus
from syshaxd.system.terminal import FileText

_MIB = 2**20
_VERIFIED = (
    Heading("INSTANCE"),
    *(Heading(name, right=True) for name in ("CPUS BOUND", "THREADS", "OUTSIDE")),
    Heading("MEMORY BY NODE", least=14),
    Heading("REMOTE", right=True, least=8),
)
_KEYS_OF_CPUSETS = ("cpuset_cpus", "cpuset_mems")
_RANKS = "tensor-parallel-size"


@click.group()
def numa() -> None:
    """Plans, checks and verifies CPU bindings of instances."""


@numa.command()
@click.argument("text", type=FileText("replace"), required=False, metavar="[FILE]")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Total number of compute threads. Unset: as many as possible."
)
@click.option("--ranks", type=click.IntRange(min=1), help="Processes that share the model (stock vLLM). Unset: 1.")
@click.option("--stock", is_flag=True, help="Plan for vLLM's own CPU backend instead of the sysHAX images.")
@click.option("--reserve", multiple=True, metavar="NAME=CORES", help="Reserve cores for others, near the accelerators.")
@click.option("--gpus", multiple=True, metavar="NAME=GPUS", help="Plan this many of the host's GPUs for an instance.")
@click.option("--apply", "apply_", is_flag=True, help="Write the plan into the configuration.")
@click.option("--instance", default="cpu", show_default=True, help="With --apply: the instance to bind.")
@config_option("With --apply: the configuration file.")
@output_option
def plan(
    text: str | None,
    *,
    threads: int | None,
    ranks: int | None,
    stock: bool,
    reserve: Sequence[str],
    gpus: Sequence[str],
    apply_: bool,
    instance: str,
    path: Path,
    output: str,
) -> None:
    """Prints the best binding for this host or another one.

    FILE holds the other host's `lscpu` or `numactl -H` text.

    With --gpus, also prints which GPUs an instance with `gpus: auto` would get; a reservation of the same name takes
    cores near to them.

    With --apply, writes it to the configuration: `cores` and the variables in the instance's `env`; a reservation
    `gpu=4` becomes the `cores` of the instance gpu. The model's size and the CPUs of other instances then count too.

    \b
    Examples:
      syshaxctl numa plan --reserve gpu=4
      syshaxctl numa plan --threads 144 --reserve gpu=4 --apply
      syshaxctl numa plan --stock --ranks 4 lscpu.txt
      syshaxctl numa plan --threads 80 -o json
      syshaxctl numa plan --gpus chat=2 --reserve chat=4
    """  # noqa: D301
    reserved, wanted = _counts(reserve, "--reserve"), _counts(gpus, "--gpus")
    if wanted and (apply_ or text is not None):
        raise click.UsageError("--gpus plans for this host, and writes nothing: leave out FILE and --apply")
    if apply_ and (others := reserved.keys() - {"gpu"}):
        raise click.BadParameter(
            f"only gpu=N can be used with --apply, not {', '.join(others)}", param_hint="--reserve"
        )
    request = PlanRequest(instance=instance, threads=threads, ranks=ranks, stock=stock, gpu_cores=reserved.get("gpu"))
    with shown_errors(path):
        where = _host(text)
        if apply_:
            _apply(path, request, where, output)
        else:
            _print_plan(where, request, reserved, wanted, output)


def _print_plan(
    where: Host, request: PlanRequest, reserve: Mapping[str, int], wanted: Mapping[str, int], output: str
) -> None:
    constraints = Constraints(allowed_cpus=where.allowed_cpus, allowed_nodes=where.allowed_nodes)
    homes = nodes_of_gpus(host_gpus(), where.topology) if wanted else {}
    gpus = _planned_gpus(homes, wanted, where)
    reserved: dict[str, tuple[int, ...]] = {}
    for name, count in reserve.items():
        near = {node for gpu in gpus.get(name, ()) if (node := homes[gpu]) is not None}
        limits = replace(constraints, taken=reserved, gpu_nodes=tuple(sorted(near)))
        reserved |= reserve_cores(where.topology, {name: count}, limits)
    binding = plan_binding(
        where.topology,
        dialect=Dialect.STOCK if request.stock else Dialect.PATCHED,
        threads=request.threads,
        ranks=request.ranks or 1,
        constraints=replace(constraints, taken=reserved),
    )
    lists = {name: format_cpulist(cpus) for name, cpus in reserved.items()}
    if output == "json":
        click.echo(json.dumps(asdict(binding.settings()) | {"reserved": lists, "gpus": gpus}, indent=2))
        return
    for name, names in gpus.items():
        nodes = format_cpulist({node for gpu in names if (node := homes[gpu]) is not None})
        click.echo(f"# {name}: GPUs {','.join(names)}" + (f" on node {nodes}" if nodes else ""))
    for name, cpus in lists.items():
        click.echo(f"# {name}: CPUs {cpus}")
    click.echo("\n".join(BindingSettings(dialect=binding.dialect).changes_to(binding.settings())))


def _planned_gpus(
    homes: Mapping[str, int | None], wanted: Mapping[str, int], where: Host
) -> dict[str, tuple[str, ...]]:
    """What `gpus: auto` would choose if no instance had any GPU yet."""
    free = [Gpu(name=name, node=node) for name, node in homes.items()]
    plan = plan_gpus(
        free, {name: GpuWish(count=count, share=1) for name, count in wanted.items()}, {}, where.topology.distance
    )
    if missing := [name for name in wanted if name not in plan]:
        raise NoBindingError(f"too few GPUs for {', '.join(missing)}: this host has {len(homes)} that are whole")
    return plan


def _apply(path: Path, request: PlanRequest, where: Host, output: str) -> None:
    configfile.use_state_of_daemon(path)
    content = configfile.read(path)
    config = parse(content)
    specs = binder.planned_specs(config)
    changes = plan_changes(content, request, where, binder.weights(specs), binder.confine(config, specs, where).nodes)
    if changes:
        configfile.edit(path, changes)
    if output == "json":
        click.echo(json.dumps(changes, indent=2))
    else:
        for key, value in changes.items():
            click.echo(f"{key} {'is unset' if value is None else value}")
    effect = "changed; `syshaxctl reload` applies it" if changes else "unchanged: it already has this plan"
    click.echo(f"{path} is {effect}", err=True)


@numa.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--for", "name", help="Check against the running daemon: this instance's model and the CPUs of the others."
)
@click.option(
    "--host", "text", type=FileText("replace"), metavar="FILE", help="Another host's `lscpu` or `numactl -H` text."
)
@click.option("--taken", multiple=True, metavar="NAME=CPUS", help="CPUs taken by others, such as gpu=36-39.")
@click.option(
    "--model", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of the model's weights."
)
@output_option
@click.pass_obj
def check(
    socket: Path | None,
    words: Sequence[str],
    *,
    name: str | None,
    text: str | None,
    taken: Sequence[str],
    model: Path | None,
    output: str,
) -> None:
    """Lists every fault of a binding and prints a correct one.

    KEYs are environment variables such as CUSTOM_CPU_AFFINITY, cpuset_cpus, cpuset_mems (as a container has them), and
    tensor-parallel-size. With --for and no KEY, checks the instance's current binding. Exit code 1: the binding is
    wrong.

    \b
    Examples:
      syshaxctl numa check INFERENCE_OP_MODE=fused OMP_NUM_THREADS=160 CUSTOM_CPU_AFFINITY=0-159
      syshaxctl numa check --host lscpu.txt --taken gpu=36-39 'VLLM_CPU_OMP_THREADS_BIND=0-35|40-75'
      syshaxctl numa check --for cpu
    """  # noqa: D301
    if name is not None and (text or taken or model):
        raise click.UsageError("--host, --taken and --model are not for a running instance (--for)")
    if name is None and not words and model is None:
        raise click.UsageError("which binding? Give KEY=VALUE, such as CUSTOM_CPU_AFFINITY=0-159, or --for INSTANCE")
    settings = _settings(words)
    if name is None:
        with shown_errors():
            faults = _faults(settings, _host(text), _lists(taken), model)
    else:
        found: list[Fault] = []

        async def work(client: ControlClient) -> None:
            found.extend(await client.check_binding(name, settings if words else None))

        run(socket, work)
        faults = tuple(found)
    _print_faults(settings, faults, output)
    if any(fault.blocking for fault in faults):
        raise click.exceptions.Exit(1)


def _faults(
    settings: BindingSettings, where: Host, taken: Mapping[str, tuple[int, ...]], model: Path | None
) -> tuple[Fault, ...]:
    weights_bytes = 0 if model is None else host.weights(model).loaded_bytes()
    model_bytes, kv_cache_bytes = memory_needs(settings, weights_bytes)
    constraints = Constraints(
        taken=taken,
        allowed_cpus=where.allowed_cpus,
        allowed_nodes=where.allowed_nodes,
        model_bytes=model_bytes,
        kv_cache_bytes=kv_cache_bytes,
    )
    return check_binding(settings, where.topology, constraints)


def _print_faults(settings: BindingSettings, faults: Sequence[Fault], output: str) -> None:
    proposal = faults[0].proposal if faults else None
    if output == "json":
        listed = [{key: value for key, value in asdict(fault).items() if key != "proposal"} for fault in faults]
        click.echo(json.dumps({"faults": listed, "proposal": proposal and asdict(proposal)}, indent=2))
        return
    for fault in faults:
        click.echo(str(fault) if fault.blocking else f"{fault} (advice)")
    if not faults:
        click.echo("good")
    elif proposal is None:
        click.echo("no valid binding exists here")
    elif changes := settings.changes_to(proposal):
        click.echo("\n".join(["a valid binding:", *changes]))


@numa.command()
@click.argument("name", required=False)
@output_option
@click.pass_obj
def verify(socket: Path | None, name: str | None, output: str) -> None:
    """Compares running instances with their CPU bindings.

    It reads where their threads and their memory are.

    Without NAME, checks every instance. Exit code 1: an instance has left its binding, or NAME can't be checked.

    \b
    Examples:
      syshaxctl numa verify
      syshaxctl numa verify cpu -o json
    """  # noqa: D301
    seen: dict[str, Verification | Unverified] = {}

    async def work(client: ControlClient) -> None:
        seen.update(await client.verify_bindings(name or ""))

    run(socket, work)
    if output == "json":
        click.echo(json.dumps({each: verification_json(result) for each, result in seen.items()}, indent=2))
    else:
        _print_verifications(seen)
    if any(not result.ok if isinstance(result, Verification) else name for result in seen.values()):
        raise click.exceptions.Exit(1)


def _print_verifications(seen: Mapping[str, Verification | Unverified]) -> None:
    rows = []
    for name, result in seen.items():
        if isinstance(result, Verification):
            cpus = f"{result.cpus_bound} of {result.cpus_planned}" if result.cpus_planned else "-"
            memory = ", ".join(f"{node}: {size / _MIB:.0f} MiB" for node, size in result.memory_bytes.items())
            remote = f"{result.remote_memory_bytes / _MIB:.0f} MiB ({result.remote_memory_ratio:.0%})"
            rows.append((name, cpus, str(result.threads), str(result.threads_outside), memory or "unknown", remote))
    console = show.console()
    if rows:
        console.print(fitting_table(_VERIFIED, rows, console.width))
    for name, result in seen.items():
        if isinstance(result, Unverified):
            console.print(Text(f"{name}: not checked: {result.reason}"))
            continue
        for drift in result.drifts:
            console.print(Text(f"{name}: {drift}", "red"))
        for reason in result.unreadable:
            console.print(Text(f"{name}: {reason}", "yellow"))


def _host(text: str | None) -> Host:
    return binder.this_host() if text is None else Host(topology=parse_topology(text))


def _pairs(words: Sequence[str], hint: str, example: str) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{word!r} does not look like {example}", param_hint=hint)
        pairs[key] = value
    return pairs


def _settings(words: Sequence[str]) -> BindingSettings:
    env = _pairs(words, "KEY=VALUE", "OMP_NUM_THREADS=160")
    cpus, mems = (env.pop(key, "") for key in _KEYS_OF_CPUSETS)
    ranks = _number(env.pop(_RANKS, "1"), "KEY=VALUE", f"{_RANKS}=4")
    for key in env.keys() - VARIABLES:  # no rule checks an unknown variable, so a typing error would pass
        if near := difflib.get_close_matches(key, VARIABLES, n=1, cutoff=0.8):
            raise click.BadParameter(f"unknown key {key}; did you mean {near[0]}?", param_hint="KEY=VALUE")
    return BindingSettings(
        dialect=dialect_of(env, on_cpu=True), env=env, cpuset_cpus=cpus, cpuset_mems=mems, ranks=ranks
    )


def _counts(words: Sequence[str], option: str) -> dict[str, int]:
    pairs = _pairs(words, option, "gpu=4")
    return {name: _number(count, option, "gpu=4") for name, count in pairs.items()}


def _number(text: str, hint: str, example: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise click.BadParameter(f"{text!r} is not a number; write it as in {example}", param_hint=hint)
    return int(text)


def _lists(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    try:
        return {name: parse_cpulist(cpus) for name, cpus in _pairs(words, "--taken", "gpu=36-39").items()}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--taken") from None
