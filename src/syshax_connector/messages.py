# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Messages between the connector's two halves: the scheduler's jobs for the workers, and the workers' reports."""

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

from .header import Header, Part


@dataclass(frozen=True, slots=True)
class SaveJob:
    """Copy a finished request's KV cache into the arena."""

    request_id: str
    offset: int
    """In each rank's arena."""
    tokens: int
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Copy a hand-over into a request's blocks before the next forward pass."""

    request_id: str
    header: Header
    """Without its token ids."""
    tokens: int
    """That the hand-over holds."""
    start: int
    """The first token to copy; those before it are in the local prefix cache."""
    stop: int
    blocks: list[int]


@dataclass
class Jobs(KVConnectorMetadata):
    """One engine step's work."""

    saves: list[SaveJob] = field(default_factory=list)
    loads: list[LoadJob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Saved:
    """One rank's save has ended."""

    request_id: str
    rank: int
    part: Part | None
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One rank's load has ended."""

    request_id: str
    rank: int
    size_bytes: int
    seconds: float
    error: str = ""


@dataclass
class Report(KVConnectorWorkerMetadata):
    """What ended in one step."""

    saved: list[Saved] = field(default_factory=list)
    loaded: list[Loaded] = field(default_factory=list)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Report":
        """Joins two ranks' reports."""
        assert isinstance(other, Report)
        return Report(self.saved + other.saved, self.loaded + other.loaded)
