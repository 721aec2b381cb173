# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Clients of one Admission: they carry out its effects, as the Engine does, and hold what they are granted."""

import itertools
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from syshaxd.core.errors import SyshaxError
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.admission import Admission
from syshaxd.core.placement.claims import Claim, Decided, Effect, Fleet, Granted, MoveStream, Refused
from syshaxd.core.placement.decision import InferenceRequest, Placement
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.types import InstanceSpec


@dataclass(eq=False)
class Client:
    """A request and the slots that it holds. It is its own stream (a `MovableStream`)."""

    number: int
    bench: "Clients"
    claim: Claim
    grant: Grant | None = None
    slots: tuple[Slot, ...] = ()
    leaving: list[Slot] = field(default_factory=list)
    """Slots that it releases when `Clients.settle` is called."""
    causes: tuple[Cause, ...] = ()
    """Of the moves of its stream."""
    refused: SyshaxError | None = None
    may_return: bool = True

    @property
    def placement(self) -> Placement | None:
        return None if self.grant is None else self.grant.placement

    @property
    def held(self) -> tuple[str, ...]:
        """Instances on which it holds a slot."""
        return tuple(slot.spec.name for slot in self.slots)

    @property
    def waits(self) -> bool:
        return self.grant is None and self.refused is None

    # MovableStream.

    @property
    def spec(self) -> InstanceSpec | None:
        return self.slots[-1].spec if self.slots else None

    @property
    def tokens(self) -> int:
        return self.number

    @property
    def may_move(self) -> bool:
        return self.bench.can_move and len(self.slots) == 1 and self.claim.request.movable

    def move(self, target: Slot, cause: Cause) -> bool:
        """Holds both slots; the source's is released a little later."""
        assert self.may_move
        assert self.grant is not None
        assert target.spec is not self.spec
        self.bench.on_move(self, target, cause)
        self.leaving.append(self.slots[-1])
        self.grant.add(target)
        self.slots += (target,)
        self.causes += (cause,)
        return True


class Clients:
    """All clients. Subclasses check what they are granted."""

    prefills_end_at_once = False
    """Whether the slot of a prefill is released when `settle` is called next."""

    def __init__(
        self,
        specs: Sequence[InstanceSpec],
        *,
        policy: str | Policy,
        snapshot: Snapshot | None = None,
        max_queue_size: int = 1000,
    ) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.ready = tuple(specs)
        self.snapshot = snapshot or Snapshot()
        self.can_move = True
        self.clients: list[Client] = []
        self.decided: list[Decided] = []
        self.overtaken: list[int] = []
        """Numbers of requests that were overtaken, for subclasses."""
        policy = Policy(name=policy) if isinstance(policy, str) else policy
        self.admission = Admission(policy, max_queue_size=max_queue_size)
        self.admission.on_release(lambda _: self.admit())
        self.numbers = itertools.count()

    # The fleet.

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.specs, self.ready, self.candidates, self.pairs, self.snapshot, at_s=0.0)

    @property
    def pairs(self) -> Set[tuple[str, str]]:
        pairs = itertools.permutations(self.specs.values(), 2)
        return {(one.name, other.name) for one, other in pairs if one.served_model == other.served_model}

    def candidates(self, request: InferenceRequest, tried: Sequence[str]) -> tuple[InstanceSpec, ...]:
        return tuple(spec for spec in self.ready if request.pinned in {None, spec.name} and spec.name not in tried)

    # Effects.

    def carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Granted():
                    client = self._client(effect.claim)
                    assert client.waits
                    client.grant, client.slots = effect.grant, effect.grant.slots
                    client.claim.stream = client
                    if self.prefills_end_at_once:
                        client.leaving = list(client.slots[:-1])
                    self.on_grant(client)
                case Refused():
                    self._client(effect.claim).refused = effect.error
                case Decided():
                    self.decided.append(effect)
                case MoveStream():
                    client = self._client(effect.claim)
                    assert client.move(effect.slot, effect.cause)

    def on_grant(self, client: Client) -> None:
        """A client has got its slots."""

    def on_move(self, client: Client, target: Slot, cause: Cause) -> None:
        """A client's stream is about to move."""

    def _client(self, claim: Claim) -> Client:
        return next(client for client in self.clients if client.claim is claim)

    def settle(self) -> None:
        """Streams that move have left their source."""
        while leaving := [client for client in self.clients if client.leaving]:
            self.release(leaving[0], leaving[0].leaving.pop(0))

    def release(self, client: Client, slot: Slot) -> None:
        client.slots = tuple(other for other in client.slots if other is not slot)
        slot.release()
        slot.release()  # a second call changes nothing

    # Events.

    def ask(self, claim: Claim) -> Client:
        """A request arrives."""
        client = Client(next(self.numbers), self, claim)
        self.clients.append(client)
        self.carry_out(self.admission.arrive(claim, self.fleet))
        self.settle()
        return client

    def end(self, client: Client) -> None:
        """A request ends, or gives up."""
        client.slots, client.leaving = (), []
        self.clients.remove(client)
        if client.grant is None:
            self.admission.give_up(client.claim)
        else:
            client.grant.release()
        self.settle()

    def admit(self) -> None:
        self.carry_out(self.admission.admit(self.fleet))

    def read(self, snapshot: Snapshot, draining: Sequence[str] = ()) -> None:
        """New readings come."""
        self.snapshot = snapshot
        self.carry_out(self.admission.observe_loads(self.fleet))
        self.settle()
        self.migrate(draining)
        self.settle()

    def migrate(self, draining: Sequence[str]) -> None:
        self.carry_out(self.admission.migrate(self.fleet, draining))

    def waiting(self) -> list[Client]:
        return [client for client in self.clients if client.waits]

    def end_all(self) -> None:
        """Ends one request after another; each gets its slot, as long as others end."""
        while self.clients:
            client = next((client for client in self.clients if client.held or client.refused), None)
            assert client is not None, "all wait, and none holds a slot"
            self.end(client)
        assert self.admission.is_quiet
        assert not self.admission.entries
        assert not any(self.admission.inflight.values())
