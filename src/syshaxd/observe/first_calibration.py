# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Calibration at first start: what `syshaxctl calibrate` does, without an operator."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from syshaxd.core.errors import ConflictError, SyshaxError
from syshaxd.core.events import EventKind
from syshaxd.core.loads import Snapshot
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.calibrator import Calibrator
from syshaxd.system.events import EventLog

_log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 10.0
_LONGEST_IDLE_S = 600.0


class FirstCalibration:
    """Calibrates instances that were not calibrated as they are now, when nothing else is to be done.

    Requests of clients come first: the calibration begins when there have been none for a while, ends at once when one
    comes, and begins again later. Each instance is the cause of one calibration at most, whether that succeeds or not.
    """

    def __init__(
        self,
        calibrator: Calibrator,
        registry: InstanceRegistry,
        *,
        is_asked_for: Callable[[], bool],
        busy: Callable[[], Awaitable[None]],
        snapshot: Callable[[], Snapshot],
        events: EventLog,
        idle_s: float = 10.0,
    ) -> None:
        """Does nothing yet.

        Args:
            calibrator: Measures, and knows what was measured.
            registry: The instances.
            is_asked_for: Whether the configuration asks for it.
            busy: Returns when a request of a client is in flight.
            snapshot: The latest readings.
            events: Gets the outcome.
            idle_s: Seconds without a request after which it begins; doubled whenever a request has ended it.
        """
        self._calibrator = calibrator
        self._registry = registry
        self._is_asked_for = is_asked_for
        self._busy = busy
        self._snapshot = snapshot
        self._events = events
        self._idle_s = idle_s
        self._over: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Calibrates when that is due. Never returns."""
        while True:
            await self._calibrate_if_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._registry.changed()

    async def _calibrate_if_due(self) -> None:
        due = self._calibrator.unmeasured - self._over
        if not due or not self._is_asked_for():
            self._tell("")
        elif waits_for := self._not_ready():
            self._tell(f"begins when {', '.join(waits_for)} {'is' if len(waits_for) == 1 else 'are'} READY")
        elif not await self._is_idle():
            self._tell("begins when no requests are running")
        else:
            await self._calibrate(due)

    def _not_ready(self) -> list[str]:
        instances = self._registry.instances.items()
        return [name for name, instance in instances if instance.status.wanted and not instance.takes_requests]

    async def _is_idle(self) -> bool:
        """Returns whether no request came for a while and the instances do nothing, as far as was read."""
        try:
            async with asyncio.timeout(self._idle_s):
                await self._busy()
        except TimeoutError:
            return not any(load.running or load.waiting for load in self._snapshot().instances.values())
        return False

    async def _calibrate(self, due: frozenset[str]) -> None:
        """Calibrates until a request comes."""
        names = ", ".join(sorted(due))
        self._tell(f"measuring, as {names} {'was' if len(due) == 1 else 'were'} not calibrated yet")
        measuring = asyncio.create_task(self._measure(), name="calibration")
        request = asyncio.ensure_future(self._busy())
        try:
            await asyncio.wait((measuring, request), return_when=asyncio.FIRST_COMPLETED)
            if not measuring.done():
                self._tell("put off: a request came; begins again when no requests are running")
                self._idle_s = min(2 * self._idle_s, _LONGEST_IDLE_S)
                return
            await measuring
        except ConflictError as error:
            self._tell(f"put off: {error}")
        except (SyshaxError, OSError) as error:
            self._over |= due
            self._tell("")
            text = f"{names} could not be calibrated: {error}; `syshaxctl calibrate` tries again"
            _log.warning("%s", text)
            self._events.add(EventKind.CALIBRATION, text)
        else:
            self._over |= due
            self._tell("")
            self._events.add(EventKind.CALIBRATION, f"{names} calibrated at first start")
        finally:
            for task in (measuring, request):
                task.cancel()
            await asyncio.gather(measuring, request, return_exceptions=True)

    async def _measure(self) -> None:
        done = 0
        async with aclosing(self._calibrator.calibrate(force=False)) as results:
            async for result, runs in results:
                done += 1
                beside = f" beside {result.beside}" if result.beside else ""
                requests = f"{result.batch} request{'s' if result.batch > 1 else ''}"
                text = f"{requests} on {result.instance}{beside}, {1000 * result.token_s:.1f} ms a token"
                _log.info("calibration: run %d of %d: %s", done, runs, text)

    def _tell(self, text: str) -> None:
        if text != self._calibrator.note:
            self._calibrator.note = text
            if text:
                _log.info("calibration: %s", text)
