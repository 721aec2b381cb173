# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances as processes of this host: launched, watched, terminated with all children, and adopted."""

import asyncio
import fcntl
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from syshaxd.core.errors import LaunchFailedError, SyshaxError
from syshaxd.core.launch.launch_faults import LAST_LINES, launch_cause, lines_of_last_launch
from syshaxd.core.secrets import safe_words
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from syshaxd.runtime.digest import digest
from syshaxd.runtime.logfile import LogFile, check_room
from syshaxd.runtime.process import ending, procfs, shm, tempfolder
from syshaxd.runtime.process.kernels import check_kernels
from syshaxd.runtime.process.procfs import Process
from syshaxd.runtime.process.record import Record
from syshaxd.runtime.process.spawn import check, inherited_environment, spawn

_log = logging.getLogger(__name__)
_LOG_MAX_BYTES = 16 * 1024 * 1024
# How often the size of a log and the descendants of a process are checked.
_CHECK_INTERVAL_S = 10.0
# For an instance of an earlier daemon that no longer fits.
_MISFIT_GRACE_S = 15.0


@dataclass(slots=True, eq=False)
class _Running:
    """A generation that this runtime watches."""

    record: Record
    pidfd: int
    is_child: bool
    family: frozenset[Process]
    """Its processes, as they were seen last."""
    kill_at_s: float = 0.0
    """Loop time until which those that outlive the main process may end by themselves."""
    watch: asyncio.Task[ExitStatus] = field(init=False)
    """Done when nothing is left of it."""


class ProcessRuntime:
    """Launches instances in sessions of their own; keeps their logs and records in one folder.

    An instance outlives the daemon: it writes its output into a file, and its record lets the next daemon adopt it,
    even after a SIGKILL in the middle of a launch.
    """

    def __init__(
        self, folder: Path, *, log_max_bytes: int = _LOG_MAX_BYTES, misfit_grace_s: float = _MISFIT_GRACE_S
    ) -> None:
        """Does no I/O yet.

        Args:
            folder: For logs and records; made when needed, and used by one runtime at a time.
            log_max_bytes: Size from which a log's content moves to its second file.
            misfit_grace_s: What an earlier daemon left, and nobody wants any more, may take to end before SIGKILL.
        """
        self._folder = folder
        self._log_max_bytes = log_max_bytes
        self._misfit_grace_s = misfit_grace_s
        self._logs: dict[str, LogFile] = {}
        self._running: dict[str, _Running] = {}
        self._opening = asyncio.Lock()
        self._lock_fd: int | None = None

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        """Starts the server's process. See InstanceRuntime."""
        await self._open()
        running = self._running.get(spec.name)
        if running is not None and not running.watch.done():
            raise LaunchFailedError(f"{spec.name} still runs as pid {running.record.pid}", permanent=False)
        if running is not None and not running.watch.cancelled() and running.watch.exception() is not None:
            await self._end_unwatched(spec.name)
        await asyncio.to_thread(check_room, self._folder, spec.name)
        log = self._log_of(spec.name)
        await log.limit()
        title = f"==== {spec.name}, generation {generation}"
        await log.append(f"{title}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: {shlex.join(safe_words(spec.argv))}")
        record = Record(
            name=spec.name,
            generation=generation,
            started_at_s=time.time(),
            spec_digest=digest(spec),
            boot_id=await asyncio.to_thread(procfs.boot_id),
            service=spec.service,
        )
        try:
            await self._check_kernels(spec)
            record = await asyncio.to_thread(self._spawn, spec, record, log.path)
        except LaunchFailedError as error:
            await _warn(spec.name, "its log", log.append(f"{title}: {error}"))
            raise
        return self._watch_from_now(record, os.pidfd_open(record.pid), is_child=True)

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        """Its program, model, CPUs and port are there, and its files can be written. See InstanceRuntime."""
        await self._open()
        await asyncio.to_thread(partial(check, spec, self._folder, needs_port=needs_port))
        await self._check_kernels(spec)

    def abandon(self, name: str) -> None:
        """Nothing: a launch takes seconds at most. See InstanceRuntime."""

    async def wait(self, handle: Handle) -> ExitStatus:
        """Returns once no process of the generation is left. See InstanceRuntime."""
        running = self._running_as(handle)
        if running is None:
            return ExitStatus()
        return await asyncio.shield(running.watch)

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        """Sends SIGTERM to the process group, SIGKILL to what is left after the grace. See InstanceRuntime.

        Raises:
            SyshaxError: Something resists even SIGKILL.
        """
        running = self._running_as(handle)
        if running is None or running.watch.done():
            return
        leader = running.record.process
        await self._look(running)
        running.kill_at_s = asyncio.get_running_loop().time() + grace_s
        await asyncio.to_thread(ending.ask, running.family, leader)
        if await _is_done(running.watch, grace_s):
            return
        running.family = await asyncio.to_thread(ending.family, running.record, running.family)
        await asyncio.to_thread(ending.kill, running.family, spare=procfs.is_resource_tracker)
        if not await _is_done(running.watch, ending.KILL_TIMEOUT_S):
            left = await asyncio.to_thread(ending.family, running.record, running.family)
            raise SyshaxError(f"SIGKILL did not end {ending.pids(left)}; look with `ps -o pid,stat,wchan,args`")

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        """Finds the process that the record names. See InstanceRuntime."""
        record = await self._find(spec.name)
        if record is None:
            return None
        if record.spec_digest == digest(spec):
            return record.handle
        _log.info(
            "%s: runs with other settings as pid %d: stopping it", spec.name, record.pid, extra={"instance": spec.name}
        )
        await self.terminate(record.handle, self._misfit_grace_s)
        return None

    async def end_others(self, names: Collection[str]) -> None:
        """Stops what an earlier daemon left running of instances no longer in `names`."""
        recorded = await asyncio.to_thread(lambda: {path.stem for path in self._folder.glob("*.json")})
        for name in sorted(recorded.difference(names)):
            record = await self._find(name)
            if record is not None:
                _log.info(
                    "%s: is no longer configured but runs as pid %d: stopping it",
                    name,
                    record.pid,
                    extra={"instance": name},
                )
                await self.terminate(record.handle, self._misfit_grace_s)

    async def _find(self, name: str) -> Record | None:
        """Watches the process that a record names. None: it is gone, and what it left is cleared away."""
        await self._open()
        record = await asyncio.to_thread(Record.read, self._record_path(name))
        if record is None:
            return None
        if record.boot_id != await asyncio.to_thread(procfs.boot_id):
            await self._forget(record)  # processes and shared memory are gone with that boot
            return None
        pidfd = await asyncio.to_thread(procfs.open_process, record.process)
        if pidfd is None:
            await ending.clear_away(record, record.family, kill_at_s=0.0)
            await self._forget(record)
            return None
        self._watch_from_now(record, pidfd, is_child=False)
        return record

    async def _end_unwatched(self, name: str) -> None:
        """Ends what may be left of a generation whose watching failed."""
        record = await self._find(name)
        if record is not None:
            _log.info("%s: still runs as pid %d: stopping it", name, record.pid, extra={"instance": name})
            await self.terminate(record.handle, self._misfit_grace_s)

    async def pid(self, handle: Handle) -> int | None:
        """The process that was launched. See InstanceRuntime."""
        running = self._running_as(handle)
        return None if running is None or running.watch.done() else running.record.pid

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The lines of the log file and of the one before it. See InstanceRuntime."""
        return self._log_of(name).lines(tail=tail, follow=follow)

    def is_away(self) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """Stops all watching; the instances keep running."""
        watches = [running.watch for running in self._running.values()]
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _spawn(self, spec: InstanceSpec, record: Record, log_path: Path) -> Record:
        """Starts the process, with a folder for its temporary files unless its settings name one."""
        if "TMPDIR" not in dict(spec.env):
            record = replace(record, temporary_folder=os.fspath(tempfolder.make(self._folder, spec.name)))
        record = replace(record, shm_spared=shm.spared(spec))
        try:
            return spawn(spec, record, self._record_path(spec.name), log_path)
        except LaunchFailedError:
            if record.temporary_folder:
                tempfolder.remove(record.temporary_folder, spec.name)
            raise

    async def _check_kernels(self, spec: InstanceSpec) -> None:
        await check_kernels(spec, inherited_environment() | dict(spec.env), self._folder)

    # Files.

    def _record_path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _log_of(self, name: str) -> LogFile:
        if name not in self._logs:
            self._logs[name] = LogFile(self._folder / f"{name}.log", max_bytes=self._log_max_bytes)
        return self._logs[name]

    async def _open(self) -> None:
        async with self._opening:
            if self._lock_fd is None:
                self._lock_fd = await asyncio.to_thread(_lock_folder, self._folder)

    # Watching.

    def _running_as(self, handle: Handle) -> _Running | None:
        running = self._running.get(handle.name)
        return running if running is not None and running.record.handle == handle else None

    def _watch_from_now(self, record: Record, pidfd: int, *, is_child: bool) -> Handle:
        running = _Running(record, pidfd, is_child, frozenset((record.process, *record.family)))
        running.watch = asyncio.create_task(self._watch(running), name=f"watch {record.name}")
        self._running[record.name] = running
        return record.handle

    async def _watch(self, running: _Running) -> ExitStatus:
        record = running.record
        log = self._log_of(record.name)
        try:
            while not await ending.is_readable(running.pidfd, _CHECK_INTERVAL_S):
                await _warn(record.name, "its processes", self._look(running))
                await _warn(record.name, "its log", log.limit())
        finally:
            os.close(running.pidfd)
        await ending.clear_away(running.record, running.family, kill_at_s=running.kill_at_s)
        # Only now: until it is reaped, nothing else can get its number.
        status = _reap(record.pid) if running.is_child else ExitStatus()
        if not running.kill_at_s and status.code != 0:
            status = replace(status, cause=await self._cause(record, status))
        await self._forget(record)
        await _warn(record.name, "its log", log.append(f"==== {record.name}, generation {record.generation}: {status}"))
        return status

    async def _cause(self, record: Record, status: ExitStatus) -> str:
        """Why it ended without being asked to, by its log."""
        lines: list[str] = []
        with suppress(OSError):
            lines = [line async for line in self._log_of(record.name).lines(tail=LAST_LINES, follow=False)]
        lines = lines_of_last_launch(lines, record.name)
        return launch_cause(lines, name=record.service or record.name, signal=status.signal)

    async def _look(self, running: _Running) -> None:
        """Notes what would have to be cleared away if the main process died now."""
        record = running.record
        running.family = await asyncio.to_thread(ending.family, record, running.family)
        written = await asyncio.to_thread(shm.written_by, running.family)
        noted = replace(
            record,
            family=tuple(sorted(running.family, key=lambda process: process.pid)),
            shm_written=tuple(sorted(written)),
        )
        if noted != record and not running.watch.done():
            running.record = noted
            await _warn(record.name, "its record", asyncio.to_thread(noted.write, self._record_path(record.name)))

    async def _forget(self, record: Record) -> None:
        """Nothing of it runs any more."""
        if record.temporary_folder:
            await asyncio.to_thread(tempfolder.remove, record.temporary_folder, record.name)
        await asyncio.to_thread(self._record_path(record.name).unlink, missing_ok=True)


def _lock_folder(folder: Path) -> int:
    """Makes the folder and returns a descriptor that holds it for as long as it is open."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LaunchFailedError(
            f"cannot keep logs and records of instances in {folder}: {error.strerror}; "
            "let this user write there, or set XDG_STATE_HOME to another folder",
            permanent=False,
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LaunchFailedError(
            f"another syshaxd keeps its instances in {folder}; stop it, or set XDG_STATE_HOME to another folder",
            permanent=True,
        ) from None
    return fd


def _reap(pid: int) -> ExitStatus:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)


async def _warn(name: str, what: str, work: Awaitable[None]) -> None:
    """What can't be read or written now, with a full disk say, is no reason to lose the instance."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - /proc may be odd, too
        _log.warning("%s: %s: %s", name, what, error or type(error).__name__, extra={"instance": name})


async def _is_done(watch: asyncio.Task[ExitStatus], timeout_s: float) -> bool:
    await asyncio.wait([watch], timeout=timeout_s)
    return watch.done()
