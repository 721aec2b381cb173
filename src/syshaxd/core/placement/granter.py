# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Decides on one claim, and grants or refuses it."""

from collections.abc import Set
from functools import partial

from syshaxd.core.errors import NotFoundError, UnavailableError
from syshaxd.core.placement.claims import Claim, Decided, Effect, Fleet, Granted, Refused
from syshaxd.core.placement.decision import Decision, Offload, Placement, Reject, RunOn, Wait
from syshaxd.core.placement.placer import Placer
from syshaxd.core.placement.queue import Queues
from syshaxd.core.placement.rules import View
from syshaxd.core.placement.slots import Grant
from syshaxd.core.types import Role

_STARTS = Wait(("its model is started on demand",))


class Granter:
    """Turns the placer's decisions into effects. In which order claims are decided is the admission's business."""

    def __init__(self, placer: Placer, queues: Queues, running: dict[Claim, None]) -> None:
        """Grants nothing yet.

        Args:
            placer: Decides, and has the slots.
            queues: Lose the position of a claim whose grant is released.
            running: Gets the claims that are granted, and loses those whose grants are released.
        """
        self._placer = placer
        self._queues = queues
        self._running = running

    def settle(
        self,
        claim: Claim,
        fleet: Fleet,
        effects: list[Effect],
        *,
        queued: int = 0,
        only: Role | None = None,
        without: Set[str] = frozenset(),
        arrives: bool = False,
    ) -> Decision | None:
        """Decides on a claim, and grants or refuses it unless it has to wait; None: no instance serves it.

        Args:
            claim: The claim.
            fleet: The instances.
            effects: Gets the effects.
            queued: Requests that get the GPU before it.
            only: The role of the instance that it may take; any, if None.
            without: Instances that it may not take: requests ahead of it insist on them.
            arrives: It is new, so the history records that it has to wait.
        """
        try:
            candidates = fleet.candidates(claim.request, claim.tried)
        except NotFoundError as error:
            # Its traceback refers to `effects`: a cycle, which would keep the request.
            effects.append(Refused(claim, error.with_traceback(None)))
            return None
        if without and candidates and not (candidates := [spec for spec in candidates if spec.name not in without]):
            return Wait()
        was_held_out = claim.held_out
        view = self._placer.view(fleet, candidates, claim.request, queued=queued)
        decision = self._placer.decide_or_hold_out(claim, view, fleet.now_s)
        if isinstance(decision, Reject) and not candidates and fleet.waited_for(claim.request, claim.tried):
            decision = _STARTS
        if isinstance(decision, RunOn | Offload):
            if only is not None and fleet.specs[decision.places[-1]].role is not only:
                return Wait(cpu_has_room=True)
            effects.append(self.decided(claim, decision, view, fleet))
            effects.append(self.grant(claim, decision, view, fleet))
        elif isinstance(decision, Wait):
            if arrives or claim.held_out is not was_held_out:
                effects.append(self.decided(claim, decision, view, fleet))
        elif only is not None:
            return Wait(cpu_has_room=True)
        else:
            effects.append(self.decided(claim, decision, view, fleet))
            effects.append(Refused(claim, UnavailableError(decision.reason, retry_after_s=decision.retry_after_s)))
        return decision

    def refuse_late(self, claim: Claim, ahead: int, fleet: Fleet) -> list[Effect]:
        """Refuses a claim that has just come if its class wants that and its target can't be met; else nothing."""
        if claim.first or not self._placer.policy.target(claim.request).refuse:
            return []
        try:
            candidates = fleet.candidates(claim.request, claim.tried)
        except NotFoundError:
            return []  # the decision refuses it
        view = self._placer.view(fleet, candidates, claim.request, queued=ahead)
        error = self._placer.late(claim, view)
        if error is None:
            return []
        decision = Reject(str(error), error.retry_after_s)
        return [self.decided(claim, decision, view, fleet), Refused(claim, error)]

    def decided(self, claim: Claim, decision: Decision, view: View, fleet: Fleet) -> Decided:
        """The effect that records a decision."""
        entries = len(self._queues.of_instances(view.candidates))
        return Decided(fleet.at_s, claim.request, decision, view, entries)

    def grant(self, claim: Claim, placement: Placement, view: View, fleet: Fleet) -> Granted:
        """Takes the slots of a placement; returns the effect that hands them over."""
        slots = self._placer.take(claim.request, placement, view, fleet)
        self._running[claim] = None
        return Granted(claim, Grant(placement, slots, released=partial(self._forget, claim)))

    def _forget(self, claim: Claim) -> None:
        """The request has ended; its position may still be in the queue."""
        self._running.pop(claim, None)
        self._queues.get(claim.queue).remove_return(claim)
        if claim.member is not None:
            claim.member.over = True
