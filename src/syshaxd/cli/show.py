# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon's status for people: tables that fit the terminal. `core/report/status.py` has it for programs."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from syshaxd.cli.groups import by_model, handover_notes, model_cells, parity_notes
from syshaxd.core.loads import GpuLoad, HostLoad, InstanceLoad
from syshaxd.core.report.describe import device_text, status_notes, users_of
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.system.terminal import controlled, visible

_GIB = 2**30
_STALE_S = 10.0
_WIDTH_WITHOUT_TERMINAL = 200
_COLOURS = {
    State.READY: "green",
    State.STARTING: "yellow",
    State.DRAINING: "yellow",
    State.STOPPING: "yellow",
    State.STOPPED: "dim",
    State.UNHEALTHY: "red",
    State.BACKOFF: "red",
    State.FAILED: "bold red",
}


def state_text(state: State) -> Text:
    """The state, coloured."""
    return Text(state, _COLOURS.get(state, ""))


def duration_text(duration_s: float) -> str:
    """A duration in its two largest units: `8s`, `13m05s`, `2h13m`, `3d04h`."""
    if not math.isfinite(duration_s):
        return "?"
    seconds = max(0, int(duration_s))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    return f"{seconds // 86400}d{seconds // 3600 % 24:02}h"


def clock_text(at_s: float, form: str = "%H:%M:%S") -> str:
    """A Unix time in the user's time zone."""
    try:
        return time.strftime(form, time.localtime(at_s))
    except (OverflowError, ValueError, OSError):  # no such time
        return "?"


def status_table(
    status: EngineStatus, *, width: int, now_s: float, monotonic_s: float, devices: bool = True
) -> RenderableType:
    """The whole status, for a terminal of `width` columns; host and GPUs only with `devices`. `now_s` is Unix time."""
    view = _View(status, now_s, monotonic_s)
    gap = 2 if width >= _NARROW else 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    columns = [column for column in _columns(view) if width >= column.from_width]
    for column in columns:
        name = column.name if width >= _WIDE else column.short_name or column.name
        table.add_column(name, justify=column.justify, no_wrap=not column.wraps, overflow=column.overflow)
    models = by_model(status.instances)
    for model, instances in models.items():
        if len(models) > 1:
            cells = model_cells(status, model, instances)
            table.add_row(*(cells.get(column.name, "") for column in columns))
        for instance in instances:
            table.add_row(*(column.cell(view, instance) for column in columns))
    parts = [_headline(status, now_s)]
    if devices and status.snapshot.host is not None:
        parts.append(Text(_host_text(status.snapshot.host)))
    return Group(*parts, Text(), table, *_notes(view), *(_gpus(status) if devices else ()))


@dataclass(frozen=True, slots=True)
class _View:
    """A status and the time at which it is shown."""

    status: EngineStatus
    now_s: float
    monotonic_s: float

    @property
    def indent(self) -> str:
        """Before instances below the row of their model."""
        models = {instance.spec.served_model for instance in self.status.instances}
        return "  " if len(models) > 1 else ""

    def load(self, instance: InstanceStatus) -> InstanceLoad | None:
        return self.status.snapshot.instances.get(instance.spec.name)

    def device(self, instance: InstanceStatus) -> str:
        return device_text(instance.spec, self.status.snapshot)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    cell: Callable[[_View, InstanceStatus], str | Text]
    from_width: int = 0
    """Narrowest terminal, in columns, that shows it."""
    short_name: str = ""
    justify: Literal["left", "right"] = "left"
    wraps: bool = False
    """May take several lines on narrow terminals."""

    @property
    def overflow(self) -> Literal["fold", "ellipsis"]:
        return "fold" if self.wraps else "ellipsis"


def _of_load(text: Callable[[InstanceLoad], str]) -> Callable[[_View, InstanceStatus], str]:
    def cell(view: _View, instance: InstanceStatus) -> str:
        load = view.load(instance)
        return "-" if load is None else text(load)

    return cell


def _bound(view: _View, instance: InstanceStatus) -> str | Text:
    """CPUs of the plan on which a compute thread is bound."""
    binding = view.status.bindings.get(instance.spec.name)
    if binding is None:
        return "-"
    seen = binding.verification
    counts = f"{seen.cpus_bound}/{seen.cpus_planned}" if seen.cpus_planned else "ok"
    return Text(counts, "red") if binding.drifted else counts


def _state(view: _View, instance: InstanceStatus) -> Text:
    text = state_text(instance.state)
    on_demand = instance.spec.served_model in view.status.on_demand
    return text.append(" (on demand)") if on_demand and instance.state is State.STOPPED else text


def _model_text(spec: InstanceSpec) -> str:
    return spec.served_model if spec.weights is None else f"{spec.served_model} ({spec.weights_text})"


def _columns(view: _View) -> list["_Column"]:
    """With several models, the row above the instances of each has its name; they need only tell their weights."""
    if not view.indent:
        return list(_COLUMNS)
    quantised = any(instance.spec.weights is not None for instance in view.status.instances)
    return [
        _WEIGHTS if column.name == "MODEL" else column for column in _COLUMNS if quantised or column.name != "MODEL"
    ]


_WIDE = 120
_NARROW = 80
_WEIGHTS = _Column(
    "WEIGHTS", lambda view, instance: "" if instance.spec.weights is None else instance.spec.weights_text
)
_COLUMNS = (
    _Column("INSTANCE", lambda view, instance: f"{view.indent}{instance.spec.name}"),
    _Column("ROLE", lambda view, instance: instance.spec.role, from_width=_WIDE),
    _Column("STATE", _state, wraps=True),
    _Column("FOR", lambda view, instance: duration_text(view.now_s - instance.since_s), justify="right"),
    _Column("DEVICE", lambda view, instance: view.device(instance), wraps=True),
    _Column("MODEL", lambda view, instance: _model_text(instance.spec), wraps=True),
    _Column("RUNNING", _of_load(lambda load: str(load.running)), short_name="RUN", justify="right"),
    _Column("WAITING", _of_load(lambda load: str(load.waiting)), short_name="WAIT", justify="right"),
    _Column(
        "IN FLIGHT",
        lambda view, instance: str(view.status.inflight.get(instance.spec.name, 0)),
        short_name="IN\nFLIGHT",
        justify="right",
    ),
    _Column("KV", _of_load(lambda load: f"{load.kv_usage_ratio:.0%}"), justify="right"),
    _Column("BOUND", _bound, from_width=_WIDE, justify="right"),
    _Column("LAUNCHES", lambda view, instance: str(instance.generation), from_width=_WIDE, justify="right"),
)


def _headline(status: EngineStatus, now_s: float) -> Text:
    where = status.endpoint or "an endpoint that does not listen yet"
    up = duration_text(now_s - status.started_at_s)
    return Text.assemble(("sysHAX ", "bold"), f"{status.version} at ", (where, "bold"), f", up {up}, ", _queued(status))


def _queued(status: EngineStatus) -> str:
    return "1 request queued" if status.queued == 1 else f"{status.queued} requests queued"


def _host_text(host: HostLoad) -> str:
    return (
        f"host: {host.cpu_busy_ratio:.0%} of {host.cpu_count} CPUs, "
        f"{of_gib(host.memory_used_bytes, host.memory_total_bytes)} memory, "
        f"{of_gib(host.shm_used_bytes, host.shm_total_bytes)} /dev/shm"
    )


def _notes(view: _View) -> Iterator[Text]:
    """Notes about instances that are not figures."""
    notes = []
    for instance in view.status.instances:
        name, load = instance.spec.name, view.load(instance)
        if instance.reason:
            notes.append(Text.assemble((f"{name}: ", "bold"), instance.reason, _where_it_is_told(instance)))
        if instance.spec.weights_reason:
            notes.append(Text.assemble((f"{name}: ", "bold"), instance.spec.weights_reason))
        if load is not None and (load.error or view.monotonic_s - load.read_at_s > _STALE_S):
            age = duration_text(view.monotonic_s - load.read_at_s)
            why = f": {load.error}" if load.error else ""
            notes.append(Text.assemble((f"{name}: ", "bold"), (f"its load was read {age} ago{why}", "yellow")))
        notes += [
            Text.assemble((f"{name}: ", "bold"), (f"CPU binding: {fault}", "yellow"))
            for fault in view.status.binding_faults.get(name, ())
        ]
        if (binding := view.status.bindings.get(name)) is not None and binding.drifted_at_s is not None:
            age = duration_text(view.now_s - binding.drifted_at_s)
            notes += [
                Text.assemble((f"{name}: ", "bold"), (f"drifted from its CPU binding for {age}: {drift}", "red"))
                for drift in binding.drifts
            ]
    for model, demand in view.status.on_demand.items():
        notes.append(Text.assemble((f"{model}: ", "bold"), f"on demand: {demand.text}"))
    for name, reason in view.status.open_circuits.items():
        notes.append(Text.assemble((f"{name}: ", "bold"), (f"gets no requests: {reason}", "red")))
    notes += [Text.assemble((f"{subject}: ", "bold"), text) for subject, text in status_notes(view.status)]
    notes += handover_notes(view.status.handover_refusals)
    notes += parity_notes(view.status.parity)
    if not view.status.offload.on:
        until = clock_text(view.status.offload.off_until_s)
        text = f"the CPU does not help until {until}: {view.status.offload.text}; see `syshaxctl offload`"
        notes.append(Text.assemble(("offload: ", "bold"), (text, "yellow")))
    notes += [Text.assemble(("syshaxd: ", "bold"), (fault, "red")) for fault in view.status.faults]
    if view.status.snapshot.gpu_error:
        notes.append(Text.assemble(("GPUs: ", "bold"), (view.status.snapshot.gpu_error, "yellow")))
    if notes:
        yield Text()
        yield from notes


def _where_it_is_told(instance: InstanceStatus) -> str:
    """Where to look for the cause of a failure; empty if the instance has not failed or is external."""
    failed = instance.state in {State.BACKOFF, State.FAILED} and instance.spec.runtime is not RuntimeKind.EXTERNAL
    return f"; see `syshaxctl logs {instance.spec.name}`" if failed else ""


def _gpus(status: EngineStatus) -> Iterator[Text]:
    if status.snapshot.gpus:
        yield Text()
    for gpu in status.snapshot.gpus:
        users = users_of(gpu, status)
        yield Text(_gpu_text(gpu) + (f", used by {', '.join(users)}" if users else ""))


def _gpu_text(gpu: GpuLoad) -> str:
    parts = [f"{of_gib(gpu.memory_used_bytes, gpu.memory_total_bytes)} memory"]
    if gpu.busy_ratio is not None:
        parts.insert(0, f"{gpu.busy_ratio:.0%} busy")
    if gpu.power_w is not None:
        parts.append(f"{gpu.power_w:.0f} W")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c:.0f} °C")
    return f"GPU {gpu.index} {gpu.name}: {', '.join(parts)}"


def of_gib(used_bytes: int, total_bytes: int) -> str:
    """`21.0 of 512.0 GiB`."""
    return f"{used_bytes / _GIB:.1f} of {total_bytes / _GIB:.1f} GiB"


class VisibleConsole(Console):
    """A console whose control sequences are its own: those in texts are shown as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See rich.console.Console.render."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console() -> Console:
    """The console for tables: as wide as the terminal, or wide enough for everything if there is none."""
    columns = os.environ.get("COLUMNS", "")
    width: int | None
    if columns.isdecimal():
        width = int(columns) or _WIDTH_WITHOUT_TERMINAL
    else:
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        width = None if on_terminal else _WIDTH_WITHOUT_TERMINAL
    return VisibleConsole(highlight=False, width=width, file=None if sys.stdout is None else controlled(sys.stdout))
