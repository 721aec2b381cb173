# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The parts of the daemon that the control plane commands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from syshaxd.core.wire.batches import Batch
from syshaxd.reconfigure import Reconfigurer
from syshaxd.serving.engine import Engine
from syshaxd.serving.leases import Leases
from syshaxd.serving.operations import InstanceOperations
from syshaxd.system.api_keys import ApiKeys


class BatchControl(Protocol):
    """Carries out the batches of clients."""

    async def every(self) -> list[Batch]:
        """Those of all clients, the latest first."""

    async def cancel(self, its_id: str, owner: str | None) -> Batch:
        """Cancels a batch; `owner` None: whosever it is. Raises NotFoundError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """Each part answers what it owns."""

    engine: Engine
    instances: InstanceOperations
    reconfigurer: Reconfigurer
    leases: Leases
    keys: ApiKeys
    stop: Callable[[bool | None], None]
    """Begins the daemon's end; tells whether the instances run on, None: as the configuration says."""
    batches: Callable[[], BatchControl | None] = lambda: None
    """None: there are none."""
