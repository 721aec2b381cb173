# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The order of the requests that wait in one class: API keys take turns, one request each (fair queueing).

A request gets its turn when it arrives, and keeps it. The first request of a key joins the turn that is served now;
each further one gets the turn after the key's last. Within a turn the order is that of arrival. So the requests of one
key keep their order, and what arrives is overtaken by at most one request of each other key per turn before its own.
Without keys all requests are of one flow: the order is that of arrival.

What an operation costs depends on the number of keys with requests that wait, not on that of the requests.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from syshaxd.core.placement.claims import Claim

_position = attrgetter("position")


@dataclass(slots=True, eq=False)
class Entry:
    """A claim in a queue."""

    claim: Claim
    gpu: str = ""
    """Where its stream returns when its position comes up, as a CPU answers it meanwhile; empty: it waits."""
    overtaking: int | None = None
    """Of a batch request that interactive ones may overtake: how many had overtaken others when it came."""
    position: tuple[int, int] = (0, 0)
    """Its turn, and its number in the order of arrival."""


class Turns:
    """Entries of one class, in order."""

    def __init__(self) -> None:
        self._flows: dict[str, OrderedDict[Claim, Entry]] = {}  # by key; each in order, none empty
        self._newest = 0
        self._foremost = 0

    def __len__(self) -> int:
        return sum(map(len, self._flows.values()))

    def __iter__(self) -> Iterator[Entry]:
        return heapq.merge(*(flow.values() for flow in self._flows.values()), key=_position)

    def __reversed__(self) -> Iterator[Entry]:
        return heapq.merge(*(reversed(flow.values()) for flow in self._flows.values()), key=_position, reverse=True)

    @property
    def first(self) -> Entry | None:
        """The entry whose turn is next; None: there is none."""
        return min((next(iter(flow.values())) for flow in self._flows.values()), key=_position, default=None)

    @property
    def keys(self) -> set[str]:
        """Those with entries."""
        return set(self._flows)

    def count(self, key: str) -> int:
        """Entries of a key."""
        return len(self._flows.get(key, ()))

    def find(self, claim: Claim) -> Entry | None:
        """The entry of a claim; None: it has none."""
        return self._flows.get(claim.key, _NO_FLOW).get(claim)

    def ahead_of(self, key: str) -> int:
        """At most this many entries come before one of this key that arrives now; 0 only if none does."""
        if not self._flows:
            return 0
        turn = self._next_turn(key)
        heads = ((len(flow), next(iter(flow.values())).position[0]) for flow in self._flows.values())
        return sum(min(length, max(0, turn - head + 1)) for length, head in heads)

    def append(self, entry: Entry) -> None:
        """Adds an entry that has arrived."""
        self._newest += 1
        entry.position = self._next_turn(entry.claim.key), self._newest
        self._flows.setdefault(entry.claim.key, OrderedDict())[entry.claim] = entry

    def prepend(self, entry: Entry) -> None:
        """Adds an entry before all others."""
        first = self.first
        self._foremost -= 1
        entry.position = first.position[0] if first else 0, self._foremost
        self.put_back(entry)

    def put_back(self, entry: Entry) -> None:
        """Adds an entry that was the first, at its former position."""
        flow = self._flows.setdefault(entry.claim.key, OrderedDict())
        flow[entry.claim] = entry
        flow.move_to_end(entry.claim, last=False)

    def remove(self, claim: Claim) -> Entry | None:
        """Removes the entry of a claim, if it has one."""
        flow = self._flows.get(claim.key, _NO_FLOW)
        entry = flow.pop(claim, None)
        if entry is not None and not flow:
            del self._flows[claim.key]
        return entry

    def _next_turn(self, key: str) -> int:
        """That of an entry of this key which arrives now."""
        flow = self._flows.get(key)
        if flow is not None:
            return next(reversed(flow.values())).position[0] + 1
        first = self.first
        return first.position[0] if first else 0


_NO_FLOW: OrderedDict[Claim, Entry] = OrderedDict()
