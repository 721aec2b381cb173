# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The record of a launched instance: what a later daemon needs to find it again, or to clear away its remains."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from syshaxd.core.types import Handle
from syshaxd.runtime.logfile import open_private
from syshaxd.runtime.process.procfs import Process


@dataclass(frozen=True, slots=True)
class Record:
    """One launched generation. The shim writes it, before it becomes the instance."""

    name: str
    generation: int
    started_at_s: float
    """Unix time."""
    spec_digest: str
    boot_id: str
    pid: int = 0
    start_ticks: int = 0
    shared_memory: tuple[str, ...] = ()
    """Files that would be left in /dev/shm if it were killed now."""

    @property
    def handle(self) -> Handle:
        """The generation, as the supervisor knows it."""
        return Handle(self.name, self.generation, str(self.pid), self.started_at_s)

    @property
    def process(self) -> Process:
        """The instance's main process."""
        return Process(self.pid, self.start_ticks)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in a file; None if there is none, or if it can't be understood."""
        try:
            fields = json.loads(path.read_text())
            return cls(**fields | {"shared_memory": tuple(fields["shared_memory"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Replaces the file's content, wholly or not at all."""
        temporary = path.with_name(f"{path.name}.new")
        with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        temporary.replace(path)
