# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""SideTasks: runs tasks besides the service. A failed one is logged, counted, shown and restarted.

Their failure must not end the service. Tasks essential to it are not run here: see daemon/service.py.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from syshaxd.core.backoff import backoff_s
from syshaxd.core.errors import SyshaxError

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 300.0
# A task that has run this long since its last failure counts as healthy.
_STABLE_S = 600.0

Work = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Failure:
    reason: str
    in_a_row: int
    at_s: float
    waits: bool = True


class SideTasks:
    """Runs tasks by name. Lives in one event loop."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Runs nothing yet.

        Args:
            sleep: Waits so many seconds.
            now: Monotonic clock, in seconds.
        """
        self._sleep = sleep
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: dict[str, _Failure] = {}
        self._counts: dict[str, int] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each task has failed."""
        return self._counts

    @property
    def faults(self) -> tuple[str, ...]:
        """Tasks that are down or failed recently, with the reason, one line each."""
        now_s = self._now()
        return tuple(
            f"{name} failed {failure.in_a_row} times, and is tried again: {failure.reason}"
            for name, failure in self._failed.items()
            if failure.waits or now_s - failure.at_s < _STABLE_S
        )

    def start(self, name: str, work: Work) -> None:
        """Runs `work()`; restarts it after a pause whenever it fails. A task that returns is finished."""
        self._counts.setdefault(name, 0)
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(name, work), name=name))

    async def close(self) -> None:
        """Ends all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, name: str, work: Work) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the service continues after any error
                await self._sleep(self._note(name, error))
                self._failed[name].waits = False
            else:
                return

    def _note(self, name: str, error: Exception) -> float:
        """Returns the pause before it is started again."""
        now_s, before = self._now(), self._failed.get(name)
        in_a_row = before.in_a_row + 1 if before is not None and now_s - before.at_s < _STABLE_S else 1
        expected = isinstance(error, SyshaxError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        pause_s = backoff_s(in_a_row, first_s=_FIRST_PAUSE_S, cap_s=_LONGEST_PAUSE_S)
        self._counts[name] += 1
        self._failed[name] = _Failure(reason, in_a_row, now_s)
        # The traceback once: repeating it would only fill the log.
        trace = None if expected or (before is not None and before.reason == reason) else error
        _log.error("%s failed: %s; restarting in %g s", name, reason, pause_s, exc_info=trace)
        return pause_s
