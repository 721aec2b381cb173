# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The folder shared by engines: arenas, and one small file for each hand-over that is ready to load.

A hand-over's file appears complete, under its key. The holder of its lock may use the bytes that it names: a consumer
while it loads, the producer when it reclaims the bytes. Locks end with their holder.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import arena
from .header import MOST_BYTES, MOST_HEAD_BYTES, BadHeaderError, Header, arenas_of, decode, encode

_HANDOVER = ".kv"
_ARENA = ".arena"
_START_BYTES = 4096
"""Usual upper limit of a head's size."""


class FolderError(OSError):
    """The folder can't be used."""


@dataclass(slots=True)
class Claim:
    """A claimed hand-over: no other engine may load or reclaim it until it is closed."""

    path: Path
    header: Header
    _fd: int

    def free(self) -> None:
        """Marks it as used: its bytes return to the producer."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves it to others."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Folder:
    """One folder of arenas and hand-overs."""

    def __init__(self, path: Path) -> None:
        """Does no I/O: an unusable folder costs hand-overs, not the engine."""
        self.path = path

    def make(self) -> None:
        """Creates the folder if needed.

        Raises:
            FolderError: It can't be created, or is not this user's own.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(f"arena_dir {self.path}: {error.strerror}") from error
        self.check()

    def check(self) -> None:
        """Ensures that no other user can write here; before each use, as the folder may have been replaced.

        Raises:
            FolderError: It is not there, or not this user's own.
        """
        path = self.path
        try:
            found = path.lstat()
        except OSError as error:
            raise FolderError(f"arena_dir {path}: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise FolderError(
                f"arena_dir {path}: must be a folder of this user alone (mode 0700, owner {os.geteuid()}), but has "
                f"mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}{_kind(found.st_mode)}; who can write "
                "there can forge KV caches. Remove it, or name another one"
            )

    def arena_path(self, owner: str, rank: int) -> Path:
        """Where an engine's arena of a tensor-parallel rank is."""
        return self.path / f"{owner}.{rank}{_ARENA}"

    def has_arena(self, owner: str) -> bool:
        """Whether a running engine has an arena here. vLLM appends to its name for each data-parallel rank."""
        paths = (path for name in (owner, f"{owner}_dp*") for path in self.path.glob(f"{name}.0{_ARENA}"))
        return any(arena.is_owned(path) for path in paths)

    def publish(self, header: Header) -> None:
        """Publishes a complete hand-over.

        Raises:
            FileExistsError: The key was used before.
            OSError: No room, or the folder can't be used.
        """
        self.check()
        path, content = self._handover(header.key), encode(header)
        fd = os.open(self.path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                arena.give_name(fd, path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise arena.no_room(path, len(content)) from error
            raise

    def exists(self, key: str) -> bool:
        """Whether the hand-over exists."""
        return self._handover(key).exists()

    def claim(self, key: str) -> Claim | None:
        """Claims a hand-over for loading; None if it does not exist (yet).

        Raises:
            BlockingIOError: Another engine has claimed it.
            BadHeaderError: It is damaged, or of another key.
            FolderError: The folder can't be used.
            OSError: It can't be read.
        """
        self.check()
        path = self._handover(key)
        try:
            fd = arena.open_file(path)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(fd)
            if found.st_nlink == 0:  # it was removed between the two calls
                os.close(fd)
                return None
            if found.st_size > MOST_BYTES:
                raise BadHeaderError(f"{found.st_size} bytes are no header")
            header = decode(os.pread(fd, found.st_size, 0))
            if header.key != key:
                raise BadHeaderError(f"it is of the key {header.key}")
        except (OSError, BadHeaderError):
            os.close(fd)
            raise
        return Claim(path, header, fd)

    def take_back(self, key: str) -> bool:
        """Removes a hand-over unless it is being loaded; returns whether it is gone."""
        return _remove_unlocked(self._handover(key))

    def reap(self, ttl_s: float, grace_s: float) -> int:
        """Removes files of dead owners, and returns their number.

        Args:
            ttl_s: Longest age of any hand-over.
            grace_s: How old the files of a dead owner must be.

        Raises:
            FolderError: The folder can't be used.
        """
        self.check()
        reaped = 0
        wanted: set[str] = set()
        arenas: list[tuple[Path, float]] = []
        for path, age_s in list(self._files()):
            if path.suffix == _ARENA:
                arenas.append((path, age_s))
                continue
            parts = self._parts(path)
            owned = bool(parts) and arena.is_owned(self.path / parts[0][0], parts[0][1])
            if age_s > (ttl_s + grace_s if owned else grace_s) and _remove_unlocked(path):
                reaped += 1
            else:
                wanted.update(name for name, _ in parts)
        for path, age_s in arenas:
            if age_s > grace_s and path.name not in wanted and not arena.is_owned(path):
                reaped += _remove_unlocked(path)
        return reaped

    def survey(self) -> tuple[int, float]:
        """How many hand-overs wait to be loaded, and the age of the oldest in seconds."""
        ages_s = [age_s for path, age_s in self._files() if path.suffix == _HANDOVER]
        return len(ages_s), max(ages_s, default=0.0)

    def _files(self) -> Iterator[tuple[Path, float]]:
        now = time.time()
        with os.scandir(self.path) as entries:
            for entry in entries:
                if not entry.name.endswith((_ARENA, _HANDOVER)):
                    continue
                try:
                    yield Path(entry.path), max(0.0, now - entry.stat(follow_symlinks=False).st_mtime)
                except FileNotFoundError:  # it has just gone
                    continue

    def _parts(self, handover: Path) -> list[tuple[str, str]]:
        """The arenas, with their ids, that a hand-over's bytes are in; none if it is damaged or gone."""
        try:
            with os.fdopen(arena.open_file(handover), "rb", buffering=0) as file:
                start = file.read(_START_BYTES)
                if start.count(b"\n", 0) < 2:  # heads with many ranks' packings are longer
                    start += file.read(MOST_HEAD_BYTES)
            return arenas_of(start)
        except (OSError, BadHeaderError):
            return []

    def _handover(self, key: str) -> Path:
        return self.path / f"{key}{_HANDOVER}"


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return ", a link"
    return "" if stat.S_ISDIR(mode) else ", no folder"


def _remove_unlocked(path: Path) -> bool:
    try:
        fd = arena.open_file(path)
    except FileNotFoundError:
        return True
    except OSError:  # not ours, for example a link; no engine would load it
        try:
            path.unlink(missing_ok=True)
        except OSError:  # a folder
            return False
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)
