# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Carries out the effects that admission decides: grants, refusals, moves of streams, and records of decisions."""

import asyncio
import logging
from collections.abc import Sequence

from syshaxd.core.events import EventKind
from syshaxd.core.placement.claims import Claim, Decided, Effect, Granted, HelpSwitched, MoveStream, Refused
from syshaxd.core.placement.slots import Grant
from syshaxd.serving.in_flight import RequestBook
from syshaxd.system.events import EventLog

_log = logging.getLogger(__name__)


class EffectRunner:
    """Hands grants and refusals to the requests that wait for them. Lives in one event loop."""

    def __init__(self, requests: RequestBook, events: EventLog) -> None:
        self._requests = requests
        self._events = events
        self._waiting: dict[Claim, asyncio.Future[Grant]] = {}
        self._loop = asyncio.get_running_loop()

    def expect(self, claim: Claim) -> asyncio.Future[Grant]:
        """Returns what will hold the claim's grant, or raise its refusal; `forget` ends that."""
        self._waiting[claim] = granted = self._loop.create_future()
        return granted

    def forget(self, claim: Claim) -> None:
        """No request waits for the claim any more: a grant that comes later is released."""
        del self._waiting[claim]

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
