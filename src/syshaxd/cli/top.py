# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The live view of `syshaxctl top`: its data, its layout and the loop that refreshes it."""

import asyncio
import os
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syshaxd.cli import show
from syshaxd.cli.explain import decision_line
from syshaxd.cli.groups import MAX_ALONE, by_model
from syshaxd.client import ControlClient, UnreachableError
from syshaxd.core.loads import GpuLoad, HostLoad
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import State
from syshaxd.system import rundir

_SAMPLES = 60
_EVENTS = 20
_DECISIONS = 5
_HIGH_RATIO = 0.9
_LEVELS = "▁▂▃▄▅▆▇█"
_SPARKS_FROM_WIDTH = 100


class TopView:
    """The latest status, its history, and whether the daemon still answers."""

    def __init__(self) -> None:
        self.status: EngineStatus | None = None
        self._read_at_s = 0.0
        self._lost_at_s: float | None = None
        self._lost_why = ""
        self._history: dict[str, deque[float]] = {}
        self._events: deque[tuple[float, str, Text]] = deque(maxlen=_EVENTS)
        self._seen: dict[str, tuple[State, float]] = {}
        self.decisions: list[str] = []
        """The latest decisions, newest first."""

    def saw(self, status: EngineStatus, *, now_s: float, monotonic_s: float) -> None:
        """Adds a new status. `now_s` is Unix time."""
        if self._lost_at_s is not None:
            self._events.appendleft((now_s, "syshaxd", Text("answers again")))
        self.status, self._read_at_s, self._lost_at_s = status, monotonic_s, None
        for instance in sorted(status.instances, key=lambda each: each.since_s):
            name = instance.spec.name
            if self._seen.get(name) != (instance.state, instance.since_s):
                message = show.state_text(instance.state).append(
                    f" {instance.reason}" if instance.reason else "", "default"
                )
                self._events.appendleft((instance.since_s, name, message))
            self._seen[name] = instance.state, instance.since_s
        for name, rate in _rates_of_interest(status).items():
            self._note(f"tokens of {name}", rate)
        self._note("queued", status.queued)
        if status.snapshot.host is not None:
            self._note("host", status.snapshot.host.cpu_busy_ratio)
        for gpu in status.snapshot.gpus:
            if gpu.busy_ratio is not None:
                self._note(gpu.uuid, gpu.busy_ratio)

    def lost(self, why: str, *, now_s: float) -> None:
        """Records that the daemon does not answer; the last status stays visible."""
        if self._lost_at_s is None:
            self._events.appendleft((now_s, "syshaxd", Text("does not answer", "red")))
            self._lost_at_s, self._lost_why = now_s, why

    def render(self, *, width: int, now_s: float, monotonic_s: float) -> RenderableType:
        """The view, most important rows first: a short terminal cuts off the rest."""
        parts: list[RenderableType] = []
        if self._lost_at_s is not None:
            age = show.duration_text(now_s - self._lost_at_s)
            parts += [Text(f"{self._lost_why} for {age}; retrying", "bold red"), Text()]
            monotonic_s = self._read_at_s  # ages stop at the last answer
        if self.status is not None:
            status = self.status
            parts.append(show.status_table(status, width=width, now_s=now_s, monotonic_s=monotonic_s, devices=False))
            parts += [Text(), self._rates(status, width), Text(), self._devices(status, width)]
        if self.decisions:
            parts += [Text(), *(Text(line, overflow="ellipsis", no_wrap=True) for line in self.decisions)]
        if self._events:
            parts += [Text(), self._event_table()]
        return Group(*parts)

    def _note(self, name: str, value: float) -> None:
        self._history.setdefault(name, deque(maxlen=_SAMPLES)).append(value)

    def _spark(self, name: str, top: float | None = None) -> str:
        """The history as a line of blocks, scaled to `top` or the highest value."""
        values = self._history.get(name, ())
        highest = top or max(values, default=0.0) or 1.0
        return "".join(_LEVELS[round(_ratio(value / highest) * (len(_LEVELS) - 1))] for value in values)

    def _rates(self, status: EngineStatus, width: int) -> Table:
        table = _table()
        rows = [
            (name, f"{rate:,.0f} tokens/s", f"tokens of {name}") for name, rate in _rates_of_interest(status).items()
        ]
        for name, value, history in [*rows, ("queue", f"{status.queued:,} requests", "queued")]:
            table.add_row(Text(name, "bold"), Text(value), Text(self._spark(history)[-_room(width) :], "cyan"))
        return table

    def _devices(self, status: EngineStatus, width: int) -> Table:
        table = _table()
        host = status.snapshot.host
        gauges = [
            *(() if host is None else _host_gauges(host)),
            *(g for gpu in status.snapshot.gpus for g in _gpu_gauges(gpu)),
        ]
        for gauge in gauges:
            spark = self._spark(gauge.history, 1.0)[-_room(width) :] if width >= _SPARKS_FROM_WIDTH else ""
            style = "" if gauge.name.startswith(" ") else "bold"
            table.add_row(Text(gauge.name, style), _bar(gauge.ratio, width), Text(gauge.text), Text(spark, "cyan"))
        return table

    def _event_table(self) -> Table:
        table = _table()
        for at_s, name, text in self._events:
            table.add_row(Text(show.clock_text(at_s), "dim"), Text(name, "bold"), text)
        return table


def _rates_of_interest(status: EngineStatus) -> dict[str, float]:
    """Generated tokens per second of each instance, or of each model if there are many instances."""
    loads = status.snapshot.instances
    rates = {name: load.generation_tokens_per_s for name, load in loads.items()}
    if len(status.instances) <= MAX_ALONE:
        return {each.spec.name: rates[each.spec.name] for each in status.instances if each.spec.name in rates}
    models = by_model(status.instances)
    return {model: sum(rates.get(each.spec.name, 0.0) for each in models[model]) for model in models}


def _table() -> Table:
    return Table.grid(padding=(0, 2, 0, 0))


def _room(width: int) -> int:
    """Width of a sparkline, in columns."""
    return max(8, min(_SAMPLES, width - 60))


def _ratio(value: float) -> float:
    """The value clamped to 0..1."""
    return max(0.0, min(1.0, value))


def _bar(ratio: float | None, width: int) -> Text:
    """A bar for a ratio, sized to the terminal; None: not known."""
    if ratio is None:
        return Text("unknown", "dim")
    cells = 10 if width < _SPARKS_FROM_WIDTH else 20
    full = round(_ratio(ratio) * cells)
    colour = "yellow" if ratio >= _HIGH_RATIO else "green"
    return Text.assemble(("█" * full, colour), ("░" * (cells - full), "dim"), f" {ratio:4.0%}")


@dataclass(frozen=True, slots=True)
class _Gauge:
    """One line of the device table."""

    name: str
    ratio: float | None
    """None: not known."""
    text: str
    history: str = ""
    """Key of its history; empty: it has none."""


def _host_gauges(host: HostLoad) -> Iterator[_Gauge]:
    yield _Gauge("CPU", host.cpu_busy_ratio, f"{host.cpu_count} CPUs", "host")
    yield _filled("memory", host.memory_used_bytes, host.memory_total_bytes)
    yield _filled("shm", host.shm_used_bytes, host.shm_total_bytes)


def _gpu_gauges(gpu: GpuLoad) -> Iterator[_Gauge]:
    power = "" if gpu.power_w is None else f", {gpu.power_w:.0f} W"
    heat = "" if gpu.temperature_c is None else f", {gpu.temperature_c:.0f} °C"
    yield _Gauge(f"GPU {gpu.index}", gpu.busy_ratio, f"{gpu.name}{power}{heat}", gpu.uuid)
    yield _filled("  memory", gpu.memory_used_bytes, gpu.memory_total_bytes)


def _filled(name: str, used_bytes: int, total_bytes: int) -> _Gauge:
    ratio = used_bytes / total_bytes if total_bytes else None
    return _Gauge(name, ratio, show.of_gib(used_bytes, total_bytes))


async def latest_decisions(client: ControlClient) -> list[str]:
    """The scheduler's latest decisions as lines, newest first."""
    async with aclosing(client.stream("WatchDecisions", last=_DECISIONS, follow=False)) as answers:
        return [decision_line(answer["decision"]) async for answer in answers][::-1]


async def watch(socket: Path | None, console: Console, *, interval_s: float) -> None:
    """Shows the view full-screen until the user presses `q`. Survives restarts of the daemon.

    Raises:
        SyshaxError: The daemon's answer is not understood.
    """
    view = TopView()
    with _quit_key() as quitting, Live(console=console, screen=True, auto_refresh=False) as live:
        while not quitting.is_set():
            path = rundir.find_socket(socket)
            try:
                async with ControlClient(path) as client:
                    view.saw(await client.status(), now_s=time.time(), monotonic_s=time.monotonic())
                    view.decisions = await latest_decisions(client)
            except UnreachableError as error:
                view.lost(str(error), now_s=time.time())
            live.update(view.render(width=console.width, now_s=time.time(), monotonic_s=time.monotonic()), refresh=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await quitting.wait()


@contextmanager
def _quit_key() -> Iterator[asyncio.Event]:
    """An event that `q` sets, if stdin is a terminal. Inside, keys are read unbuffered and not echoed."""
    quitting = asyncio.Event()
    if not sys.stdin.isatty():
        yield quitting
        return
    loop, keys = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(keys)

    def on_key() -> None:
        if os.read(keys, 1) in {b"q", b"Q", b""}:
            quitting.set()

    tty.setcbreak(keys)
    loop.add_reader(keys, on_key)
    try:
        yield quitting
    finally:
        loop.remove_reader(keys)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
