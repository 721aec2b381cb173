# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where things are kept, and how a half-made folder is told from a whole one."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STAMP = ".complete"


def cache_folder() -> Path:
    """The folder of everything that can be made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "syshax"


def is_complete(folder: Path, recipe: str) -> bool:
    """Whether the folder was made to its end, by this recipe."""
    try:
        return (folder / _STAMP).read_text() == recipe
    except OSError:
        return False


def begin(folder: Path) -> None:
    """Makes the folder anew: what an interrupted attempt left is not trusted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def finish(folder: Path, recipe: str) -> None:
    """Marks the folder as complete. The last step."""
    (folder / _STAMP).write_text(recipe)


@contextmanager
def only_one(cache: Path) -> Iterator[None]:
    """Lets one process at a time prepare; another one waits here."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "prepare.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process is preparing the same; waiting for it", flush=True)  # noqa: T201
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
