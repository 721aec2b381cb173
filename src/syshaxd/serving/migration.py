# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where answers that have begun go on: after a failure, when an instance stops, and when loads change."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from syshaxd.core.errors import SyshaxError, UnavailableError
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.scheduler import Move, Scheduler
from syshaxd.core.types import InstanceSpec
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.admission import Admission
from syshaxd.serving.handover import Handover
from syshaxd.serving.slots import Slot

_log = logging.getLogger(__name__)


class Moving:
    """Finds slots for the rest of answers. Lives in one event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        admission: Admission,
        registry: InstanceRegistry,
        handover: Handover,
    ) -> None:
        """Moves nothing by itself.

        Args:
            scheduler: Says which streams should move.
            admission: Has the slots.
            registry: Who is READY.
            handover: Has the streams that can move.
        """
        self._scheduler = scheduler
        self._admission = admission
        self._registry = registry
        self._handover = handover
        self._loop = asyncio.get_running_loop()

    async def another(self, request: InferenceRequest, failed: str) -> Slot:
        """Takes a slot for the rest of an answer whose instance has failed, before all that has not begun yet.

        Raises:
            SyshaxError: No instance can go on, nor has one become ready in the time that a request may wait.
        """
        rest = replace(_begun(request), offload=False)
        tried: tuple[str, ...] = (failed,)
        deadline_s = self._loop.time() + self._admission.max_queue_wait_s
        while True:
            try:
                grant = self._admission.at_once(rest, tried, first=True) or await self._admission.wait(
                    rest, tried, first=True
                )
            except UnavailableError as error:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline_s):
                        await self._registry.changed()
                    tried = ()
                    continue
                raise error from None
            return grant.slots[-1]

    def again(self, request: InferenceRequest, present: Slot) -> Slot | None:
        """Decides again where an answer goes on of which an instance has made a part; takes a slot there.

        Returns:
            None: it goes on where it is.
        """
        if request.offload:
            return None  # the client wants it there
        return self._admission.elsewhere(_begun(request), present)

    def take_turn(self, request: InferenceRequest, gpu: InstanceSpec) -> bool:
        """It is the turn of an answer that the CPU has begun; it takes a slot on the GPU and goes on there.

        Returns:
            False: it can't move right now.
        """
        journey = self._handover.journey_of(request)
        if journey is not None and journey.spec == gpu:
            return True  # for another reason it is there already
        if journey is None or journey.spec is None or not journey.may_move:
            return False
        if (journey.spec.name, gpu.name) not in self._handover.pairs:
            return False  # it was started again meanwhile
        slot = self._admission.reserve(gpu)
        return slot is not None and journey.move(slot, Cause.ROOM)

    def leave(self, name: str) -> None:
        """The instance is to stop: its streams go on wherever one can hand over to."""
        for target in self._handover.targets_of(name):
            self._move(Move(name, target, Cause.DRAIN, self._admission.inflight.get(name, 0)))

    def follow(self, snapshot: Snapshot) -> None:
        """New readings have come: streams go on where they are better off."""
        if self._admission.queued:
            return
        inflight, ready = self._admission.inflight, self._registry.ready
        for move in self._scheduler.moves(snapshot, inflight, ready, self._handover.pairs):
            self._move(move)

    def _move(self, move: Move) -> None:
        target = next((spec for spec in self._registry.ready if spec.name == move.target), None)
        if target is None:
            return
        for journey, request in self._handover.journeys_on(move.source, move.cause)[: move.count]:
            slot = self._admission.reserve(target)
            if slot is None:
                return
            if journey.move(slot, move.cause) and move.cause is Cause.PRESSURE:
                # As the GPU would have thrown it out of its batch, but for a while only.
                self._admission.keep_turn(request, move.source)


class JourneySlots:
    """Where one request's answer can go on (the journey's `SlotSource`)."""

    def __init__(
        self, moving: Moving, request: InferenceRequest, check: Callable[[str, SyshaxError, bool], None]
    ) -> None:
        """`check` counts a failure, and raises SyshaxError if the request must not be tried elsewhere."""
        self._moving = moving
        self._request = request
        self._check = check

    async def another(self, failed: str, error: SyshaxError, *, begun: bool) -> Slot:
        """See Moving.another."""
        self._check(failed, error, begun)
        _log.warning(
            "request %s: instance %s: %s; its answer goes on elsewhere", self._request.request_id, failed, error
        )
        return await self._moving.another(self._request, failed)

    def again(self, present: Slot) -> Slot | None:
        """See Moving.again."""
        return self._moving.again(self._request, present)


def _begun(request: InferenceRequest) -> InferenceRequest:
    return replace(request, whole_because="it has begun already", movable=False)
