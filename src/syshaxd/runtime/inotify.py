# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Waiting for changes of files without polling: inotify(7), for which the standard library has no module."""

import asyncio
import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from syshaxd.core.errors import SyshaxError

_IN_MODIFY = 0x2
_IN_CREATE = 0x100
_EVENTS_BYTES = 64 * 1024


class FolderWatch:
    """Tells when a file in a folder was created, written to or truncated."""

    def __init__(self, folder: Path) -> None:
        """Begins to watch.

        Raises:
            SyshaxError: The folder is not there, or the user has too many watches already.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("no more files can be watched; raise fs.inotify.max_user_instances")
        if libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_MODIFY | _IN_CREATE) < 0:
            error = _error(f"cannot watch {folder}")
            os.close(self._fd)
            raise error
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    async def change(self) -> None:
        """Returns when something has changed since the last call returned, or since the beginning."""
        await self._changed.wait()
        self._changed.clear()

    def _read(self) -> None:
        os.read(self._fd, _EVENTS_BYTES)
        self._changed.set()


def _error(text: str) -> SyshaxError:
    return SyshaxError(f"{text}: {os.strerror(ctypes.get_errno())}")
