# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A generation that the runtime watches."""

import asyncio
from dataclasses import dataclass, field

from syshaxd.core.launch.container import DONOR
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from syshaxd.runtime.docker.threads import OutputReader


@dataclass(slots=True, eq=False)
class Running:
    """Its container, and what is going on with it."""

    spec: InstanceSpec
    handle: Handle
    joins: str
    """Id of the container whose IPC namespace it has joined; empty: none."""
    output: OutputReader
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Something may have happened to it."""
    cause: str = ""
    """Why the runtime itself ended it."""
    asked: bool = False
    """It was asked to stop."""
    watch: asyncio.Task[ExitStatus] = field(init=False)
    """Done when nothing is left of it."""

    @property
    def has_gpus(self) -> bool:
        """Whether it may lose them."""
        return self.spec.container is not None and bool(self.spec.container.gpus)

    @property
    def uses_donor(self) -> bool:
        """Whether it sits in the namespace that a container of its own keeps."""
        return self.spec.container is not None and self.spec.container.ipc == DONOR
