# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Slots: the right to run a request on an instance. An instance runs as many requests as it has taken slots."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.decision import Placement
from syshaxd.core.types import InstanceSpec


class Taken(NamedTuple):
    """The slots at one moment, by instance. An instance may be missing: it has none."""

    counts: Mapping[str, int]
    """Slots that are taken."""
    ended: Mapping[str, int]
    """Slots released since the instance's last reading, which does not know of it yet."""
    kv_tokens: Mapping[str, float]
    """Sum of Slot.kv_tokens."""


class Slot:
    """The right to run one request on one instance, until it is released."""

    __slots__ = ("_slots", "kv_tokens", "spec")

    def __init__(self, slots: "Slots", spec: InstanceSpec, kv_tokens: float) -> None:
        """Only `Slots.take` makes one."""
        self._slots = slots
        self.kv_tokens = kv_tokens
        """KV-cache tokens that its request was expected to have on average."""
        self.spec = spec
        """The instance, as it was configured when the slot was taken."""

    def release(self) -> None:
        """Gives the slot back. A second call does nothing."""
        self._slots.give_back(self)


class Slots:
    """All slots that are taken."""

    def __init__(self) -> None:
        self._taken: dict[str, set[Slot]] = {}
        self._subscribers: list[Callable[[str], None]] = []
        self._counts: dict[str, int] = {}
        self._kv_tokens: dict[str, float] = {}
        self._ended: dict[str, int] = {}
        self._read_at_s: dict[str, float] = {}
        self._latest: Taken | None = None

    def latest(self) -> Taken:
        """The slots at this moment. Later changes do not show in it."""
        if self._latest is None:
            self._latest = Taken(dict(self._counts), dict(self._ended), dict(self._kv_tokens))
        return self._latest

    @property
    def counts(self) -> Mapping[str, int]:
        """Slots taken by instance; an instance that never had one is missing."""
        return self._counts

    @property
    def any_taken(self) -> bool:
        """Whether any slot is taken."""
        return any(self._counts.values())

    def count(self, name: str) -> int:
        """Slots taken on an instance."""
        return self._counts.get(name, 0)

    def subscribe(self, on_release: Callable[[str], None]) -> None:
        """Calls `on_release` with the instance's name after each release from now on."""
        self._subscribers.append(on_release)

    def observe_loads(self, snapshot: Snapshot) -> None:
        """Restarts the count of `Taken.ended` for each instance that has a new reading."""
        for name, load in snapshot.instances.items():
            if load.read_at_s != self._read_at_s.get(name):
                self._read_at_s[name] = load.read_at_s
                self._ended.pop(name, None)
                self._latest = None

    def take(self, spec: InstanceSpec, kv_tokens: float = 0.0) -> Slot:
        """Takes a slot, whether or not the instance has room."""
        slot = Slot(self, spec, kv_tokens)
        self._latest = None
        self._taken.setdefault(spec.name, set()).add(slot)
        self._counts[spec.name] = len(self._taken[spec.name])
        self._kv_tokens[spec.name] = self._kv_tokens.get(spec.name, 0.0) + kv_tokens
        return slot

    def give_back(self, slot: Slot) -> None:
        """Releases a slot: see `Slot.release`."""
        name = slot.spec.name
        taken = self._taken.get(name, set())
        if slot not in taken:
            return
        taken.remove(slot)
        self._latest = None
        self._counts[name] = len(taken)
        self._kv_tokens[name] = self._kv_tokens[name] - slot.kv_tokens if taken else 0.0
        self._ended[name] = self._ended.get(name, 0) + 1
        for on_release in self._subscribers:
            on_release(name)


class Grant:
    """What admission gave to a request: a placement, and a slot on each of its instances.

    A context manager: at its end everything that the request still holds is released, whatever happened. Slots that
    the request takes later, when its answer moves, are added to it.
    """

    def __init__(self, placement: Placement, slots: tuple[Slot, ...], *, released: Callable[[], None]) -> None:
        """Holds slots that have been taken.

        Args:
            placement: Where the request runs.
            slots: One for each of the placement's instances, in its order.
            released: Called once, before the slots are released.
        """
        self.placement = placement
        self._slots = list(slots)
        self._released: Callable[[], None] | None = released

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The placement's slots, in its order, then the added ones."""
        return tuple(self._slots)

    def add(self, slot: Slot) -> None:
        """Holds one more slot. If the grant has ended, it releases the slot at once."""
        if self._released is None:
            slot.release()
        else:
            self._slots.append(slot)

    def release(self) -> None:
        """Releases every slot. A second call does nothing."""
        released, self._released = self._released, None
        if released is None:
            return
        released()
        for slot in self._slots:
            slot.release()

    def take_over(self, other: "Grant") -> None:
        """Takes the slots of another grant, and ends that."""
        for slot in other._slots:
            self.add(slot)
        other._slots.clear()
        other.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
