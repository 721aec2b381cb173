# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The configuration while the daemon runs: applied as a whole, and taken back where an instance does not get READY."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from syshaxd import configfile
from syshaxd.core.bindings import Bound
from syshaxd.core.changes import Changes, changes, is_proven
from syshaxd.core.config import Config
from syshaxd.core.errors import ConfigError, ConflictError, SyshaxError
from syshaxd.core.events import EventKind
from syshaxd.core.types import RuntimeKind, State
from syshaxd.engine import Engine
from syshaxd.supervisor import Supervisor

_log = logging.getLogger(__name__)
# Beyond draining and grace, and beyond an instance's own time to start: for what happens in between.
_MARGIN_S = 10.0

Bind = Callable[[Config], Bound]
Settle = Callable[[Config, Bound], None]


class Reconfigurer:
    """Holds the configuration that runs, and exchanges it. Lives in one event loop; one change at a time."""

    def __init__(
        self,
        path: Path,
        text: str,
        config: Config,
        bound: Bound,
        *,
        bind: Bind,
        settle: Settle,
        supervisor: Supervisor,
        engine: Engine,
    ) -> None:
        """Takes over a running daemon.

        Args:
            path: The configuration file.
            text: Its text when the daemon started.
            config: The configuration in it.
            bound: The instances that there are.
            bind: Makes instances of a configuration. It blocks, and raises ConfigError.
            settle: Makes a configuration hold, apart from starting and stopping instances.
            supervisor: Starts and stops the instances.
            engine: Places requests on them.
        """
        self.path = path
        self.config = config
        """What was applied last. It holds, but for what needs a restart."""
        self._text = text
        self.started_with = self.config
        """Holds for what needs a restart."""
        self._bound = bound
        self._bind = bind
        self._settle = settle
        self._supervisor = supervisor
        self._engine = engine
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Changes]] = set()
        self._closed = False

    async def check(self, text: str | None = None) -> tuple[ConfigError | None, Changes]:
        """What is wrong with a text (None: the file's), and if nothing is, what applying it would change."""
        try:
            text, config, bound = await self._read(text)
        except ConfigError as error:
            return error, Changes()
        return None, self._changes(config, bound)

    async def file_differs(self) -> bool:
        """Whether the file has another text than what was applied last, or can't be read."""
        try:
            return await asyncio.to_thread(configfile.read_text, self.path) != self._text
        except ConfigError:
            return True

    async def edit(self, edits: Mapping[str, str | None]) -> Changes:
        """Changes keys in the file; returns what applying it would change.

        Raises:
            ConfigError: The file would not be usable. It is as before.
        """
        async with self._lock:
            config, bound = await asyncio.to_thread(self._edit, edits)
            return self._changes(config, bound)

    def _edit(self, edits: Mapping[str, str | None]) -> tuple[Config, Bound]:
        text, config, bound = self._read_blocking(configfile.edited(configfile.read_text(self.path), edits))
        configfile.write(self.path, text)
        return config, bound

    async def apply(self, text: str | None = None) -> Changes:
        """Makes a text (None: the file's) the configuration; returns once every instance that it changes is READY.

        Only those are ended, after their running requests, and launched again. The file gets the text when all is done.
        Giving up waiting does not end it.

        Raises:
            ConfigError: The text is not a usable configuration: every fault. Nothing has changed.
            ConflictError: The daemon is stopping. Or an instance did not get READY: the former configuration holds
                again, also in the file, and a text that came from there is beside it in a file `*.rejected`.
        """
        if self._closed:
            raise ConflictError("syshaxd is stopping; the configuration in the file counts from its next start")
        task = asyncio.create_task(self._apply(text), name="apply")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Nothing is applied any more, and a change that is under way goes no further: the daemon is stopping."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _forget(self, task: "asyncio.Task[Changes]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, SyshaxError):
            _log.error("a configuration could not be applied", exc_info=error)

    async def _apply(self, given: str | None) -> Changes:
        async with self._lock:
            try:
                text, config, bound = await self._read(given)
            except ConfigError as error:
                self._say(logging.ERROR, f"refused, nothing has changed:\n{error}")
                raise
            todo = self._changes(config, bound)
            try:
                await self._exchange(todo, config, bound)
            except SyshaxError as error:
                await self._restore(todo, rejected=text if given is None else None)
                message = f"taken back, since {error}; the former configuration holds, and its instances start again"
                self._say(logging.ERROR, message)
                raise ConflictError(f"the configuration was {message}") from error
            if given is not None:
                await asyncio.to_thread(configfile.write, self.path, text)
            self._text, self.config, self._bound = text, config, bound
            self._say(logging.INFO, _told(todo))
            return todo

    async def _read(self, text: str | None) -> tuple[str, Config, Bound]:
        return await asyncio.to_thread(self._read_blocking, text)

    def _read_blocking(self, text: str | None) -> tuple[str, Config, Bound]:
        if text is None:
            text = configfile.read_text(self.path)
        config = configfile.parse_file(text)
        return text, config, self._bind(config)

    def _changes(self, config: Config, bound: Bound) -> Changes:
        return changes(self.config, config, self._bound.specs, bound.specs, started_with=self.started_with)

    async def _exchange(self, todo: Changes, config: Config, bound: Bound) -> None:
        """From the configuration that holds to another one. Instances that somebody has stopped stay so."""
        wanted = {name for name in todo.replaced if self._supervisor.status(name).wanted}
        await self._stop(todo.ended, drain=True)
        await self._supervisor.reconfigure(bound.specs)
        self._settle(config, bound)
        await self._prove([name for name in (*todo.replaced, *todo.added) if name in wanted or name in todo.added])

    async def _restore(self, done: Changes, *, rejected: str | None) -> None:
        """Back to the configuration that held, as far as the exchange got."""
        there = {status.spec.name: status.spec for status in self._supervisor.statuses()}
        before = {spec.name: spec for spec in self._bound.specs}
        await self._stop([name for name, spec in there.items() if before.get(name) != spec], drain=False)
        await self._supervisor.reconfigure(self._bound.specs)
        self._settle(self.config, self._bound)
        for name in done.ended:
            self._supervisor.start(name)
        if rejected is not None:
            await asyncio.to_thread(self._put_back, rejected)

    def _put_back(self, rejected: str) -> None:
        beside = self.path.with_name(f"{self.path.name}.rejected")
        configfile.write(beside, rejected)
        configfile.write(self.path, self._text)

    async def _stop(self, names: Sequence[str], *, drain: bool) -> None:
        times = self.config.lifecycle
        for name in names:
            self._supervisor.stop(name, drain=drain)
        for name in names:
            try:
                await self._supervisor.wait_until(
                    name,
                    lambda status: status.state is State.STOPPED and not status.wanted,
                    times.drain_timeout_s + times.stop_grace_s + _MARGIN_S,
                )
            except TimeoutError:
                raise ConflictError(f"{name} does not stop: {self._supervisor.status(name).reason}") from None

    async def _prove(self, names: Sequence[str]) -> None:
        for name in names:
            self._supervisor.start(name)
        async with asyncio.TaskGroup() as group:
            proofs = [group.create_task(self._ready(name)) for name in names]
        if fault := next((fault for proof in proofs if (fault := proof.result())), None):
            raise fault

    async def _ready(self, name: str) -> SyshaxError | None:
        """Returns why an instance that is being started does not get READY; None: it does."""
        # The supervisor gives up those that it launches; for others nobody else counts the time.
        external = self._supervisor.status(name).spec.runtime is RuntimeKind.EXTERNAL
        limit_s = self.config.lifecycle.start_timeout_s if external else None
        try:
            await self._supervisor.wait_until(name, lambda status: status.wanted, _MARGIN_S)
            async with asyncio.timeout(limit_s), aclosing(self._engine.watch_instance(name)) as statuses:
                async for status in statuses:
                    if is_proven(status):
                        break
        except TimeoutError:
            return ConflictError(f"{name} was not READY in time ({limit_s or _MARGIN_S:g} s)")
        except SyshaxError as error:
            return error
        return None

    def _say(self, level: int, text: str) -> None:
        _log.log(level, "configuration %s: %s", self.path, text)
        self._engine.events.add(EventKind.CONFIG, text)


def _told(done: Changes) -> str:
    parts = [
        f"{label} {', '.join(names)}"
        for label, names in (
            ("changed", done.keys),
            ("started again:", done.replaced),
            ("added:", done.added),
            ("removed:", done.removed),
            ("needs a restart of syshaxd:", done.needs_restart),
        )
        if names
    ]
    return "; ".join(parts) or "nothing has changed"
