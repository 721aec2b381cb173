# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Shared memory that processes leave behind: some 200 MB in /dev/shm for each vLLM that has ended, even if asked.

The files' names don't tell whose they are, so they must be looked up while their processes live. Blocking.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from syshaxd.runtime.process.procfs import PROC, Process, find, open_files

_FOLDER = "/dev/shm/"  # noqa: S108 - it is what this is about
_MAPPED = re.compile(rf" ({_FOLDER}.+)$", re.MULTILINE)
_DELETED = " (deleted)"


def used_by(processes: Iterable[Process]) -> frozenset[str]:
    """Paths of the shared memory that the processes have mapped or open; without that which has no name any more."""
    return frozenset(path for process in processes if find(process.pid) == process for path in _used(process.pid))


def remove_unused(paths: Iterable[str]) -> tuple[int, int]:
    """Removes those files that no living process uses. Returns their count and their bytes."""
    left = {path for path in paths if Path(path).exists()}
    if left:
        for folder in PROC.glob("[0-9]*"):
            left -= _used(int(folder.name))
    removed_bytes = 0
    for path in left:
        with suppress(FileNotFoundError):
            removed_bytes += Path(path).stat().st_size
            Path(path).unlink()
    return len(left), removed_bytes


def _used(pid: int) -> set[str]:
    paths = {path for path in open_files(pid) if path.startswith(_FOLDER)}
    with suppress(OSError):  # it has ended, or belongs to somebody else
        paths.update(_MAPPED.findall((PROC / str(pid) / "maps").read_text(errors="surrogateescape")))
    return {path for path in paths if not path.endswith(_DELETED)}
