# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads small files without blocking, whatever is in their place, and replaces them whole."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from syshaxd.core import jsontext

MOST_BYTES = 64 << 20


def opened(path: Path) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
        OSError: It can't be opened, or is none, such as a pipe that nobody writes to.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read(path: Path) -> bytes:
    """Returns a file's content.

    Raises:
        OSError: As `opened`, or it is too large.
    """
    with opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MOST_BYTES >> 20} MiB", str(path))
    return content


def read_json(path: Path) -> Any:
    """Returns what JSON is in a file.

    Raises:
        OSError: As `read`.
        ValueError: It is no JSON, or nested too deeply.
    """
    return jsontext.loads(read(path))


def replace_json(path: Path, value: Any, *, synced: bool, mode: int = 0o644) -> None:
    """Writes JSON in a file's place, whole or not at all; its folder need not exist.

    Args:
        path: The file.
        value: What JSON can hold.
        synced: It is on the disk when this returns.
        mode: The file's, less the umask.

    Raises:
        OSError: It can't be written. The file is unchanged.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        if synced:
            os.fsync(file.fileno())
    draft.replace(path)
