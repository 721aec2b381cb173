# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Migration: which running streams move to another instance, and when."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from syshaxd.core.placement import scheduler
from syshaxd.core.placement.claims import Claim, Effect, Fleet, MoveStream
from syshaxd.core.placement.decision import RunOn
from syshaxd.core.placement.placer import Placer
from syshaxd.core.placement.queue import Queues
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Move
from syshaxd.core.placement.slots import Slot
from syshaxd.core.placement.turns import Entry
from syshaxd.core.types import InstanceSpec, Role


class Migration:
    """Decides which streams move, and takes their slots. What it decides is appended to the caller's effects."""

    def __init__(self, placer: Placer, queues: Queues, running: Mapping[Claim, None]) -> None:
        """Moves nothing yet.

        Args:
            placer: Takes the slots.
            queues: Get the positions of streams that left their GPU for a CPU.
            running: The claims that are granted, in the order of their grants.
        """
        self._placer = placer
        self._queues = queues
        self._running = running

    def drain(self, sources: Sequence[str], fleet: Fleet, effects: list[Effect]) -> None:
        """Moves streams off instances that are to stop: to a GPU first, then to the instance with most slots free."""
        inflight = self._placer.slots.counts

        def load(spec: InstanceSpec) -> tuple[bool, float]:
            return spec.role is Role.CPU, inflight.get(spec.name, 0) / spec.max_num_seqs

        for source in sources:
            targets = [spec for spec in fleet.ready if (source, spec.name) in fleet.pairs]
            for target in sorted(targets, key=load):
                self._move(Move(source, target.name, Cause.DRAIN, inflight.get(source, 0)), fleet, effects)

    def rebalance(self, fleet: Fleet, effects: list[Effect]) -> None:
        """Moves streams to where they are better off, by the latest readings."""
        models: dict[str, list[InstanceSpec]] = {}
        for spec in fleet.ready:
            models.setdefault(spec.served_model, []).append(spec)
        for model, ready in models.items():
            queue = self._queues.get(model)
            first = next(iter(queue), None)
            if queue.waiting and (first is None or first.gpu or first.claim.is_batch):
                continue
            view = self._placer.view(fleet, ready, queued=queue.before_batch if queue.waiting else 0)
            for move in scheduler.moves(replace(view, ended={})):  # by the readings alone
                self._move(move, fleet, effects)

    def gpus_for(self, entry: Entry, fleet: Fleet) -> list[InstanceSpec]:
        """The READY GPUs to which a stream may return: the one that it left, then others that can take it over."""
        claim, name = entry.claim, entry.gpu
        source = claim.stream.spec.name if claim.stream is not None and claim.stream.spec is not None else ""
        found = [
            spec
            for spec in fleet.ready
            if spec.name == name or (spec.role is Role.GPU and (source, spec.name) in fleet.pairs)
        ]
        return sorted(found, key=lambda spec: spec.name != name)

    def return_to(self, claim: Claim, gpu: InstanceSpec, fleet: Fleet, effects: list[Effect]) -> bool:
        """Returns a stream to a GPU that has a slot for it; false: it cannot move now."""
        stream = claim.stream
        if stream is not None and stream.spec == gpu:
            return True  # it moved there for another reason
        if stream is None or stream.spec is None or not stream.may_move or _moves(effects, claim):
            return False
        if (stream.spec.name, gpu.name) not in fleet.pairs:
            return False  # the GPU was started again meanwhile
        slot = self._placer.reserve(claim, gpu, fleet)
        if slot is not None:
            effects.append(MoveStream(claim, slot, Cause.ROOM))
        return slot is not None

    def next_part(self, claim: Claim, fleet: Fleet) -> Slot | None:
        """Takes the slot for the next part of a stream, after an instance has made its part.

        Returns:
            None: the same instance makes the next part.
        """
        if claim.stream is None or claim.stream.spec is None or not claim.stream.may_return:
            return None
        name = claim.stream.spec.name
        rest = Claim(claim.request.rest(), member=claim.member)
        view = self._placer.view(fleet, fleet.candidates(rest.request, ()), rest.request)
        own_slot_free = {**view.inflight, name: view.inflight.get(name, 0) - 1}
        queued = len(self._queues.of_instances(view.candidates))
        decision = self._placer.decide(rest, replace(view, inflight=own_slot_free, queued=queued))
        if not isinstance(decision, RunOn) or (name, decision.instance) not in fleet.pairs:
            return None
        return self._placer.slots.take(fleet.specs[decision.instance], view.request_kv_tokens)

    def _move(self, move: Move, fleet: Fleet, effects: list[Effect]) -> None:
        target = fleet.find_ready(move.target)
        if target is None:
            return
        running: Iterable[Claim] = self._running
        if move.cause is Cause.PRESSURE:  # a CPU helps
            running = [claim for claim in running if not (claim.held_out or self._placer.holdout.is_off)]
        for claim in movable(running, move):
            if _moves(effects, claim):
                continue
            slot = self._placer.reserve(claim, target, fleet)
            if slot is None:
                return
            effects.append(MoveStream(claim, slot, move.cause))
            if move.cause is Cause.PRESSURE and target.role is Role.CPU:
                # The GPU would have preempted it, but only for a while: it returns before all that wait.
                self._queues.of(claim, fleet).prepend(claim, move.source)
            elif move.cause is Cause.PRIORITY:
                self._queues.of(claim, fleet).append(claim, move.source)


def movable(claims: Iterable[Claim], move: Move) -> list[Claim]:
    """The claims whose streams migrate by a move: the longest first; off a full instance, batch before interactive."""
    able = [
        (claim.is_batch and move.cause is not Cause.ROOM, stream.tokens, claim)
        for claim in claims
        if (stream := claim.stream) is not None
        and stream.spec is not None
        and stream.spec.name == move.source
        and stream.may_move
        and (move.cause is not Cause.ROOM or stream.may_return)
        and (move.cause is not Cause.PRIORITY or claim.is_batch)
    ]
    return [claim for *_, claim in sorted(able, key=lambda found: (-found[0], -found[1]))][: move.count]


def _moves(effects: Sequence[Effect], claim: Claim) -> bool:
    """Whether the claim's stream is among those that move already."""
    return any(isinstance(effect, MoveStream) and effect.claim is claim for effect in effects)
