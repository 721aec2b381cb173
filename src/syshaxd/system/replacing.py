# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Replaces a file whole or not at all, under a lock that keeps other writers out."""

import errno
import fcntl
import os
import pwd
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from syshaxd.core.errors import ConfigError, ConfigFault

_NEW_FILE_MODE = 0o640  # the instances' environments may hold tokens
_LOCK_TIMEOUT_S = 10.0
_LOCK_PAUSE_S = 0.02
_REMEDIES = {
    errno.EROFS: "a service may write to ReadWritePaths= of its unit, a container to mounts without `ro`",
    errno.ENOSPC: "free some space on that disk",
}


def write(path: Path, text: str, *, new_mode: int = _NEW_FILE_MODE) -> None:
    """Replaces the file atomically, keeping its mode and owner.

    Args:
        path: The file.
        text: Its new content.
        new_mode: The mode of a file that is not there yet.

    Raises:
        ConfigError: It can't be written. The file is unchanged.
    """
    Draft(path, text, new_mode=new_mode).commit()


class Draft:
    """A replacement text, already on disk next to the file: everything that can fail has been tried."""

    def __init__(self, path: Path, text: str, *, new_mode: int = _NEW_FILE_MODE) -> None:
        """Writes the text to a temporary file.

        Raises:
            ConfigError: The file can't be replaced. It is unchanged and no temporary file remains.
        """
        try:
            _check_link(path)
            self._path = path.resolve()  # keeps a symbolic link
            _check_replaceable(self._path)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            self._draft = Path(name)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    _take_over_mode(self._path, file.fileno(), new_mode)
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self.discard()
                raise
        except OSError as error:
            raise _not_written(path, error) from error

    def commit(self) -> None:
        """Moves the text into the file's place.

        Raises:
            ConfigError: It failed after all. The file is unchanged and no temporary file remains.
        """
        try:
            self._draft.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            self.discard()
            raise _not_written(self._path, error) from error

    def discard(self) -> None:
        """Discards the text; the file is unchanged."""
        with suppress(OSError):  # an earlier error matters more, or none does
            self._draft.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks out other writers; hold it around reading and changing the file.

    Locks the folder, since the file itself is replaced at each write.

    Raises:
        ConfigError: Another process holds the lock for too long.
    """
    try:
        descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise fault(f"cannot be locked: {reason(error)}") from error
    try:
        give_up_at_s = time.monotonic() + _LOCK_TIMEOUT_S
        while not _lock(descriptor):
            if time.monotonic() > give_up_at_s:
                raise fault("another program keeps it locked (`lsof +d` of its folder shows which)")
            time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_link(path: Path) -> None:
    """Another user's link could make root replace any file.

    Raises:
        ConfigError: It is such a link.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(info.st_mode) and info.st_uid not in (0, os.geteuid()):
        raise fault(f"cannot be written: it is a symbolic link that belongs to another user (uid {info.st_uid})")


def _check_replaceable(path: Path) -> None:
    """Checks for what allows creating a file next to another but not replacing it.

    Raises:
        ConfigError: The file can't be replaced.
    """
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    if any(_unescaped(line.split(b" ")[4]) == os.fsencode(path) for line in mounts):
        raise fault("cannot be replaced: it is itself a mount; mount its folder instead")
    folder, us = path.parent.stat(), os.geteuid()
    with suppress(FileNotFoundError):
        if folder.st_mode & stat.S_ISVTX and us not in (0, folder.st_uid, path.stat().st_uid):
            raise fault(f"cannot be replaced: it belongs to another user, and {path.parent} is sticky (chmod -t)")


def _unescaped(name: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8),)), name)


def _not_written(path: Path, error: OSError) -> ConfigError:
    return fault(f"cannot be written in the folder {path.parent}: {reason(error)}")


def _take_over_mode(path: Path, descriptor: int, new_mode: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, new_mode)
        if os.geteuid() == 0 and not new_mode & stat.S_IRWXG:  # its reader is the folder's owner
            folder = path.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        return
    new = os.fstat(descriptor)
    for owner in (old.st_uid, -1):  # only root may change the owner; the group can be set by its members
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            with suppress(PermissionError):
                os.fchown(descriptor, owner, old.st_gid)
                break
    os.fchmod(descriptor, old.st_mode & 0o7777)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """The system's reason and a remedy; for missing permissions also the user."""
    if not isinstance(error, PermissionError):
        hint = _REMEDIES.get(error.errno or 0)
        return "; ".join(filter(None, (error.strerror or str(error), hint)))
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{error.strerror} for the user {user}; grant the permission, or use `sudo`"


def fault(problem: str) -> ConfigError:
    """A fault of the file as a whole."""
    return ConfigError((ConfigFault("", problem),))


def missing(path: Path) -> ConfigError:
    """There is no such file."""
    return fault(f"no such file; `syshax init --config {path}` creates it")
