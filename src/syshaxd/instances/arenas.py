# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What instances leave in the folder of KV caches on their way when the last of them has ended.

As long as one lives, it clears away what the dead left; vLLM gives an instance that is stopped no time to do so.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from syshax_connector.folder import Folder
from syshaxd.core.handover.connector import arena_dir, engine_id
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.types import InstanceSpec, InstanceStatus, Protocol, RuntimeKind, State

_log = logging.getLogger(__name__)
_ENDED = frozenset((State.STOPPED, State.BACKOFF, State.FAILED))
_IPC_OF_THE_HOST = "host"


class ArenaSweeper:
    """Sweeps by the connector's own rule: what a living engine holds a lock on stays. Lives in one event loop."""

    def __init__(
        self,
        statuses: Callable[[], Iterable[InstanceStatus]],
        subscribe: Callable[[Callable[[InstanceStatus], None]], object],
    ) -> None:
        """Sweeps from now on.

        Args:
            statuses: All instances, at any moment.
            subscribe: Has a function called at each change of an instance.
        """
        self._statuses = statuses
        self._sweeps: set[asyncio.Task[None]] = set()
        subscribe(self._on_status)

    def _on_status(self, status: InstanceStatus) -> None:
        """Sweeps the folder of an instance that has ended, unless another lives that will."""
        folder = _folder(status.spec)
        if folder is None or any(
            other.state not in _ENDED and _folder(other.spec) == folder for other in self._statuses()
        ):
            return
        task = asyncio.get_running_loop().create_task(_sweep(folder))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def close(self) -> None:
        """Returns when all sweeps have ended."""
        await asyncio.gather(*self._sweeps, return_exceptions=True)


def _folder(spec: InstanceSpec) -> Path | None:
    """Where an instance keeps KV caches on their way. None: nowhere, or where they vanish with its container."""
    if spec.protocol is not Protocol.CONNECTOR or spec.runtime is RuntimeKind.EXTERNAL:
        return None
    if spec.container is not None and spec.container.ipc != _IPC_OF_THE_HOST:
        return None
    return Path(arena_dir(spec.argv))


async def read_with_arena(
    read: Callable[[InstanceSpec], Awaitable[InstanceFacts]], spec: InstanceSpec
) -> InstanceFacts:
    """Asks an instance about itself, and looks whether it has an arena. Raises what `read` raises."""
    facts = await read(spec)
    return replace(facts, arena_fault=await asyncio.to_thread(arena_fault, spec))


def arena_fault(spec: InstanceSpec) -> str:
    """Why an instance that runs can't keep KV caches for others; empty: it can, or that can't be seen from here."""
    path = _folder(spec)
    if path is None or not (name := engine_id(spec.argv)):
        return ""
    try:
        folder = Folder(path)
        folder.check()
        if folder.has_arena(name):
            return ""
    except OSError as error:
        # A container may have another user than syshaxd.
        return "" if spec.container is not None else str(error)
    return f"it has no arena in {path} (yet): see what its log says of it"


async def _sweep(folder: Path) -> None:
    try:
        count = await asyncio.to_thread(_reap, folder)
    except OSError as error:
        _log.warning("what ended instances left in %s is not cleared away: %s", folder, error)
        return
    except Exception:  # noqa: BLE001 - what is left there costs memory, not the service
        _log.exception("what ended instances left in %s is not cleared away, by a fault of syshaxd", folder)
        return
    if count:
        _log.info("removed %d files that ended instances left in %s", count, folder)


def _reap(folder: Path) -> int:
    # Nobody is left who would load what the dead have saved: however young, it is of no use.
    return Folder(folder).reap(ttl_s=math.inf, grace_s=-1.0) if folder.exists() else 0
