# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The end of a generation: asked, forced, and with nothing left behind."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable

from syshaxd.runtime.process import procfs, shm
from syshaxd.runtime.process.procfs import Process
from syshaxd.runtime.process.record import Record

_log = logging.getLogger(__name__)
# The time in which the kernel ends what got SIGKILL. A process inside a device driver may take longer.
KILL_TIMEOUT_S = 10.0
# Python's resource trackers remove semaphores of the dead, which nothing else can name; then they end by themselves.
# On a host whose CPUs are all taken that lasts some seconds.
_TRACKER_TIMEOUT_S = 10.0


async def clear_away(record: Record, known: Iterable[Process], *, kill_at_s: float) -> None:
    """Returns once nothing is left of a generation whose main process is dead: no process, no shared memory.

    Args:
        record: The generation.
        known: Its processes as they were seen last.
        kill_at_s: Loop time until which they may end by themselves.
    """
    loop = asyncio.get_running_loop()
    written = set(record.shm_written)
    while left := await asyncio.to_thread(family, record, known):
        known = left
        written |= await asyncio.to_thread(shm.written_by, left)
        if await have_ended(left, kill_at_s - loop.time()):
            continue
        await asyncio.to_thread(kill, left, spare=procfs.is_resource_tracker)
        if await have_ended(left, _TRACKER_TIMEOUT_S):
            continue
        await asyncio.to_thread(kill, left)
        if not await have_ended(left, KILL_TIMEOUT_S):
            _log.error("%s: SIGKILL did not end %s", record.name, pids(left), extra={"instance": record.name})
    count, size_bytes = await asyncio.to_thread(shm.remove_unused, written, record.shm_spared)
    if count:
        _log.info(
            "%s: removed %d files (%d MB) that it left in /dev/shm",
            record.name,
            count,
            size_bytes >> 20,
            extra={"instance": record.name},
        )


def family(record: Record, known: Iterable[Process]) -> frozenset[Process]:
    """Those of a generation that live."""
    return procfs.family(record.process, known, record.mark)


def ask(processes: Iterable[Process], leader: Process) -> None:
    """Sends SIGTERM to our processes in the leader's process group, even if its number was reused."""
    for process in processes:
        if procfs.is_in_group(process, leader):
            procfs.send(process, signal.SIGTERM)


def kill(processes: Iterable[Process], *, spare: Callable[[Process], bool] = lambda _: False) -> None:
    """Sends SIGKILL, but to those to spare."""
    for process in processes:
        if not spare(process):
            procfs.send(process, signal.SIGKILL)


def pids(processes: Iterable[Process]) -> str:
    """Their numbers, for a message."""
    return "pid " + ", ".join(str(process.pid) for process in sorted(processes, key=lambda process: process.pid))


async def is_readable(fd: int, timeout_s: float) -> bool:
    """Whether the descriptor becomes readable in time."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(timeout_s):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


async def have_ended(processes: Iterable[Process], timeout_s: float) -> bool:
    """Whether all these processes end in time."""
    until_s = asyncio.get_running_loop().time() + timeout_s
    for process in processes:
        fd = await asyncio.to_thread(procfs.open_process, process)
        if fd is not None:
            try:
                if not await is_readable(fd, until_s - asyncio.get_running_loop().time()):
                    return False
            finally:
                os.close(fd)
    return True
