# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The connection to the container engine: calls in threads, its events, and whether it is away."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from syshaxd.core.backoff import backoff_s
from syshaxd.runtime.docker.api import ContainerApi, EngineAwayError
from syshaxd.runtime.docker.threads import EventReader
from syshaxd.system.sidetasks import SideTasks
from syshaxd.system.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)
CHECK_INTERVAL_S = 10.0
"""Events report every exit; a look at this interval catches missed ones."""
# The first pause after the connection was lost; it doubles up to the interval of checks, unless one has lasted.
_RETRY_S = 1.0
_STABLE_S = 60.0


class EngineConnection:
    """Calls the engine, and listens to it once it is opened. Lives in one event loop."""

    def __init__(
        self,
        api: ContainerApi,
        tasks: SideTasks,
        *,
        on_end: Callable[[str], None],
        on_connection: Callable[[], None],
        reconnected: Callable[[], None],
    ) -> None:
        """Does no I/O yet.

        Args:
            api: The engine's.
            tasks: Runs what listens.
            on_end: Called with the id of each container that has ended.
            on_connection: Called whenever the engine can be heard: something may have been missed.
            reconnected: Called before that when the engine answers again after it did not.
        """
        self.api = api
        self._tasks = tasks
        self._on_end = on_end
        self._on_connection = on_connection
        self._reconnected = reconnected
        self._events: EventReader | None = None
        self._closed = asyncio.Event()
        self.is_away = False
        """The engine does not answer. Ports that it publishes may be closed then."""

    @property
    def is_open(self) -> bool:
        """It listens."""
        return self._events is not None

    def open(self) -> None:
        """Begins to listen."""
        loop = asyncio.get_running_loop()
        self._events = events = EventReader(
            self.api,
            ended=lambda ident: soon(loop, partial(self._on_end, ident)),
            connected=lambda: soon(loop, self._on_heard),
        )
        self._tasks.start("docker events", partial(self._listen, events))

    async def close(self, *stops: Callable[[], None]) -> None:
        """Stops listening; `stops` end what else reads from the engine."""
        self._closed.set()
        if self._events is not None:
            events, self._events = self._events, None
            await asyncio.gather(*map(asyncio.to_thread, (events.stop, *stops)))
            await asyncio.to_thread(self.api.close)

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does blocking work in a thread of its own: a slow engine must not hold up anything else, nor the exit."""
        return await in_thread(partial(work, *args, **kwargs))

    async def call_until_answered(
        self, name: str, changed: asyncio.Event, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Does the work once the engine is there: as long as it is away, nothing is known.

        Args:
            name: The instance that it is about.
            changed: Set when the engine may be back.
            work: Blocking work.
            args: Its arguments.
            kwargs: The same.
        """
        told = self.is_away
        while True:
            try:
                return await self.call(work, *args, **kwargs)
            except EngineAwayError as error:
                if not told:
                    _log.warning("%s: its state is unknown for now: %s", name, error)
                told = True
                changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_INTERVAL_S):
                        await changed.wait()

    async def _listen(self, events: EventReader) -> None:
        """Listens to the engine's events until it is closed. Raises every error but that the engine went away."""
        loop, losses = asyncio.get_running_loop(), 0
        while not self._closed.is_set():
            began_s = loop.time()
            reason = await in_thread(events.read)
            if not self._closed.is_set():
                self._on_loss(reason)
            losses = 1 if loop.time() - began_s > _STABLE_S else losses + 1
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff_s(losses, first_s=_RETRY_S, cap_s=CHECK_INTERVAL_S)):
                    await self._closed.wait()

    def _on_heard(self) -> None:
        if self.is_away:
            _log.info("the container engine at %s answers again", self.api.host)
            self.is_away = False
            self._reconnected()
        self._on_connection()

    def _on_loss(self, reason: str) -> None:
        if not self.is_away:
            _log.warning("%s; instances are watched again once it answers", reason)
        self.is_away = True


def soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Calls back in the loop, from another thread; nothing is done once the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
