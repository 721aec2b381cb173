# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The queue for the GPU: requests in the order of arrival, batch behind interactive ones."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

MOST_OVERTAKEN = 256
"""A batch request is overtaken by at most so many interactive ones that arrived later."""


class Entry(Protocol):
    """What waits."""

    @property
    def is_batch(self) -> bool:
        """Whether it goes behind interactive ones."""


_Entry = TypeVar("_Entry", bound=Entry)


class WaitingQueue(Generic[_Entry]):
    """Entries by position: 0 comes next.

    No batch entry starves: once `most_overtaken` entries that arrived later are before it, it keeps its position. So
    what arrives with `n` entries in the queue waits for at most `n + most_overtaken` of them.
    """

    def __init__(self, most_overtaken: int = MOST_OVERTAKEN) -> None:
        """Begins empty."""
        self._most_overtaken = most_overtaken
        self._settled: deque[_Entry] = deque()
        self._batch: deque[tuple[int, _Entry]] = deque()
        """With the value of `_overtaking` at their arrival."""
        self._overtaking = 0

    def __len__(self) -> int:
        return len(self._settled) + len(self._batch)

    def __iter__(self) -> Iterator[_Entry]:
        yield from self._settled
        for _, entry in self._batch:
            yield entry

    def __getitem__(self, position: int) -> _Entry:
        settled = len(self._settled)
        return self._settled[position] if position < settled else self._batch[position - settled][1]

    def __setitem__(self, position: int, entry: _Entry) -> None:
        settled = len(self._settled)
        if position < settled:
            self._settled[position] = entry
        else:
            self._batch[position - settled] = self._batch[position - settled][0], entry

    def __delitem__(self, position: int) -> None:
        settled = len(self._settled)
        if position < settled:
            del self._settled[position]
        else:
            del self._batch[position - settled]

    def ahead_of(self, *, batch: bool) -> int:
        """Entries that come before one that arrives now."""
        return len(self) if batch else len(self._settled)

    def append(self, entry: _Entry) -> None:
        """Adds an entry that has arrived."""
        if entry.is_batch:
            self._batch.append((self._overtaking, entry))
            return
        self._overtaking += 1
        while self._batch and self._overtaking - self._batch[0][0] > self._most_overtaken:
            self._settled.append(self._batch.popleft()[1])
        self._settled.append(entry)

    def appendleft(self, entry: _Entry) -> None:
        """Adds an entry that goes before all others."""
        self._settled.appendleft(entry)

    def remove(self, entry: _Entry) -> bool:
        """Removes an entry; false: it is not in the queue."""
        position = next((position for position, other in enumerate(self) if other is entry), None)
        if position is not None:
            del self[position]
        return position is not None
