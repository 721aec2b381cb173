# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A folder for the temporary files of one generation: vLLM leaves sockets and more in its own. Blocking."""

import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

from syshaxd.core.errors import LaunchFailedError

_log = logging.getLogger(__name__)
# `sun_path` holds 107 bytes and a NUL; Ray puts its sockets deepest, 68 bytes below TMPDIR.
_MAX_PATH_BYTES = 107 - 68
_RANDOM = "-12345678"


def make(state_folder: Path, name: str) -> Path:
    """Makes a folder that only this user can enter, for an instance.

    It is next to the records, where it outlives the daemon and is not swept away as in /tmp; unless TMPDIR says
    otherwise, or the path would be too long for sockets.

    Raises:
        LaunchFailedError: It can't be made.
    """
    beside = state_folder / "tmp"
    is_short = len(os.fsencode(beside / f"{_prefix(name)}{_RANDOM}")) <= _MAX_PATH_BYTES
    base = beside if is_short and "TMPDIR" not in os.environ else Path(tempfile.gettempdir())
    try:
        if base == beside:
            base.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{_prefix(name)}-", dir=base))
    except OSError as error:
        raise LaunchFailedError(
            f"{name}: no folder for its temporary files can be made in {base}: {error.strerror}; "
            f"make room there, or set services.{name}.env.TMPDIR",
            permanent=False,
        ) from error


def remove(path: str, name: str) -> None:
    """Removes an ended instance's folder with all that is in it, if it still is the one that `make` made."""
    folder = Path(path)
    try:
        found = folder.lstat()
    except OSError:
        return
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    if not is_own or not folder.name.startswith(f"{_prefix(name)}-"):
        _log.warning("%s: %s is no longer the folder that was made for it; leaving it", name, path)
        return
    try:
        shutil.rmtree(folder)  # follows no links
    except OSError as error:
        _log.warning("%s: cannot remove its temporary files in %s: %s", name, path, error)


def _prefix(name: str) -> str:
    return f"syshax-{name}"
