# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Remembers which instances an operator stopped: they stay stopped across restarts of the daemon."""

import asyncio
import logging
from collections.abc import Set
from pathlib import Path

from syshaxd.system import smallfile

_log = logging.getLogger(__name__)
_MODE = 0o600


class StoppedInstances:
    """A set of names, and a file that holds it for the next daemon. Lives in one event loop."""

    def __init__(self, path: Path | None = None, names: Set[str] = frozenset()) -> None:
        """Does no I/O.

        Args:
            path: The file; its folder need not exist. None: nothing is kept.
            names: What is in it.
        """
        self._path = path
        self._names = set(names)
        self._written = frozenset(names)
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, path: Path) -> "StoppedInstances":
        """What an earlier daemon has left. Blocks."""
        try:
            names = smallfile.read_json(path)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("it is not a list of names")
        except FileNotFoundError:
            names = []
        except (OSError, ValueError) as error:
            _log.warning("cannot read from %s which instances were stopped: %s; starting all", path, error)
            names = []
        return cls(path, frozenset(names))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Records that an operator stopped it."""
        self._names.add(name)
        self._write_soon()

    def discard(self, name: str) -> None:
        """Forgets it, as it was started."""
        self._names.discard(name)
        self._write_soon()

    async def close(self) -> None:
        """Returns when all is written."""
        if self._writing is not None:
            await self._writing

    def _write_soon(self) -> None:
        if self._path is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(self._path), name="stopped instances")

    async def _write(self, path: Path) -> None:
        while (names := frozenset(self._names)) != self._written:
            try:
                await asyncio.to_thread(smallfile.replace_json, path, sorted(names), synced=True, mode=_MODE)
            except OSError as error:
                _log.warning(
                    "which instances are stopped can't be written to %s: %s; after a restart of syshaxd those that are "
                    "noted there stay stopped: %s",
                    path,
                    error.strerror,
                    ", ".join(sorted(self._written)) or "none",
                )
                return
            self._written = names
