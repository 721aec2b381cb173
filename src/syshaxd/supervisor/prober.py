# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Prober: asks one instance for its health, again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from syshaxd.core.errors import SyshaxError
from syshaxd.core.types import InstanceSpec
from syshaxd.supervisor.clock import Cancellable, Clock

Probe = Callable[[InstanceSpec], Awaitable[None]]
"""Returns when the instance is well; raises SyshaxError, OSError or TimeoutError with the reason otherwise."""
Report = Callable[[int, str | None], None]
"""Gets the generation that was asked, and what is wrong with it (None: nothing)."""
Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


class Prober:
    """One question at a time, and the next one only planned once the last was answered."""

    def __init__(
        self, spec: InstanceSpec, probe: Probe, *, timeout_s: float, clock: Clock, spawn: Spawn, report: Report
    ) -> None:
        self._spec = spec
        self._probe = probe
        self.timeout_s = timeout_s
        self._clock = clock
        self._spawn = spawn
        self._report = report
        self._generation = 0
        self._planned: Cancellable | None = None
        self._asking: asyncio.Task[None] | None = None

    async def ask(self) -> str | None:
        """Returns what is wrong with the instance; None: nothing."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._probe(self._spec)
        except (SyshaxError, OSError, UnicodeError) as error:
            return str(error) or type(error).__name__
        return None

    def plan(self, generation: int, after_s: float) -> None:
        """Asks after that time, unless a question is planned or under way."""
        if self._planned is None and self._asking is None:
            self._generation = generation
            self._planned = self._clock.call_later(after_s, self.ask_now)

    def ask_now(self) -> None:
        """Asks at once what was to be asked later, unless a question is under way."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
            self._asking = self._spawn(self._ask_and_report(self._generation))

    def stop(self) -> None:
        """Asks no more, and forgets a question that is under way."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask_and_report(self, generation: int) -> None:
        fault = await self.ask()
        self._asking = None
        self._report(generation, fault)
