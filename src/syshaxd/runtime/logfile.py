# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The output of an instance in a file of limited size, over all its generations.

The instance writes into the file itself, so that its output survives the daemon. A file that another process holds open
can't be renamed away: when it grows too big, its content moves to a second file (`.1`), and it starts again from zero.
What is written in the instant between the last copying and that is lost; nothing else is.
"""

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj

from syshaxd.core.errors import LaunchFailedError

_CHUNK_BYTES = 64 * 1024
_ROOM_BYTES = 64 * 1024
_MODE = 0o600
# For a person who reads along; a look costs 0.1 ms.
_FOLLOW_INTERVAL_S = 0.2
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@dataclass(frozen=True, slots=True)
class _Position:
    """A reader's position: an offset in the file that was filled after a number of rotations."""

    rotations: int
    offset: int


def check_room(folder: Path, name: str) -> None:
    """Creates a folder and writes as much into it as a launch does, then removes that again. Blocking.

    Raises:
        LaunchFailedError: A disk is full, say.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LaunchFailedError(
            f"{name}: its record and its log can't be written in {folder}: {error.strerror}; "
            + ("make room there (`df -h`)" if error.errno in _NO_ROOM else "let this user write there"),
            permanent=False,
        ) from error


class LogFile:
    """One instance's log: the instance appends to `path`, while this end reads it and keeps it small."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Does no I/O yet.

        Args:
            path: The file.
            max_bytes: Size from which the content moves to the second file; up to about twice that is kept.
        """
        self.path = path
        self._old = path.with_name(f"{path.name}.1")
        self._max_bytes = max_bytes
        self._rotations = 0
        self._lock = asyncio.Lock()  # a reader must not see half a rotation

    async def append(self, line: str) -> None:
        """Adds a line of our own."""
        await asyncio.to_thread(self._append, line)

    async def limit(self) -> None:
        """Moves the content to the second file if there is too much of it. To be called now and then."""
        async with self._lock:
            if await asyncio.to_thread(self._rotate):
                self._rotations += 1

    async def lines(self, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """The lines, as InstanceRuntime.logs describes them. One that may still be finished is not given yet."""
        if not follow:
            *lines, rest = (await self._read(await self._start(tail)))[0].split(b"\n")
            for line in _last([*lines, rest] if rest else lines, tail):
                yield _text(line)
            return
        data, position = await self._read(await self._start(tail))
        *lines, rest = data.split(b"\n")
        for line in _last(lines, tail):
            yield _text(line)
        while True:
            await asyncio.sleep(_FOLLOW_INTERVAL_S)
            data, position = await self._read(position)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield _text(line)

    async def _start(self, tail: int | None) -> _Position:
        """A position that at least `tail` whole lines follow, if there are that many; None: the very beginning."""
        async with self._lock:
            return await asyncio.to_thread(self._find_start, tail)

    async def _read(self, position: _Position) -> tuple[bytes, _Position]:
        """What follows a position, and the position after it."""
        async with self._lock:
            return await asyncio.to_thread(self._read_both, position)

    # Blocking.

    def _append(self, line: str) -> None:
        fd = open_private(self.path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{line}\n")

    def _find_start(self, tail: int | None) -> _Position:
        newlines = 0
        for rotations, path in ((self._rotations, self.path), (self._rotations - 1, self._old)):
            end = _size(path) if tail is not None else 0
            while end > 0:
                offset = max(0, end - _CHUNK_BYTES)
                newlines += _content(path, offset, end - offset).count(b"\n")
                if tail is not None and newlines > tail:
                    return _Position(rotations, offset)
                end = offset
        return _Position(self._rotations - 1, 0)

    def _read_both(self, position: _Position) -> tuple[bytes, _Position]:
        old = b""
        if position.rotations < self._rotations:
            missed = position.rotations < self._rotations - 1
            old = _content(self._old, 0 if missed else position.offset)
            position = _Position(self._rotations, 0)
        new = _content(self.path, position.offset)
        return old + new, _Position(self._rotations, position.offset + len(new))

    def _rotate(self) -> bool:
        if _size(self.path) <= self._max_bytes:
            return False
        copy = self._old.with_name(f"{self._old.name}.new")
        with (
            self.path.open("rb") as source,
            os.fdopen(open_private(copy, os.O_WRONLY | os.O_TRUNC), "wb") as target,
        ):
            copyfileobj(source, target)
            copy.replace(self._old)
            copyfileobj(source, target)  # what has come meanwhile
            target.flush()
            os.truncate(self.path, 0)
        return True


def open_private(path: Path, flags: int) -> int:
    """A file for this user alone, whatever the umask: engines print their settings and their requests."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, _MODE)
    os.fchmod(descriptor, _MODE)  # one that an earlier version has made
    return descriptor


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _content(path: Path, offset: int, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return b""


def _last(lines: list[bytes], tail: int | None) -> list[bytes]:
    return lines if tail is None else lines[max(0, len(lines) - tail) :]


def _text(line: bytes) -> str:
    """The line as a terminal would leave it: of a progress bar, only its last state."""
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
