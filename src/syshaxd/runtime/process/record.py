# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The record of a launched instance: what a later daemon needs to find it again, or to clear away its remains."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from syshaxd.core.types import Handle
from syshaxd.runtime.logfile import open_private
from syshaxd.runtime.process.procfs import Process
from syshaxd.runtime.process.shm import File
from syshaxd.system import smallfile


@dataclass(frozen=True, slots=True)
class Record:
    """One launched generation. The shim writes it, before it becomes the instance."""

    name: str
    generation: int
    started_at_s: float
    """Unix time."""
    spec_digest: str
    boot_id: str
    service: str = ""
    """The service that the instance is a replica of; empty: the one with its name."""
    pid: int = 0
    start_ticks: int = 0
    temporary_folder: str = ""
    """Made for this generation alone, and removed after it; empty: none."""
    family: tuple[Process, ...] = ()
    """Its processes, as they were seen last."""
    shm_written: tuple[File, ...] = ()
    """Files in /dev/shm that they had open for writing."""
    shm_spared: tuple[str, ...] = ()
    """Names there that are surely not its own."""

    @property
    def handle(self) -> Handle:
        """The generation, as the supervisor knows it."""
        return Handle(self.name, self.generation, str(self.pid), self.started_at_s)

    @property
    def process(self) -> Process:
        """The instance's main process."""
        return Process(self.pid, self.start_ticks)

    @property
    def mark(self) -> str:
        """What its processes carry in their environment, and no others."""
        return f"{self.name}-{self.generation}-{self.started_at_s!r}"

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in a file; None if there is none, or if it can't be understood.

        What another version of syshaxd has noted is left out: it may have judged ownership by other rules.
        """
        with suppress(OSError, ValueError, TypeError, KeyError):
            return cls._from(smallfile.read_json(path))
        return None

    @classmethod
    def _from(cls, noted: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {field.name: noted[field.name] for field in fields(cls) if field.name in noted}
        values["family"] = tuple(Process(pid, ticks) for pid, ticks in values.get("family", ()))
        values["shm_written"] = tuple(File(name, inode) for name, inode in values.get("shm_written", ()))
        values["shm_spared"] = tuple(values.get("shm_spared", ()))
        record = cls(**values)
        if not (isinstance(record.pid, int) and record.pid > 1):
            raise ValueError(f"{record.pid} is no instance's process")
        return record

    def fields(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"family": [(process.pid, process.start_ticks) for process in self.family]}

    def write(self, path: Path) -> None:
        """Replaces the file's content, wholly or not at all."""
        temporary = path.with_name(f"{path.name}.new")
        with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
            json.dump(self.fields(), file)
        temporary.replace(path)
