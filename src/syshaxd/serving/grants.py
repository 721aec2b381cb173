# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Gets slots for requests, and carries out what admission decides: grants, refusals, moves, records of decisions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from syshaxd.core.errors import NotFoundError, UnavailableError
from syshaxd.core.events import EventKind
from syshaxd.core.placement.admission import Admission
from syshaxd.core.placement.claims import Claim, Decided, Effect, Fleet, Granted, HelpSwitched, MoveStream, Refused
from syshaxd.core.placement.slots import Grant
from syshaxd.instances.on_demand import OnDemandModels
from syshaxd.serving.in_flight import RequestBook
from syshaxd.system.events import EventLog

_log = logging.getLogger(__name__)


class Grants:
    """Hands grants and refusals to the requests that wait for them. Lives in one event loop."""

    def __init__(
        self,
        admission: Admission,
        fleet: Callable[[], Fleet],
        *,
        requests: RequestBook,
        events: EventLog,
        look_up: Callable[[], Awaitable[bool]],
        max_queue_wait_s: float,
        on_demand: OnDemandModels | None,
    ) -> None:
        """No request waits yet.

        Args:
            admission: Decides.
            fleet: The instances now.
            requests: Gets the records of decisions.
            events: Gets the switches of help by CPUs.
            look_up: Asks the instances for models that are not known; returns whether it learned of any.
            max_queue_wait_s: Seconds that a request may wait.
            on_demand: Starts models for requests that wait.
        """
        self.max_queue_wait_s = max_queue_wait_s
        """May be changed at any time; a request that waits already keeps its time limit."""
        self._admission = admission
        self._fleet = fleet
        self._requests = requests
        self._events = events
        self._look_up = look_up
        self._on_demand = on_demand
        self._waiting: dict[Claim, asyncio.Future[Grant]] = {}
        self._loop = asyncio.get_running_loop()

    async def get(self, claim: Claim) -> Grant:
        """Returns when the claim is granted. Raises the error with which it is refused."""
        while True:
            try:
                return await self._granted(claim)
            except NotFoundError as error:
                # An instance may have loaded an adapter since discovery asked it.
                if error.code != "model_not_found" or not await self._look_up():
                    raise

    async def _granted(self, claim: Claim) -> Grant:
        granted: asyncio.Future[Grant] = self._loop.create_future()
        self._waiting[claim] = granted
        try:
            self.carry_out(self._admission.arrive(claim, self._fleet()))
            if not granted.done():
                self.poke_on_demand()
                async with asyncio.timeout(self._longest_wait_s(claim)):
                    await granted
            return granted.result()
        except BaseException as error:
            self._admission.give_up(claim)
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                granted.result().release()  # granted at the moment it gave up
            if isinstance(error, TimeoutError):
                raise self._timed_out(claim) from None
            raise
        finally:
            del self._waiting[claim]
            self.poke_on_demand()
            del granted  # what it raises refers to this frame: a cycle, which would keep the request's body

    def _longest_wait_s(self, claim: Claim) -> float:
        wait_s = None if self._on_demand is None else self._on_demand.wait_s(claim.queue)
        return self.max_queue_wait_s if wait_s is None else wait_s

    def _timed_out(self, claim: Claim) -> UnavailableError:
        wait_s = self._longest_wait_s(claim)
        error = self._admission.timed_out(claim, self._fleet(), wait_s)
        if self._on_demand is None or not (where := self._on_demand.explain(claim.queue)):
            return error
        text = f"{error}; the model {claim.queue} is on-demand: {where}; see `syshaxctl status`"
        return UnavailableError(text, retry_after_s=error.retry_after_s)

    def poke_on_demand(self) -> None:
        """Makes the models that are started on demand be decided again."""
        if self._on_demand is not None:
            self._on_demand.poke()

    def refuse_waiting(self, model: str, text: str, retry_after_s: float) -> None:
        """Refuses the requests that wait for a model."""
        claims = self._admission.waiting(model).claims()
        self.carry_out([Refused(claim, UnavailableError(text, retry_after_s=retry_after_s)) for claim in claims])

    def readmit(self) -> None:
        """Decides again on what waits, as slots may have come free."""
        if self._admission.entries:
            self.carry_out(self._admission.admit(self._fleet()))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Carries out effects in their order."""
        for effect in effects:
            match effect:
                case Granted():
                    granted = self._waiting.get(effect.claim)
                    if granted is None or granted.done():
                        effect.grant.release()
                    else:
                        granted.set_result(effect.grant)
                case Refused():
                    granted = self._waiting.get(effect.claim)
                    if granted is not None and not granted.done():
                        granted.set_exception(effect.error)
                case MoveStream():
                    if effect.claim.stream is None:
                        effect.slot.release()
                    else:
                        effect.claim.stream.move(effect.slot, effect.cause)
                case Decided():
                    self._requests.decisions.append(effect)
                case HelpSwitched():
                    self._events.add(EventKind.OFFLOAD, effect.text)
                    _log.log(logging.INFO if effect.on else logging.WARNING, "%s", effect.text)
