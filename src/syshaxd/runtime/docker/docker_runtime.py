# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances as containers: created, started, watched, stopped and removed through a container engine's API."""

import asyncio
import logging
import shlex
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from syshaxd.core.errors import LaunchFailedError, SyshaxError
from syshaxd.core.launch.container_faults import GPU_LOST, exit_status
from syshaxd.core.launch.launch_faults import LAST_LINES, lines_of_last_launch
from syshaxd.core.secrets import safe_words
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from syshaxd.runtime.digest import digest
from syshaxd.runtime.docker.api import ContainerApi, EngineAwayError
from syshaxd.runtime.docker.connection import CHECK_INTERVAL_S, EngineConnection, soon
from syshaxd.runtime.docker.running import Running
from syshaxd.runtime.docker.state import DIGEST, GENERATION, INSTANCE, ContainerState
from syshaxd.runtime.docker.threads import OutputReader
from syshaxd.runtime.docker.weights import ContainerWorker
from syshaxd.runtime.logfile import LogFile, check_room
from syshaxd.runtime.ports import check_port
from syshaxd.runtime.quantiser import Worker
from syshaxd.system.sidetasks import SideTasks

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)
_LOG_MAX_BYTES = 16 * 1024 * 1024
_GPU_CHECK_INTERVAL_S = 30.0
_KILL_TIMEOUT_S = 10.0
_LAST_OUTPUT_TIMEOUT_S = 5.0
# For an instance of an earlier daemon that no longer fits.
_MISFIT_GRACE_S = 15.0


class DockerRuntime:
    """Keeps instances in containers that carry its labels, and their output in one folder.

    The containers outlive the daemon: the next one finds them by their labels. They have no restart policy in the
    engine: the supervisor alone starts them again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str | None = None,
        timeout_s: float = 60.0,
        tasks: SideTasks | None = None,
        note: Callable[[str, int, str], None] = lambda name, generation, text: None,
        reconnected: Callable[[], None] = lambda: None,
        log_max_bytes: int = _LOG_MAX_BYTES,
    ) -> None:
        """Does no I/O yet.

        Args:
            folder: For logs; it also distinguishes this daemon's containers from another's.
            host: URL of the engine's API; None: as DOCKER_HOST says, or the usual socket.
            timeout_s: In which the engine must answer.
            tasks: Runs what listens to the engine.
            note: Called with an instance, a generation, and what its launch is waiting for.
            reconnected: Called when the engine answers again after it did not.
            log_max_bytes: Size from which a log's content moves to its second file.
        """
        self._folder = folder
        self._api = ContainerApi(host, owner=str(folder), timeout_s=timeout_s)
        self._engine = EngineConnection(
            self._api,
            tasks or SideTasks(),
            on_end=self._on_end,
            on_connection=self._on_connection,
            reconnected=reconnected,
        )
        self._note = note
        self._log_max_bytes = log_max_bytes
        self._logs: dict[str, LogFile] = {}
        self._running: dict[str, Running] = {}
        self._given_up: dict[str, asyncio.Event] = {}
        """Of the launches under way."""

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        """Makes and starts the container; a missing image is fetched first. See InstanceRuntime."""
        given_up = self._given_up[spec.name] = asyncio.Event()
        await self._open()
        running = self._running.get(spec.name)
        if running is not None and not running.watch.done():
            raise LaunchFailedError(f"{spec.name} still runs as {running.handle.ident[:12]}", permanent=False)
        await asyncio.to_thread(check_room, self._folder, spec.name)
        log = self._log_of(spec.name)
        await log.limit()
        title = f"==== {spec.name}, generation {generation}"
        await log.append(f"{title}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: {shlex.join(safe_words(spec.argv))}")
        try:
            await self._engine.call(self._api.clear, spec)
            await self._fetch(spec, generation, given_up)
            state = await self._engine.call(self._api.launch, spec, generation, digest(spec))
        except SyshaxError as error:
            with suppress(OSError):
                await log.append(f"{title}: {error}")
            raise
        return self._watch_from_now(spec, state, since_s=None)

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        """The engine answers, what the container takes is there, and the log can be written. See InstanceRuntime."""
        await self._open()
        await asyncio.to_thread(check_room, self._folder, spec.name)
        if self._api.is_local:
            await asyncio.to_thread(_check_host, spec, needs_port=needs_port)
        await self._engine.call(self._api.check_image, spec)

    def abandon(self, name: str) -> None:
        """Stops fetching an image. See InstanceRuntime."""
        if name in self._given_up:
            self._given_up[name].set()

    def weights_worker(self, spec: InstanceSpec, generation: int) -> Worker:
        """What makes the quantised weights of an instance, in a container of its image."""
        loop = asyncio.get_running_loop()
        return ContainerWorker(
            self._api, spec, lambda text: soon(loop, partial(self._note, spec.name, generation, text))
        )

    async def wait(self, handle: Handle) -> ExitStatus:
        """Returns once the container has ended and is removed. See InstanceRuntime."""
        running = self._running.get(handle.name)
        if running is None or running.handle != handle:
            return ExitStatus()
        return await asyncio.shield(running.watch)

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        """Sends SIGTERM, then SIGKILL after the grace. See InstanceRuntime.

        Raises:
            SyshaxError: The engine does not answer, or the container resists.
        """
        running = self._running.get(handle.name)
        if running is None or running.handle != handle or running.watch.done():
            return
        running.asked = True
        for signal, patience_s in (("SIGTERM", grace_s), ("SIGKILL", _KILL_TIMEOUT_S)):
            await self._engine.call(self._api.send, handle.ident, signal)
            await asyncio.wait([running.watch], timeout=patience_s)
            if running.watch.done():
                return
        raise SyshaxError(f"SIGKILL did not end container {handle.ident[:12]}; look with `docker inspect`")

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        """Finds the container by its labels. See InstanceRuntime.

        One that sits in another IPC namespace than it should is ended: it can't come back into the right one.
        """
        await self._open()
        adopted: Handle | None = None
        for state in await self._engine.call(self._api.find, spec.name):
            if not state.running:
                await self._engine.call(self._api.remove, state.ident)
                continue
            handle = self._watch_from_now(
                spec, state, since_s=await asyncio.to_thread(_last_written_s, self._log_of(spec.name).path)
            )
            misfit = await self._misfit(spec, state)
            if not misfit:
                adopted = handle
                break
            _log.info("%s: container %s %s: stopping it", spec.name, state.ident[:12], misfit)
            await self.terminate(handle, _MISFIT_GRACE_S)
        return adopted

    async def end_others(self, names: Collection[str]) -> None:
        """Stops what an earlier daemon left running of instances no longer in `names`."""
        if not names and not await asyncio.to_thread(self._folder.exists):
            return
        await self._open()
        try:
            for state in await self._engine.call(self._api.find):
                if state.labels[INSTANCE] not in names:
                    _log.info("%s: is no longer configured but has a container: removing it", state.labels[INSTANCE])
                    await self._engine.call(self._api.remove, state.ident)
        except EngineAwayError as error:
            _log.warning("cannot check for containers of former instances: %s", error)

    async def pid(self, handle: Handle) -> int | None:
        """The container's main process, as the engine reports it. See InstanceRuntime."""
        running = self._running.get(handle.name)
        if running is None or running.handle != handle or running.watch.done():
            return None
        state = await self._engine.call(self._api.state, handle.ident)
        return state.pid or None if state is not None and state.running else None

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The lines of the log file and of the one before it. See InstanceRuntime."""
        return self._log_of(name).lines(tail=tail, follow=follow)

    def is_away(self) -> bool:
        """Whether the engine does not answer. The ports that it publishes may be closed then. See InstanceRuntime."""
        return self._engine.is_away

    async def close(self) -> None:
        """Stops all watching; the containers keep running."""
        watches = [running.watch for running in self._running.values()]
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await self._engine.close(*(running.output.stop for running in self._running.values()))

    # The engine.

    async def _open(self) -> None:
        if not self._engine.is_open:
            self._engine.open()
            await asyncio.to_thread(partial(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True))

    async def _fetch(self, spec: InstanceSpec, generation: int, given_up: asyncio.Event) -> None:
        """Fetches the image, unless the launch is given up: then the thread is left to find that out."""
        loop = asyncio.get_running_loop()

        def note(text: str) -> None:
            soon(loop, partial(self._note, spec.name, generation, text))

        fetching = asyncio.ensure_future(self._engine.call(self._api.fetch, spec, note, lambda: not given_up.is_set()))
        giving_up = asyncio.create_task(given_up.wait())
        try:
            await asyncio.wait((fetching, giving_up), return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                raise LaunchFailedError(f"{spec.name}: no longer wanted; its image was being fetched", permanent=False)
            await fetching
        finally:
            given_up.set()
            fetching.cancel()
            giving_up.cancel()

    def _on_end(self, ident: str) -> None:
        for running in self._running.values():
            if ident in {running.handle.ident, running.joins}:
                running.changed.set()

    def _on_connection(self) -> None:
        for running in self._running.values():
            running.changed.set()

    # Watching.

    def _log_of(self, name: str) -> LogFile:
        if name not in self._logs:
            self._logs[name] = LogFile(self._folder / f"{name}.log", max_bytes=self._log_max_bytes)
        return self._logs[name]

    def _watch_from_now(self, spec: InstanceSpec, state: ContainerState, *, since_s: float | None) -> Handle:
        assert spec.container is not None
        output = OutputReader(self._api, state.ident, self._log_of(spec.name).path, since_s=since_s)
        running = Running(
            spec=spec,
            handle=state.handle,
            joins=state.joins,
            output=output,
        )
        output.start()
        running.watch = asyncio.create_task(self._watch(running), name=f"watch {spec.name}")
        self._running[spec.name] = running
        return running.handle

    async def _watch(self, running: Running) -> ExitStatus:
        state = await self._until_ended(running)
        log = self._log_of(running.spec.name)
        await asyncio.to_thread(running.output.drain, _LAST_OUTPUT_TIMEOUT_S)
        await asyncio.to_thread(running.output.stop)
        if state is None:
            status = ExitStatus(cause=running.cause or "its container was removed from outside")
        else:
            last = [line async for line in log.lines(tail=LAST_LINES, follow=False)]
            status = exit_status(
                state.exit_code,
                name=running.spec.service or running.spec.name,
                out_of_memory=state.out_of_memory,
                asked=running.asked,
                last_lines=lines_of_last_launch(last, running.spec.name),
            )
            if running.cause:
                status = ExitStatus(code=status.code, signal=status.signal, cause=running.cause)
        try:
            await self._until_answered(running, self._api.remove, running.handle.ident)
            if running.uses_donor:
                await self._until_answered(running, self._api.release_donor)
        except SyshaxError as error:
            _log.warning("%s: %s; the next launch tries again", running.spec.name, error)
        with suppress(OSError):
            await log.append(f"==== {running.spec.name}, generation {running.handle.generation}: {status}")
        return status

    async def _until_ended(self, running: Running) -> ContainerState | None:
        """Returns the container's last state; None: nothing of that generation is left to see."""
        loop = asyncio.get_running_loop()
        gpu_check_at_s = loop.time() + _GPU_CHECK_INTERVAL_S if running.has_gpus else float("inf")
        while True:
            running.changed.clear()
            state = await self._until_answered(running, self._api.state, running.handle.ident)
            if state is None or not state.running:
                return state
            if state.started_at_s != running.handle.started_at_s:
                # It had ended before anyone looked: all that it held is lost, and what joined it is cut off.
                running.cause = "its container was restarted from outside"
                return None
            if running.uses_donor and not await self._until_answered(
                running, self._api.is_coupled, state, running.spec
            ):
                # It would run on in a namespace that nobody else can join any more.
                running.cause = "the container that kept its IPC namespace ended"
            if not running.cause and loop.time() >= gpu_check_at_s:
                gpu_check_at_s = loop.time() + await self._check_gpus(running)
            if running.cause:
                _log.warning("%s: %s: ending it", running.spec.name, running.cause)
                await self._until_answered(running, self._api.send, running.handle.ident, "SIGKILL")
            if not running.output.is_alive():  # the engine was away
                await self._resume_output(running)
            with suppress(OSError):
                await self._log_of(running.spec.name).limit()
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await running.changed.wait()

    async def _resume_output(self, running: Running) -> None:
        old = running.output
        running.output = OutputReader(
            self._api, running.handle.ident, self._log_of(running.spec.name).path, since_s=old.read_until_s
        )
        running.output.start()

    async def _check_gpus(self, running: Running) -> float:
        """Notes it if the GPUs are lost. Returns when to look again, in seconds."""
        lost = await self._until_answered(running, self._api.has_lost_gpus, running.handle.ident)
        if lost:
            running.cause = GPU_LOST
        return float("inf") if lost is None else _GPU_CHECK_INTERVAL_S

    async def _until_answered(self, running: Running, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.call_until_answered(running.spec.name, running.changed, work, *args, **kwargs)

    async def _misfit(self, spec: InstanceSpec, state: ContainerState) -> str:
        """Why a running container is not the one that is wanted; empty: it is."""
        if state.labels.get(DIGEST) != digest(spec):
            return f"runs with other settings (generation {state.labels[GENERATION]})"
        if not await self._engine.call(self._api.is_coupled, state, spec):
            return "is in an IPC namespace that is no longer current"
        return ""


def _check_host(spec: InstanceSpec, *, needs_port: bool) -> None:
    """Whether this host has what the container takes of it."""
    assert spec.container is not None
    for source in (volume.partition(":")[0] for volume in spec.container.volumes):
        if source.startswith("/") and not Path(source).exists():
            keys = f"models.path, or {spec.key}.container.volumes"
            raise LaunchFailedError(f"{spec.name}: there is no {source} for its container; set {keys}", permanent=True)
    if needs_port:
        for host, outer, _ in spec.container.ports:
            check_port(spec, host, outer)


def _last_written_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
