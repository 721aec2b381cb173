# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The saving engine's records: which hand-overs use which extents of its arenas, and until when."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .extents import Extent, Extents
from .folder import Folder, FolderError
from .header import Header, Model, Part
from .layout import Shape
from .settings import Settings


class RefusedError(Exception):
    """There will be no hand-over; `reason` is one word for metrics, the message is for logs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Entry:
    extent: Extent
    published_at: float | None = None
    """Monotonic."""


class Producer:
    """Reserves, publishes and reclaims. Used by the engine's thread and the sweeper's."""

    def __init__(
        self,
        folder: Folder,
        settings: Settings,
        *,
        owner: str,
        model: Model,
        shape: Shape,
        ranks: int,
        unit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts empty.

        Args:
            folder: Where to publish.
            settings: The engine's.
            owner: The engine's name.
            model: What the KV cache is of.
            shape: Of the model's KV cache.
            ranks: Tensor-parallel size; each rank's arena has the same extents taken.
            unit: Tokens that are saved together: a CPU saves whole blocks.
            clock: Monotonic seconds.
        """
        self._folder = folder
        self._settings = settings
        self._owner = owner
        self._model = model
        self._shape = shape
        self._ranks = ranks
        self._unit = unit
        self._clock = clock
        self._lock = threading.Lock()
        self._extents = Extents(settings.arena_bytes)
        self._entries: dict[str, _Entry] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes taken in each rank's arena. One number, which is read whole without the lock."""
        return self._extents.used_bytes

    def reserve(self, key: str, tokens: int) -> Extent:
        """Takes room for a hand-over.

        Raises:
            RefusedError: No room even after dropping what waits longest, no arena, or a key that is in use.
        """
        size = self._size(tokens)
        with self._lock:
            try:
                self._folder.check()
            except FolderError as error:
                raise RefusedError("arena", str(error)) from error
            if key in self._entries or self._folder.exists(key):
                raise RefusedError("key", f"the key {key} is in use: each hand-over needs a new one")
            if size > self._extents.most_bytes:
                raise RefusedError("budget", f"{size} bytes are needed, arena_bytes is {self._settings.arena_bytes}")
            for rank in range(self._ranks):
                if not (path := self._folder.arena_path(self._owner, rank)).exists():
                    raise RefusedError("arena", f"{path}: not there; it is being made, or there is no room for it")
            extent = self._extents.take(size)
            if extent is None:
                self._collect()
                extent = self._extents.take(size) or self._evict(size)
            if extent is None:
                raise RefusedError(
                    "budget", f"{size} bytes are needed, {self.used_bytes} of {self._settings.arena_bytes} are taken"
                )
            self._entries[key] = _Entry(extent)
            return extent

    def publish(self, key: str, token_ids: Sequence[int], parts: Sequence[Part]) -> None:
        """Makes a hand-over visible whose bytes are all there.

        Raises:
            OSError: No room for its file; its extent is free again.
        """
        with self._lock:
            entry = self._entries[key]
            size = self._size(len(token_ids))
            header = Header(
                key=key,
                owner=self._owner,
                model=self._model,
                parts=tuple(parts),
                offset=entry.extent.offset,
                size=size,
                created_at=time.time(),
                token_ids=tuple(token_ids),
            )
            try:
                self._folder.publish(header)
            except OSError:
                self._forget(key)
                raise
            entry.published_at = self._clock()

    def drop(self, key: str) -> None:
        """Frees the room of a hand-over that could not be saved."""
        with self._lock:
            self._forget(key)

    def sweep(self) -> int:
        """Frees loaded hand-overs, and those unclaimed for too long; returns the number of the latter."""
        with self._lock:
            self._collect()
            expired = [key for key, age_s in self._published() if age_s > self._settings.ttl_s]
            return sum(self._take_back(key) for key in expired)

    def close(self) -> None:
        """Reclaims all hand-overs that are not being loaded."""
        with self._lock:
            for key, _ in self._published():
                self._take_back(key)

    def _size(self, tokens: int) -> int:
        """Bytes in each rank's arena."""
        return self._shape.rank_bytes(-(-tokens // self._unit) * self._unit, self._ranks)

    def _published(self) -> list[tuple[str, float]]:
        """Keys and ages of what is visible, the oldest first."""
        now = self._clock()
        ages = [
            (key, now - entry.published_at) for key, entry in self._entries.items() if entry.published_at is not None
        ]
        return sorted(ages, key=lambda pair: -pair[1])

    def _collect(self) -> None:
        for key, _ in self._published():
            if not self._folder.exists(key):
                self._forget(key)

    def _evict(self, size: int) -> Extent | None:
        """Drops unclaimed hand-overs, the oldest first, until there is room."""
        for key, age_s in self._published():
            # A young one is probably about to be loaded.
            if age_s > self._settings.wait_s and self._take_back(key) and (extent := self._extents.take(size)):
                return extent
        return None

    def _take_back(self, key: str) -> bool:
        if not self._folder.take_back(key):
            return False
        self._forget(key)
        return True

    def _forget(self, key: str) -> None:
        self._extents.give_back(self._entries.pop(key).extent)
