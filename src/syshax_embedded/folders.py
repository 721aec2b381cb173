# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Paths of the embedded profile, and marks that distinguish complete folders from interrupted ones."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syshax_embedded.progress import StepFailedError, say

_STAMP = ".syshax-made-by"
_BEGUN = "begun"


def cache_folder() -> Path:
    """The cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "syshax"


def is_complete(folder: Path, recipe: str) -> bool:
    """Whether the folder was completed by this recipe."""
    try:
        return (folder / _STAMP).read_text() == recipe
    except (OSError, ValueError):
        return False


def begin(folder: Path) -> None:
    """Recreates the folder, empty: remains of an interrupted attempt are not trusted.

    Raises:
        StepFailedError: It contains files that this program did not create.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / _STAMP
    if not stamp.exists() and any(folder.iterdir()):
        raise StepFailedError(f"{folder} holds files that are not of this program: name another folder, or empty it")
    write_whole(stamp, _BEGUN)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != stamp:
            entry.unlink()


def finish(folder: Path, recipe: str) -> None:
    """Marks the folder as complete. The last step."""
    write_whole(folder / _STAMP, recipe)


def write_whole(path: Path, text: str) -> None:
    """Replaces a file's content, wholly or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


@contextmanager
def only_one(cache: Path) -> Iterator[None]:
    """Lets one process at a time prepare; others wait here.

    Child programs inherit the lock, so that one that outlives a killed preparation excludes the next.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock_file = (cache / "prepare.lock").open("w")
    except OSError as error:
        raise StepFailedError(
            f"cannot write to {cache}: {error.strerror}. Set XDG_CACHE_HOME to a folder in which you may write."
        ) from error
    with lock_file as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is preparing the same; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
