# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Carries out a plan: one file after the other, then the folder.

A file gets its name when all of it is on the disk, and the folder when all its files are. So whatever interrupts this,
what has a name is complete, and the next run continues with the missing files.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from syshax_quantize import rounding

GROUP = 32
_BLOCK_NUMBERS = 1 << 20
"""Numbers that a thread holds in memory: some 30 MB, including what is computed from them."""
_COPY_BYTES = 1 << 22
_WAIT_S = 0.5
_SPARE_BYTES = 64 << 20
"""Disk space for small files, and for others."""
_MAKE_ROOM = "make room (`syshax weights` lists and removes older ones), or move the state folder"


class MakingError(Exception):
    """The folder could not be made. The message says why, and what to do."""


class Maker:
    """Makes one folder."""

    def __init__(
        self, plan: Mapping[str, Any], folder: Path, *, threads: int = 1, report: Callable[[int, int], None]
    ) -> None:
        """Does no I/O yet.

        Args:
            plan: As `WeightsPlan.as_json` returns it.
            folder: The folder to make. It does not exist until it is complete.
            threads: Number of threads that compute.
            report: Is called before and after each step with the bytes of the model that are done, and their total.
        """
        self._plan = plan
        self._folder = folder
        self._staging = folder.with_name(f".making-{folder.name}")
        self._source = Path(plan["source"])
        self._threads = threads
        self._report = report
        self._done = 0
        self._total = sum(_source_bytes(file) for file in plan["files"])

    def make(self, *, waiting: Callable[[], None] = lambda: None) -> None:
        """Makes what is missing. Returns once the folder exists, even if another process made it.

        Args:
            waiting: Is called now and then while another process makes weights in the same place.

        Raises:
            MakingError: The folder can't be made.
        """
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _only_one(self._folder.parent / ".lock", waiting):
                if not self._folder.exists():
                    self._make_all()
        except OSError as error:
            remedy = f": {_MAKE_ROOM}, then start this again" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
            text = f"{error.filename or self._folder}: {error.strerror or error}{remedy}"
            raise MakingError(text) from error

    def _make_all(self) -> None:
        self._staging.mkdir(mode=0o700, exist_ok=True)
        self._remove_incomplete()
        missing = [file for file in self._plan["files"] if not (self._staging / file["name"]).exists()]
        self._check_room(sum(_size(file) for file in missing))
        self._done = self._total - sum(_source_bytes(file) for file in missing)
        self._step()
        for file in missing:
            self._make_file(file)
        for name, digest in self._plan["copies"].items():
            self._copy(name, digest)
        for name, text in self._plan["texts"].items():
            self._write(name, [text.encode()], like=self._source / "config.json")
        # Whoever may read the model may read its weights: the container of an instance may have a user of its own.
        self._staging.chmod(_mode(self._source, 0o700))
        _sync(self._staging)
        self._step()
        self._staging.rename(self._folder)
        _sync(self._folder.parent)
        self._step()

    def _step(self) -> None:
        self._report(self._done, self._total)

    def _remove_incomplete(self) -> None:
        sizes = {file["name"]: _size(file) for file in self._plan["files"]}
        for path in self._staging.iterdir():
            if sizes.get(path.name) != path.stat().st_size:
                path.unlink()

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._staging).free
        if needed + _SPARE_BYTES > free:
            text = f"{self._folder.parent} has {free >> 20} MiB free, and the weights take {needed >> 20} MiB"
            raise MakingError(f"{text}: {_MAKE_ROOM}")

    def _copy(self, name: str, digest: str) -> None:
        seen = hashlib.sha256()

        def parts() -> Iterator[bytes]:
            for part in _parts(self._source / name):
                seen.update(part)
                yield part

        self._write(name, parts(), like=self._source / name)
        if seen.hexdigest() != digest:
            raise _changed(name)

    def _write(self, name: str, parts: Iterable[bytes], *, like: Path) -> None:
        """Writes a small file. The folder has no name yet, so nobody reads it before it is complete.

        `like`: the file of the model with the same readers.
        """
        self._step()
        with (self._staging / name).open("wb") as file:
            for part in parts:
                file.write(part)
            os.fchmod(file.fileno(), _mode(like, 0o600))
            file.flush()
            os.fsync(file.fileno())

    def _make_file(self, file: Mapping[str, Any]) -> None:
        part = self._staging / f"{file['name']}.part"
        try:
            self._make_part(file, part)
        except Exception:
            part.unlink(missing_ok=True)  # it may be what the disk is full of
            raise
        self._step()
        part.rename(self._staging / file["name"])
        self._step()

    def _make_part(self, file: Mapping[str, Any], part: Path) -> None:
        path = self._source / file["name"]
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(target, 0, _size(file))
                _pwrite(target, bytes.fromhex(file["header"]), 0)
                self._make_tensors(file["tensors"], source, target)
                os.fchmod(target, _mode(path, 0o600))
                os.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)
        # All of it was read before: so what was read is what the plan was made for.
        if path.stat().st_mtime_ns != file["modified_ns"]:
            raise _changed(file["name"])

    def _make_tensors(self, tensors: Sequence[Mapping[str, Any]], source: int, target: int) -> None:
        def work(job: Callable[[int, int], int]) -> int:
            return job(source, target)

        jobs = [job for tensor in tensors for job in _jobs(tensor)]
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for done in pool.map(work, jobs):
                    self._done += done
                    self._step()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _changed(name: str) -> MakingError:
    return MakingError(f"the model's {name} changed meanwhile: wait until nothing writes to it, then start this again")


def _mode(path: Path, own: int) -> int:
    """The permissions to read a part of the model, and `own` for the owner."""
    return stat.S_IMODE(path.stat().st_mode) & 0o555 | own


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(_COPY_BYTES):
            yield part


def _size(file: Mapping[str, Any]) -> int:
    return int(file["size"])


def _source_bytes(file: Mapping[str, Any]) -> int:
    return sum(tensor["bytes"] for tensor in file["tensors"])


def _jobs(tensor: Mapping[str, Any]) -> Iterator[Callable[[int, int], int]]:
    """Yields a job for each part of a tensor: it reads the part, writes the result, and returns the bytes read."""
    if tensor["scheme"] is None:
        for start in range(0, tensor["bytes"], _COPY_BYTES):
            yield _copying(tensor, start, min(_COPY_BYTES, tensor["bytes"] - start))
        return
    rows, columns = tensor["shape"]
    step = max(1, _BLOCK_NUMBERS // columns)
    for first in range(0, rows, step):
        yield _rounding(tensor, first, min(step, rows - first))


def _copying(tensor: Mapping[str, Any], start: int, size: int) -> Callable[[int, int], int]:
    def copy(source: int, target: int) -> int:
        _pwrite(target, _pread(source, size, tensor["offset"] + start), tensor["to"][0] + start)
        return size

    return copy


def _rounding(tensor: Mapping[str, Any], first: int, rows: int) -> Callable[[int, int], int]:
    """Rounds some rows of a matrix."""
    all_rows, columns = tensor["shape"]
    row_bytes = tensor["bytes"] // all_rows

    def quantise(source: int, target: int) -> int:
        raw = _pread(source, rows * row_bytes, tensor["offset"] + first * row_bytes)
        values = rounding.as_floats(raw, tensor["dtype"]).reshape(rows, columns)
        try:
            parts = _rounded(values, tensor["scheme"])
        except rounding.NotFiniteError as error:
            raise MakingError(f"the weights of {tensor['name']} are damaged: {error}; copy the model again") from None
        for data, offset in zip(parts, tensor["to"], strict=False):
            # All rows have the same size.
            _pwrite(target, data, offset + len(data) // rows * first)
        if len(tensor["to"]) > len(parts) and not first:
            shape = all_rows.to_bytes(8, "little") + columns.to_bytes(8, "little")
            _pwrite(target, shape, tensor["to"][len(parts)])
        return len(raw)

    return quantise


def _rounded(values: rounding.Floats, scheme: str) -> tuple[bytes, bytes]:
    if scheme == "int8":
        return rounding.int8_rows(values)
    if scheme == "int4":
        return rounding.int4_groups(values, GROUP)
    if scheme == "pack4":
        return rounding.pack4_groups(values, GROUP)
    raise MakingError(f"the plan wants the scheme {scheme}, which this version of syshax_quantize does not know")


def _pread(file: int, size: int, offset: int) -> bytes:
    parts = []
    while size:
        part = os.pread(file, size, offset)
        if not part:
            raise MakingError("a file of the model was truncated meanwhile; copy it again")
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)


def _pwrite(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _only_one(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Lets one process at a time make weights in a folder. The kernel drops the lock of one that dies."""
    with path.open("w") as file:
        while not _locked(file):
            waiting()
            time.sleep(_WAIT_S)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
