# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The table of docs/reliability.md."""

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.client import Counts

FULL = os.environ.get("FAULTS_SCALE", "small") == "full"
_COLUMNS = ("scenario", "what was done", "requests", "refused", "lost", "corrupt", "hung", "crashed", "leaked")


def sized(small: int, full: int) -> int:
    """A number that FAULTS_SCALE chooses."""
    return full if FULL else small


@dataclass
class Leaks:
    """What a scenario left behind, once all was quiet again."""

    slots: int = 0
    files: int = 0
    memory_mb: int = 0
    connections: int = 0

    def __str__(self) -> str:
        return f"{self.slots} slots, {self.files} files, {self.connections} connections, {self.memory_mb:+d} MB"


@dataclass
class Row:
    """One scenario."""

    name: str
    done: str = ""
    counts: Counts = field(default_factory=Counts)
    crashed: int = 0
    """Processes that ended and were not told to."""
    leaks: Leaks = field(default_factory=Leaks)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def cells(self) -> tuple[str, ...]:
        verdicts = self.counts.verdicts
        done = "; ".join([self.done, *self.notes]) + ("; **failed**" if self.failed else "")
        numbers = [self.counts.tried, verdicts["refused"], verdicts["lost"], verdicts["corrupt"], verdicts["hung"]]
        return (self.name, done, *(f"{number:,}" for number in numbers), str(self.crashed), str(self.leaks))


def table(rows: list[Row], seconds: float) -> str:
    """Markdown."""
    command = f"make test-faults{' FAULTS_SCALE=full' if FULL else ''}"
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Linux {platform.release().split('-')[0]}"
    lines = [
        f"`{command}`, {time.strftime('%Y-%m-%d')}: {machine}, Python {platform.python_version()}, {seconds:.0f} s.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def write(rows: list[Row], seconds: float, path: Path) -> str:
    """Writes the table; returns it."""
    text = table(rows, seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text
