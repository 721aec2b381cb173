# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Prober: probes one instance periodically."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace

from syshaxd.core.errors import InstanceTimeoutError, SyshaxError
from syshaxd.core.types import InstanceSpec
from syshaxd.instances.clock import Cancellable, Clock
from syshaxd.system.descriptors import is_own_shortage

_log = logging.getLogger(__name__)
# After a probe that could not be carried out.
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFault:
    """Why a probe failed."""

    reason: str
    silent: bool = False
    """It did not answer in time."""
    counts: bool = True
    """It may be ended for it."""
    inconclusive: bool = False
    """This process lacked a resource or was late, which says nothing about the instance."""
    busy: bool = False
    """It did not answer but is computing."""


Probe = Callable[[InstanceSpec], Awaitable[None]]
"""Returns if the instance is healthy; raises SyshaxError, OSError or TimeoutError with the reason otherwise."""
Report = Callable[[int, ProbeFault | None], None]
"""Gets the generation that was asked, and what is wrong with it (None: nothing)."""
Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


class Prober:
    """One probe at a time; the next one is scheduled after the last was answered."""

    def __init__(
        self,
        spec: InstanceSpec,
        probe: Probe,
        *,
        timeout_s: float,
        clock: Clock,
        spawn: Spawn,
        report: Report,
        is_at_work: Callable[[], Awaitable[bool]],
        was_late_since: Callable[[float], bool],
    ) -> None:
        """Asks nothing yet.

        Args:
            spec: Whom to ask.
            probe: Asks.
            timeout_s: Seconds after which no answer is a fault.
            clock: Time between questions.
            spawn: Runs a task.
            report: Called with each answer that tells something.
            is_at_work: Tells whether the instance, which is silent, computes.
            was_late_since: Whether the event loop was blocked since a moment of its own clock.
        """
        self._spec = spec
        self._probe = probe
        self.timeout_s = timeout_s
        self._clock = clock
        self._spawn = spawn
        self._report = report
        self._is_at_work = is_at_work
        self._was_late_since = was_late_since
        self._generation = 0
        self._planned: Cancellable | None = None
        self._asking: asyncio.Task[None] | None = None
        self._said = ""

    async def ask(self) -> ProbeFault | None:
        """Returns what is wrong with the instance; None: nothing."""
        began_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._probe(self._spec)
        except (SyshaxError, OSError) as error:
            return ProbeFault(
                reason=str(error) or type(error).__name__,
                silent=isinstance(error, TimeoutError | InstanceTimeoutError),
                inconclusive=is_own_shortage(error) or self._was_late_since(began_s),
            )
        except Exception as error:  # noqa: BLE001 - a fault of ours must end neither the instance nor the daemon
            reason = f"it could not be probed: {type(error).__name__}: {error}"
            self._say(reason, error)
            return ProbeFault(reason=reason, counts=False, inconclusive=is_own_shortage(error))
        self._said = ""
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
        if fault is not None and fault.silent and not fault.inconclusive:
            fault = replace(fault, busy=await self._is_at_work())
        self._asking = None
        if fault is not None and fault.inconclusive:
            self._say(f"this probe does not count and is repeated: {fault.reason}")
            self.plan(generation, _AGAIN_S)
        else:
            self._report(generation, fault)

    def _say(self, problem: str, error: Exception | None = None) -> None:
        """Logs a problem once, until it is another one or over."""
        if problem != self._said:
            self._said = problem
            name = self._spec.name
            _log.warning("%s: %s", name, problem, exc_info=error, extra={"instance": name})
