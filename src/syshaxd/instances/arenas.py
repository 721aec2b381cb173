# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Removes what instances leave in the arena folder (KV caches in transfer) once the last of them has ended.

A running instance sweeps up after dead ones, but vLLM gives a stopping instance no time to clean up after itself.
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
from syshaxd.core.lifecycle import ENDED
from syshaxd.core.types import HandoverProtocol, InstanceSpec, InstanceStatus, RuntimeKind

_log = logging.getLogger(__name__)
_IPC_OF_THE_HOST = "host"


class ArenaSweeper:
    """Sweeps by the connector's own rule: files that a running engine has locked stay. Lives in one event loop."""

    def __init__(
        self,
        statuses: Callable[[], Iterable[InstanceStatus]],
        subscribe: Callable[[Callable[[InstanceStatus], None]], object],
    ) -> None:
        """Starts sweeping.

        Args:
            statuses: All instances, at any moment.
            subscribe: Registers a function to call at each change of an instance.
        """
        self._statuses = statuses
        self._sweeps: set[asyncio.Task[None]] = set()
        subscribe(self._on_status)

    def _on_status(self, status: InstanceStatus) -> None:
        """Sweeps the folder of an ended instance, unless another running instance will."""
        folder = _folder(status.spec)
        if folder is None or any(
            other.state not in ENDED and _folder(other.spec) == folder for other in self._statuses()
        ):
            return
        task = asyncio.get_running_loop().create_task(_sweep(folder))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def close(self) -> None:
        """Returns when all sweeps have ended."""
        await asyncio.gather(*self._sweeps, return_exceptions=True)


def _folder(spec: InstanceSpec) -> Path | None:
    """The folder in which an instance keeps KV caches in transfer. None: none, or one that ends with its container."""
    if spec.protocol is not HandoverProtocol.CONNECTOR or spec.runtime is RuntimeKind.EXTERNAL:
        return None
    if spec.container is not None and spec.container.ipc != _IPC_OF_THE_HOST:
        return None
    return Path(arena_dir(spec.argv))


async def read_with_arena(
    read: Callable[[InstanceSpec], Awaitable[InstanceFacts]], spec: InstanceSpec
) -> InstanceFacts:
    """Reads an instance's capabilities and checks that it has an arena. Raises what `read` raises."""
    facts = await read(spec)
    return replace(facts, arena_fault=await asyncio.to_thread(arena_fault, spec))


def arena_fault(spec: InstanceSpec) -> str:
    """Why a running instance can't keep KV caches for others; empty: it can, or the folder is not visible from here."""
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
    return f"it has no arena in {path} (yet): its log may say why"


async def _sweep(folder: Path) -> None:
    try:
        count = await asyncio.to_thread(_reap, folder)
    except OSError as error:
        _log.warning("cannot remove what ended instances left in %s: %s", folder, error)
        return
    except Exception:  # noqa: BLE001 - what is left there costs memory, not the service
        _log.exception("cannot remove what ended instances left in %s: internal error", folder)
        return
    if count:
        _log.info("removed %d files that ended instances left in %s", count, folder)


def _reap(folder: Path) -> int:
    # No instance is left that could load these hand-overs, whatever their age.
    return Folder(folder).reap(ttl_s=math.inf, grace_s=-1.0) if folder.exists() else 0
