# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the container engine reports of a container, and the labels by which a daemon knows its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docker.models.containers import Container

from syshaxd.core.launch.container import JOIN
from syshaxd.core.types import Handle

OWNER = "org.syshax.owner"
INSTANCE = "org.syshax.instance"
GENERATION = "org.syshax.generation"
DIGEST = "org.syshax.digest"
NAME = "org.syshax.container"
"""The container's name. Labels alone prove nothing: an image committed from a container hands them down."""


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What the engine reports of a container."""

    ident: str
    name: str
    labels: Mapping[str, str]
    running: bool
    exit_code: int
    out_of_memory: bool
    pid: int
    started_at_s: float
    """Unix time; 0 if it was never started."""
    joins: str
    """Id of the container whose IPC namespace it has joined; empty: none."""

    def is_of(self, owner: str) -> bool:
        """Whether the daemon with this folder made it."""
        return self.labels.get(OWNER) == owner and self.labels.get(NAME, self.name) == self.name

    @property
    def handle(self) -> Handle:
        """The generation that it is."""
        return Handle(self.labels[INSTANCE], int(self.labels[GENERATION]), self.ident, self.started_at_s)


def read_state(container: Container) -> ContainerState:
    """Of a container as the SDK has read it."""
    attrs: dict[str, Any] = container.attrs
    state = attrs["State"]
    ipc = str(attrs["HostConfig"].get("IpcMode") or "")
    return ContainerState(
        ident=str(container.id),
        name=str(attrs.get("Name") or "").removeprefix("/"),
        labels=attrs["Config"].get("Labels") or {},
        running=bool(state["Running"]),
        exit_code=int(state.get("ExitCode") or 0),
        out_of_memory=bool(state.get("OOMKilled")),
        pid=int(state.get("Pid") or 0),
        started_at_s=_unix_time(state.get("StartedAt", "")),
        joins=ipc.removeprefix(JOIN) if ipc.startswith(JOIN) else "",
    )


def _unix_time(text: str) -> float:
    """Of the engine's time stamps, whose nanoseconds Python can't read."""
    if not text or text.startswith("0001-"):
        return 0.0
    head, _, rest = text.partition(".")
    fraction = rest.rstrip("Z").partition("+")[0]
    base = datetime.fromisoformat(f"{head.removesuffix('Z')}+00:00").timestamp()
    return base + float(f"0.{fraction or 0}")
