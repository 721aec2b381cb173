# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The arenas mapped by one rank: its own, and those from which it has loaded.

Two threads use them. The engine's takes an arena for each copy and gives it back when the copy has ended; the keeper's
makes the own one, and lets go of those that were removed. What takes long (making, registering) is done without the
lock, so that the engine never waits for it; what is in use is never let go.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import arena
from .arena import Arena, ArenaError
from .folder import Folder

_logger = logging.getLogger(f"vllm.{__name__}")


class Arenas:
    """One rank's."""

    def __init__(
        self,
        folder: Folder,
        own: Path | None,
        size: int,
        *,
        pin: Callable[[Arena], None],
        unpin: Callable[[Arena], None],
    ) -> None:
        """Makes none yet: `keep` does.

        Args:
            folder: Where they are.
            own: This rank's; None: it saves nothing.
            size: Of the own one, in bytes.
            pin: Registers an arena's memory with the device.
            unpin: Undoes that.
        """
        self._folder = folder
        self._path = own
        self._size = size
        self._pin = pin
        self._unpin = unpin
        self._lock = threading.Lock()
        """Protects the three below."""
        self._own: Arena | None = None
        self._attached: dict[str, Arena] = {}
        self._uses: dict[int, int] = {}
        """Running copies by the arena's `id()`."""

    def take_own(self) -> Arena:
        """Returns the own arena, which stays mapped until `give_back`.

        Raises:
            ArenaError: It is not there, or cut off.
        """
        with self._lock:
            if self._own is None:
                raise ArenaError("the arena does not exist yet")
            return self._take(self._own)

    def take(self, name: str, arena_id: str) -> tuple[Arena, bool]:
        """Returns another engine's arena, which stays mapped until `give_back`, and whether it is new here.

        Raises:
            OSError: It is gone, cut off, or another one, or the folder can't be used.
        """
        self._folder.check()
        with self._lock:
            found = self._attached.get(name)
            if is_new := found is None or found.id != arena_id:
                fresh = arena.attach(self._folder.path / name, arena_id)
                if found is not None:  # its file is gone, so that the keeper would have let go of it
                    self._attached[f"{name} {found.id}"] = found
                self._attached[name] = found = fresh
            return self._take(found), is_new

    def give_back(self, taken: Arena) -> None:
        """A copy has ended."""
        with self._lock:
            self._uses[id(taken)] -= 1
            if not self._uses[id(taken)]:
                del self._uses[id(taken)]

    def keep(self, *, pins: bool) -> None:
        """Unmaps removed arenas, to free their memory; creates the own one, and again if it was removed.

        Args:
            pins: Whether memory may be registered with the device now.

        Raises:
            OSError: No room for the own one, or the folder can't be used.
        """
        with self._lock:
            gone = {
                name: found
                for name, found in self._attached.items()
                if found.is_removed() and id(found) not in self._uses
            }
            for name in gone:
                del self._attached[name]
            lost = self._own if self._own and self._is_lost(self._own) and id(self._own) not in self._uses else None
            if lost is not None:
                self._own = None
            is_wanted = self._path is not None and self._own is None
        for found in gone.values():
            self._unpin(found)
            found.close()
        if lost is not None:
            self._unpin(lost)
            lost.give_up()
        self._folder.make()
        if is_wanted:
            self._make_own()
        if pins:
            self._ready()

    def close(self) -> None:
        """Removes the own one. No copy may be running."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.give_up()

    def _take(self, found: Arena) -> Arena:
        found.check()
        self._uses[id(found)] = self._uses.get(id(found), 0) + 1
        return found

    def _make_own(self) -> None:
        assert self._path is not None
        began = time.perf_counter()
        made = arena.create(self._path, self._size)
        _logger.info("%s: %d bytes made in %.1f s", self._path, self._size, time.perf_counter() - began)
        with self._lock:
            self._own = made

    def _ready(self) -> None:
        """The first copies did without. Only this thread lets go of arenas, so none vanishes meanwhile."""
        with self._lock:
            mapped = [*self._attached.values(), *([self._own] if self._own else ())]
        for found in mapped:
            if not found.is_ready:
                found.populate(write=False)
                self._pin(found)
                found.is_ready = True

    @staticmethod
    def _is_lost(own: Arena) -> bool:
        try:
            own.check()
        except ArenaError as error:
            _logger.warning("%s from outside; creating it again", error)
            return True
        return False
