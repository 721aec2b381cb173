# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Changes the configuration of the running daemon: as a whole, and rolled back if an instance does not become READY."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence, Set
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

from syshaxd.core.config import Config, on_demand_instances
from syshaxd.core.config.diff import Changes, changes, is_proven
from syshaxd.core.config.rounds import mixed, rounds
from syshaxd.core.errors import ConfigError, ConflictError, NotFoundError, SyshaxError
from syshaxd.core.events import EventKind
from syshaxd.core.launch.bound import Bound
from syshaxd.core.report.engine_status import RolloutStep
from syshaxd.core.types import InstanceSpec, RuntimeKind, State
from syshaxd.instances.supervisor import Supervisor
from syshaxd.serving.operations import InstanceOperations
from syshaxd.system import configfile, replacing
from syshaxd.system.events import EventLog
from syshaxd.system.file_change import FileChange, rejected_path

_log = logging.getLogger(__name__)
# Margin on top of draining, grace and an instance's time to start.
_MARGIN_S = 10.0

Settle = Callable[[Config, Bound], None]


class Bind(Protocol):
    """Makes instances of a configuration. It blocks, and raises ConfigError."""

    def __call__(self, config: Config, *, measure: bool = False) -> Bound:
        """With `measure` it measures what `quantize: auto` needs, if this was not done yet."""
        ...


class Reconfigurer:
    """Holds the running configuration and changes it. Lives in one event loop; one change at a time."""

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
        instances: InstanceOperations,
        events: EventLog,
    ) -> None:
        """Takes over a running daemon.

        Args:
            path: The configuration file.
            text: Its text when the daemon started.
            config: The configuration in it.
            bound: The present instances.
            bind: Makes instances of a configuration.
            settle: Makes a configuration hold, apart from starting and stopping instances.
            supervisor: Starts and stops the instances.
            instances: Carries out commands on them.
            events: What has happened.
        """
        self.path = path
        self.config = config
        """The configuration applied last; in effect except for keys that need a restart."""
        self._text = text
        self.started_with = self.config
        """In effect for keys that need a restart."""
        self._bound = bound
        self._bind = bind
        self._settle = settle
        self._supervisor = supervisor
        self._instances = instances
        self._events = events
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Changes]] = set()
        self._closed = False

    async def check(self, text: str | None = None) -> tuple[ConfigError | None, Changes]:
        """The faults of a text (None: the file's), or if there are none, what applying it would change."""
        try:
            text, config, bound = await self._read(text)
        except ConfigError as error:
            return error, Changes()
        return None, self._changes(config, bound)

    async def file_differs(self) -> bool:
        """Whether the file differs from what was applied last, or can't be read."""
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
        with replacing.locked(self.path):
            text, config, bound = self._read_blocking(configfile.edited(configfile.read_text(self.path), edits))
            replacing.write(self.path, text)
        return config, bound

    async def apply(self, text: str | None = None) -> Changes:
        """Applies a text (None: the file's); returns once every changed instance is READY.

        Only those are ended, after their running requests, and launched again. The file gets the text when all is done.
        Giving up waiting does not end it.

        Raises:
            ConfigError: The text is not a usable configuration: every fault. Or the file can't be written. Nothing has
                changed.
            ConflictError: The daemon is stopping. Or an instance did not get READY: the former configuration holds
                again, also in the file, and a text that came from there is kept next to it in a file `*.rejected`.
        """
        if self._closed:
            raise ConflictError("syshaxd is stopping; it applies the file at its next start")
        task = asyncio.create_task(self._apply(text), name="apply")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def rollout(self, name: str) -> AsyncGenerator[RolloutStep, None]:
        """Restarts the instances of a service or a model one at a time, after their running requests.

        The next one is restarted when the last is READY and computes as before. Those that are stopped stay stopped.
        Closing the generator ends it after the present instance.

        Args:
            name: Of a model, a service, or an instance.

        Yields:
            Each instance, before it is restarted.

        Raises:
            NotFoundError: There is no such instance, service or model.
            ConflictError: An instance did not become READY, or no longer computes as before; those after it were not
                touched.
        """
        async with self._lock:
            specs = [spec for spec in self._bound.specs if name in {spec.name, spec.service, spec.served_model}]
            if not specs:
                known = dict.fromkeys(each for spec in self._bound.specs for each in (spec.served_model, spec.name))
                raise NotFoundError(f"no instance, service or model {name!r}; available: {', '.join(known)}")
            specs = [spec for spec in specs if self._supervisor.status(spec.name).wanted]
            for at, spec in enumerate(specs):
                yield RolloutStep(spec.name, at + 1, len(specs), self._instances.carried_by(spec))
                try:
                    await self._restart_proven(spec)
                except (SyshaxError, TimeoutError) as error:
                    left = ", ".join(each.name for each in specs[at + 1 :])
                    text = f"the rollout of {name} stopped at {spec.name}: {_text(error)}"
                    raise ConflictError(f"{text}; not touched: {left}" if left else text) from error

    async def _restart_proven(self, spec: InstanceSpec) -> None:
        """Restarts an instance. Raises SyshaxError: it does not become READY, or does not compute as before."""
        name, was_allowed = spec.name, self._instances.allowed_pairs()
        await self._supervisor.check_launch(spec)
        before, times = self._supervisor.status(name), self.config.lifecycle
        self._instances.restart(name, drain=True)
        limit_s = times.drain_timeout_s + times.stop_grace_s + _MARGIN_S
        await self._supervisor.wait_until(name, lambda status: status.generation > before.generation, limit_s)
        if (fault := await self._ready(name)) is not None:
            raise fault
        await self._instances.check_parity([name], [other.name for other in self._bound.specs], was_allowed)

    def close(self) -> None:
        """Refuses further changes and aborts the current one: the daemon is stopping."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _forget(self, task: "asyncio.Task[Changes]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, SyshaxError):
            _log.error("could not apply a configuration", exc_info=error)

    async def _apply(self, given: str | None) -> Changes:
        async with self._lock:
            try:
                text, config, bound = await self._read(given, measure=True)
            except ConfigError as error:
                self._say(logging.ERROR, f"refused, nothing has changed:\n{error}")
                raise
            todo = self._changes(config, bound)
            wanted = {name for name in todo.ended if self._supervisor.status(name).wanted}
            file = FileChange(self.path, text) if given is not None else None
            try:
                if file is not None:
                    await asyncio.to_thread(file.prepare)
            except ConfigError as error:
                self._say(logging.ERROR, f"refused, nothing has changed: {error}")
                raise
            try:
                await self._exchange(todo, config, bound, wanted)
                if file is not None and (note := await asyncio.to_thread(file.commit)):
                    self._say(logging.WARNING, note)
            except Exception as error:
                faults = await self._restore(wanted, rejected=text if given is None else None)
                why = _text(error)
                message = (
                    f"rolled back: {why}; the former configuration is in effect again, and its instances are restarting"
                )
                message = "; but ".join((message, *faults))
                self._say(logging.ERROR, message)
                if not isinstance(error, SyshaxError):
                    _log.error("could not apply a configuration", exc_info=error)
                raise ConflictError(f"the configuration was {message}") from error
            finally:
                if file is not None:
                    await asyncio.to_thread(file.discard)
            self._text, self.config, self._bound = text, config, bound
            self._say(logging.INFO, _told(todo))
            for warning in await asyncio.to_thread(configfile.warnings, self.path, config):
                _log.warning("%s", warning)
                self._events.add(EventKind.CONFIG, warning)
            return todo

    async def _read(self, text: str | None, *, measure: bool = False) -> tuple[str, Config, Bound]:
        return await asyncio.to_thread(self._read_blocking, text, measure=measure)

    def _read_blocking(self, text: str | None, *, measure: bool = False) -> tuple[str, Config, Bound]:
        if text is None:
            text = configfile.read_text(self.path)
        config = configfile.parse_file(text)
        return text, config, self._bind(config, measure=measure)

    def _changes(self, config: Config, bound: Bound) -> Changes:
        return changes(self.config, config, self._bound.specs, bound.specs, started_with=self.started_with)

    async def _exchange(self, todo: Changes, config: Config, bound: Bound, wanted: Set[str]) -> None:
        """Changes to another configuration. Instances stopped by an operator stay stopped.

        Of the instances of a model, one at a time is exchanged, when the last one is READY and computes as before.
        """
        for spec in bound.specs:
            if spec.name in todo.replaced:
                await self._supervisor.check_launch(spec)
        *first, last = rounds(self._bound.specs, bound.specs, todo.replaced) or [()]
        was_allowed = self._instances.allowed_pairs()
        exchanged: list[str] = []
        for names in first:
            exchanged += names
            with self._instances.exchanging(names):
                await self._stop(names, drain=True)
                await self._supervisor.reconfigure(mixed(self._bound.specs, bound.specs, exchanged))
            await self._prove([name for name in names if name in wanted])
            unchanged = [spec.name for spec in bound.specs if spec.name not in todo.replaced]
            await self._instances.check_parity(names, {*exchanged, *unchanged}, was_allowed)
            self._say(logging.INFO, f"{', '.join(names)} exchanged, {len(exchanged)} of {len(todo.replaced)}")
        with self._instances.exchanging((*last, *todo.removed)):
            await self._stop((*last, *todo.removed), drain=True)
            await self._supervisor.reconfigure(bound.specs)
            self._settle(config, bound)
        on_demand = on_demand_instances(config)
        unasked = {*todo.added, *on_demand_instances(self.config)} - on_demand.keys()
        unasked = {name for name in unasked if name in todo.added or self._is_to_start(name)}
        await self._prove([spec.name for spec in bound.specs if spec.name in wanted & {*last} | unasked])
        if first:
            await self._instances.check_parity(last, [spec.name for spec in bound.specs], was_allowed)

    def _is_to_start(self, name: str) -> bool:
        """Whether an instance that requests started so far is to be started."""
        known = {status.spec.name for status in self._supervisor.statuses()}
        return name in known and not (self._supervisor.status(name).wanted or self._instances.is_stopped(name))

    async def _restore(self, wanted: Iterable[str], *, rejected: str | None) -> list[str]:
        """Rolls back to the previous configuration, as far as the change got.

        Args:
            wanted: Instances that it has stopped, and that are to run again.
            rejected: What the file says, if that is what did not work.

        Returns:
            What could not be put back. Nothing is raised: the error that led here is the one to tell.
        """
        faults: list[str] = []
        for step in (self._restore_instances(), self._restart(wanted), self._restore_file(rejected)):
            try:
                await step
            except Exception as error:  # noqa: BLE001 - the other steps are needed all the same
                faults.append(_text(error))
                _log.warning("configuration %s: not rolled back: %s", self.path, error, exc_info=error)
        return faults

    async def _restore_instances(self) -> None:
        present = {status.spec.name: status.spec for status in self._supervisor.statuses()}
        before = {spec.name: spec for spec in self._bound.specs}
        ended = [name for name, spec in present.items() if before.get(name) != spec]
        with self._instances.exchanging(ended):
            await self._stop(ended, drain=True)  # some may be READY and answer requests
            await self._supervisor.reconfigure(self._bound.specs)
            self._settle(self.config, self._bound)

    async def _restart(self, names: Iterable[str]) -> None:
        known = {status.spec.name for status in self._supervisor.statuses()}
        for name in known.intersection(names):
            self._supervisor.start(name)

    async def _restore_file(self, rejected: str | None) -> None:
        if rejected is None:
            return
        try:
            await asyncio.to_thread(self._put_back, rejected)
        except ConfigError as error:
            raise ConflictError(f"the file still has the rejected text: it {error}") from error

    def _put_back(self, rejected: str) -> None:
        with replacing.locked(self.path):
            if configfile.read_text(self.path) != rejected:  # it was changed meanwhile
                return
            replacing.write(rejected_path(self.path), rejected)
            replacing.write(self.path, self._text)

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
            self._instances.start(name)
        async with asyncio.TaskGroup() as group:
            proofs = [group.create_task(self._ready(name)) for name in names]
        if fault := next((fault for proof in proofs if (fault := proof.result())), None):
            raise fault

    async def _ready(self, name: str) -> SyshaxError | None:
        """Returns why a starting instance does not become READY; None: it does."""
        # The supervisor gives up those that it launches; for others nobody else counts the time.
        external = self._supervisor.status(name).spec.runtime is RuntimeKind.EXTERNAL
        limit_s = self.config.lifecycle.start_timeout_s if external else None
        try:
            await self._supervisor.wait_until(name, lambda status: status.wanted, _MARGIN_S)
            async with asyncio.timeout(limit_s), aclosing(self._instances.watch(name)) as statuses:
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
        self._events.add(EventKind.CONFIG, text)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, SyshaxError) else f"{type(error).__name__}: {error}"


def _told(done: Changes) -> str:
    parts = [
        f"{label} {', '.join(names)}"
        for label, names in (
            ("changed", done.keys),
            ("restarted:", done.replaced),
            ("added:", done.added),
            ("removed:", done.removed),
            ("needs a restart of syshaxd:", done.needs_restart),
        )
        if names
    ]
    return "; ".join(parts) or "nothing has changed"
