# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An arena: a rank's piece of shared memory for hand-overs, created once and reused.

Allocating tmpfs pages runs at 1 to 3 GB/s, reusing them costs nothing: so they are allocated at start, and a
hand-over takes some of them. The owner holds a lock on the file while it lives; the kernel drops it however it dies.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .extents import PAGE_BYTES

_MAGIC = b"SYSHAXARENA1 "
_POPULATE_WRITE = 23
_POPULATE_READ = 22
_CHUNK_BYTES = 64 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class ArenaError(OSError):
    """The arena is missing, incomplete, or not the expected one."""


@dataclass(slots=True)
class Arena:
    """A mapped arena. Its memory may be used as long as the object lives."""

    path: Path
    id: str
    """Unique for each arena, even under the same file name."""
    memory: mmap.mmap
    fd: int
    is_ready: bool = False
    """Set by its user once copies run at full speed."""

    @property
    def address(self) -> int:
        """The address at which it is mapped."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def check(self) -> None:
        """Makes sure that the memory may be touched: behind the end of a file that was cut off, that would be the end.

        Raises:
            ArenaError: The file was removed or cut off.
        """
        found = os.fstat(self.fd)
        if found.st_nlink == 0:
            raise ArenaError(f"{self.path}: the arena was removed")
        if found.st_size < len(self.memory):
            raise ArenaError(f"{self.path}: the arena was cut off to {found.st_size} bytes")

    def is_removed(self) -> bool:
        """Whether the file was unlinked."""
        return os.fstat(self.fd).st_nlink == 0

    def give_up(self) -> None:
        """Removes the file if it is still this one; existing mappings stay valid."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self.path.stat(), os.fstat(self.fd)):
                self.path.unlink()
        self.close()

    def close(self) -> None:
        """Closes the file; its memory is freed with the last view of it."""
        os.close(self.fd)

    def populate(self, *, write: bool) -> None:
        """Populates the page table now, so that the first copy need not. Releases the GIL."""
        base, size = self.address, len(self.memory)
        advice = _POPULATE_WRITE if write else _POPULATE_READ
        for offset in range(0, size, _CHUNK_BYTES):
            chunk = min(_CHUNK_BYTES, size - offset)
            # Older kernels lack it: then the first copies are slower.
            if _libc.madvise(ctypes.c_void_p(base + offset), ctypes.c_size_t(chunk), advice):
                return


def create(path: Path, size: int) -> Arena:
    """Creates an arena; it appears under its name once complete. Takes seconds per few GB.

    Raises:
        OSError: No room (ENOSPC), or the name is taken by a living owner.
    """
    room = os.statvfs(path.parent)
    if room.f_blocks and room.f_bavail * room.f_frsize < size:
        # The kernel would exhaust the memory of others before failing.
        raise no_room(path, size)
    # Unnamed until complete: a process killed here leaves nothing behind.
    fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # Not ftruncate: writing to pages that the tmpfs can't give later is a SIGBUS, not an error.
        os.posix_fallocate(fd, 0, size)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        name = uuid.uuid4().hex
        os.pwrite(fd, _MAGIC + name.encode() + b"\n", 0)
        arena = Arena(path, name, mmap.mmap(fd, size), fd)
        arena.populate(write=True)
        if path.exists() and not is_owned(path):
            path.unlink(missing_ok=True)
        give_name(fd, path)
    except OSError:
        os.close(fd)
        raise
    return arena


def attach(path: Path, arena_id: str) -> Arena:
    """Maps another engine's arena.

    Raises:
        ArenaError: It is missing, or is another one.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ArenaError(f"{path}: {error.strerror}") from error
    try:
        if not _is_of(fd, arena_id):
            raise ArenaError(f"{path}: another arena than {arena_id}")
        return Arena(path, arena_id, mmap.mmap(fd, os.fstat(fd).st_size), fd)
    except (OSError, ValueError) as error:
        os.close(fd)
        raise error if isinstance(error, ArenaError) else ArenaError(f"{path}: {error}") from error


def _is_of(fd: int, arena_id: str) -> bool:
    return os.pread(fd, PAGE_BYTES, 0).partition(b"\n")[0] == _MAGIC + arena_id.encode("utf-8", "replace")


def no_room(path: Path, size: int) -> OSError:
    """The error and advice if the shared memory is too full for a file."""
    return OSError(
        errno.ENOSPC,
        f"no room for {size} bytes; free some of this shared memory, give it more (a container's: --shm-size, else: "
        "mount -o remount,size=...), or lower arena_bytes",
        str(path),
    )


def give_name(fd: int, path: Path) -> None:
    """Gives a name to a file opened with O_TMPFILE.

    Raises:
        FileExistsError: The name is taken.
    """
    # With an absolute path the folder's descriptor is not looked at, but given one, Python follows the link (linkat).
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def open_file(path: Path) -> int:
    """Opens a file for reading; anything else under its name, such as a pipe or a folder, is refused at once.

    Raises:
        OSError: It is not there, or is no file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return fd


def is_owned(path: Path, arena_id: str = "") -> bool:
    """Whether the arena's creator runs. PIDs would not do: containers have their own.

    Args:
        path: Its file.
        arena_id: Which one it must be, if that matters: a new engine may have taken the name of a dead one.
    """
    try:
        fd = open_file(path)
    except OSError:
        return False
    try:
        if arena_id and not _is_of(fd, arena_id):
            return False
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
