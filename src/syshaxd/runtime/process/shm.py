# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Shared memory that engines leave behind: some 200 MB in /dev/shm for each vLLM that has ended, even if asked.

/dev/shm belongs to everybody: weights are loaded from there, too. That an instance uses a file says nothing about whose
it is. Only what is surely the instance's own is removed, and what is in doubt stays. Blocking.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from syshaxd.core.types import InstanceSpec
from syshaxd.runtime.process.procfs import PROC, Process, find

FOLDER = Path("/dev/shm")  # noqa: S108 - it is what this is about
_ALL = "."
_ENGINE_NAMES = re.compile(
    r"""
    psm_[0-9a-f]{8}                                 # Python's SharedMemory: vLLM's message queues
    | torch_\d+_\d+_\d+                             # PyTorch's tensors between processes
    | nccl-[A-Za-z0-9]{6}
    | cuda\.shm\.[0-9a-f]+\.[0-9a-f]+\.[0-9a-f]+
    | __KMP_REGISTERED_LIB_\d+_\d+                  # LLVM's OpenMP
    | vllm_(?:offload|ec)_[\w.-]+\.mmap
    | (?:\d+|vllm_dist_[0-9a-f]{32})-\w+:\d+-\[\d+(?:-\d+)*\]-cpushm\w*    # vLLM's all-reduce on CPUs
    """,
    re.ASCII | re.VERBOSE,
)
# Access, offset, device and inode come before the path.
_MAPPED = re.compile(rf"^\S+ (\S{{4}}) \S+ \S+ (\d+) +{FOLDER}/([^/\n]+)$", re.MULTILINE)
_FLAGS = re.compile(r"^flags:\s+([0-7]+)$", re.MULTILINE)


class File(NamedTuple):
    """A file directly in /dev/shm. A name may be used again; a number is not, until the next boot."""

    name: str
    inode: int


def spared(spec: InstanceSpec) -> tuple[str, ...]:
    """Names in /dev/shm that are surely not of the instance that is about to be launched for `spec`.

    Existing files belong to others; files that its settings name belong to the operator.
    """
    names = set()
    with suppress(OSError):
        names = {entry.name for entry in os.scandir(FOLDER) if _ENGINE_NAMES.fullmatch(entry.name)}
    for text in (spec.model, *spec.argv, *(value for _, value in spec.env)):
        with suppress(OSError, ValueError):
            path = Path(text.partition("=")[2] if text.startswith("-") else text)
            if path.is_absolute() and (path := path.resolve()).is_relative_to(FOLDER):
                names.add(path.relative_to(FOLDER).parts[0] if path != FOLDER else _ALL)
    return tuple(sorted(names))


def written_by(processes: Iterable[Process]) -> frozenset[File]:
    """Files with engines' names that the processes have open for writing, or mapped to write to them for all."""
    return frozenset(file for process in processes if find(process.pid) == process for file in _written(process.pid))


def remove_unused(files: Iterable[File], spared: Iterable[str]) -> tuple[int, int]:
    """Removes those of an ended instance's files that are its own and that nobody has open.

    Args:
        files: What its processes had open for writing.
        spared: What is not its own all the same, as `spared` told before its launch.

    Returns:
        How many were removed, and their bytes.
    """
    kept = frozenset(spared)
    left = {} if _ALL in kept else {file.name: file for file in files if file.name not in kept and _size(file) >= 0}
    if left:
        for folder in PROC.glob("[0-9]*"):
            for name in _used(int(folder.name)):
                left.pop(name, None)
    count = removed_bytes = 0
    for file in left.values():
        if (size := _size(file)) >= 0:
            with suppress(OSError):
                (FOLDER / file.name).unlink()
                count, removed_bytes = count + 1, removed_bytes + size
    return count, removed_bytes


def _size(file: File) -> int:
    """In bytes; negative: there is no such file that an engine of this user made."""
    if not _ENGINE_NAMES.fullmatch(file.name):
        return -1
    try:
        found = (FOLDER / file.name).lstat()
    except OSError:
        return -1
    is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
    return found.st_size if is_own and found.st_ino == file.inode else -1


def _written(pid: int) -> Iterator[File]:
    for fd, name in _open(pid):
        if _ENGINE_NAMES.fullmatch(name):
            with suppress(OSError):  # it has just been closed
                flags = _FLAGS.search((PROC / str(pid) / "fdinfo" / fd.name).read_text())
                if flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    yield File(name, fd.stat().st_ino)
    for access, inode, name in _mapped(pid):
        if access[1] == "w" and access[3] == "s" and _ENGINE_NAMES.fullmatch(name):
            yield File(name, int(inode))


def _used(pid: int) -> set[str]:
    return {name for _, name in _open(pid)} | {name for _, _, name in _mapped(pid)}


def _open(pid: int) -> Iterator[tuple[Path, str]]:
    """Descriptors of files directly in /dev/shm, with the files' names; none for another user's process."""
    with suppress(OSError):
        for fd in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):  # it has just been closed
                path = fd.readlink()
                if path.parent == FOLDER:
                    yield fd, path.name


def _mapped(pid: int) -> list[tuple[str, str, str]]:
    """Access, inode and name of files directly in /dev/shm; none for an ended or another user's process."""
    try:
        return _MAPPED.findall((PROC / str(pid) / "maps").read_text(errors="surrogateescape"))
    except OSError:
        return []
