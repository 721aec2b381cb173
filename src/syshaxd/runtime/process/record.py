# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The record of a launched instance: what a later daemon needs to find it again."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from syshaxd.core.types import Handle, InstanceSpec
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
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def digest(spec: InstanceSpec) -> str:
    """Differs if a server launched for `spec` would differ."""
    fields: dict[str, Any] = asdict(spec)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
