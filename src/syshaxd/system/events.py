# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Bounded histories to watch: the latest events and decisions."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

from syshaxd.core.events import Event, EventKind
from syshaxd.core.secrets import safe_text

_EVENTS = 1000
# A watcher that falls this far behind loses the oldest entries, so that slow readers cannot fill the memory.
_MAX_BEHIND = 1000

T = TypeVar("T")


class History(Generic[T]):
    """The latest entries and their watchers. Lives in one event loop."""

    def __init__(self, size: int) -> None:
        self._entries: deque[T] = deque(maxlen=size)
        self._watchers: list[tuple[deque[T], asyncio.Event, Callable[[T], bool]]] = []

    def append(self, entry: T) -> None:
        """Adds an entry; cheap while there is no watcher."""
        self._entries.append(entry)
        for unread, news, wanted in self._watchers:
            if wanted(entry):
                unread.append(entry)
                news.set()

    def latest(self, count: int | None = None, *, wanted: Callable[[T], bool] = lambda entry: True) -> list[T]:
        """The last `count` wanted entries (None: all), oldest first."""
        entries = [entry for entry in self._entries if wanted(entry)]
        return entries if count is None else entries[max(0, len(entries) - count) :]

    async def watch(
        self, last: int = 0, *, follow: bool = True, wanted: Callable[[T], bool] = lambda entry: True
    ) -> AsyncGenerator[T, None]:
        """Yields the last wanted entries, oldest first; with `follow` then each new one until the caller closes it."""
        older = self.latest(last, wanted=wanted)
        unread, news = deque(older, maxlen=max(len(older), _MAX_BEHIND)), asyncio.Event()
        watcher = (unread, news, wanted)
        if follow:
            self._watchers.append(watcher)
        try:
            while True:
                while unread:
                    yield unread.popleft()
                if not follow:
                    return
                news.clear()
                await news.wait()
        finally:
            self._watchers = [other for other in self._watchers if other is not watcher]


class EventLog(History[Event]):
    """The latest events."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix time."""
        super().__init__(_EVENTS)
        self._clock = clock

    def add(self, kind: EventKind, text: str, *, instance: str = "", **fields: str) -> None:
        """Records an event."""
        self.append(Event(at_s=self._clock(), kind=kind, text=safe_text(text), instance=instance, fields=fields))
