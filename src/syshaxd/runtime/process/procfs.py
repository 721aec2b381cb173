# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What /proc reports of processes. Blocking, if only for milliseconds: call it in a thread."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals, pidfd_send_signal

PROC = Path("/proc")
MARK = "SYSHAX_LAUNCH"
"""Variable by which a launched process and its descendants are known again."""
_DEAD = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class Process:
    """One process. Its number may be used again; together with its start it is unique until the next boot."""

    pid: int
    start_ticks: int
    """Clock ticks from the boot to its start."""


@dataclass(frozen=True, slots=True)
class _Entry:
    process: Process
    parent: int
    group: int
    session: int
    is_dead: bool
    """Only what is left for its parent to reap."""


def boot_id() -> str:
    """Changes with every boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def find(pid: int) -> Process | None:
    """The process that has this number now; None: none, or only what a dead one left to its parent."""
    entry = _read(pid)
    return None if entry is None or entry.is_dead else entry.process


def family(leader: Process, known: Iterable[Process] = (), mark: str = "") -> frozenset[Process]:
    """The living processes of the leader's session or process group, those known, and the descendants of all these.

    The number of a session or a group is not given to anybody else while one process is left in it. So if one in the
    leader's is surely its own - itself, one known, or one with the mark - all are. If none is, they may be anybody's.

    Args:
        leader: The process that was launched; it may be dead.
        known: Others, as they were seen before.
        mark: What the leader has in its environment as MARK, and handed down.
    """
    entries = {entry.process.pid: entry for entry in _all()}
    own = {leader, *known}
    beside = [entry for entry in entries.values() if leader.pid in {entry.session, entry.group}]
    is_held = any(entry.process in own or (mark and _carries(entry.process, mark)) for entry in beside)
    members = {pid for pid, entry in entries.items() if entry.process in own}
    members |= {entry.process.pid for entry in beside} if is_held else set()
    grown = True
    while grown:
        children = {pid for pid, entry in entries.items() if entry.parent in members} - members
        members |= children
        grown = bool(children)
    return frozenset(entries[pid].process for pid in members if not entries[pid].is_dead)


def is_in_group(process: Process, leader: Process) -> bool:
    """Whether a living process is in the leader's process group."""
    entry = _read(process.pid)
    return entry is not None and entry.process == process and entry.group == leader.pid


def _carries(process: Process, mark: str) -> bool:
    try:
        content = (PROC / str(process.pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={mark}".encode() in content.split(b"\0")


def open_process(process: Process) -> int | None:
    """Returns a descriptor that becomes readable when the process ends; None: it has ended already."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if find(process.pid) != process:
        os.close(fd)
        return None
    return fd


def send(process: Process, signal: Signals) -> None:
    """Sends a signal to exactly this process, if it still lives."""
    fd = open_process(process)
    if fd is not None:
        with suppress(ProcessLookupError):
            pidfd_send_signal(fd, signal)
        os.close(fd)


def is_resource_tracker(process: Process) -> bool:
    """Whether it is the helper process of Python's multiprocessing that clears up after the others."""
    try:
        return b"multiprocessing.resource_tracker" in (PROC / str(process.pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _all() -> Iterator[_Entry]:
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (entry := _read(int(folder.name))) is not None:
            yield entry


def _read(pid: int) -> _Entry | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold anything, also parentheses.
    state, parent, group, session, *rest = text.rpartition(")")[2].split()
    return _Entry(Process(pid, int(rest[15])), int(parent), int(group), int(session), state in _DEAD)
