# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How the daemon's own log looks: one line for a person, or entries of the journal with fields to filter by."""

import io
import logging
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TextIO

from syshaxd.core.secrets import safe_text

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_HUMAN_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# syslog's priorities, by the lowest level that gets them.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
# A datagram's limit is about 200 KB.
_MAX_TEXT_BYTES = 64 * 1024
_FIELDS = ("instance", "request_id")
"""What a record's `extra` may hold: fields INSTANCE and REQUEST_ID of the journal."""


class JournalHandler(logging.Handler):
    """Sends each record as one entry, by the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: Path) -> None:
        """Connects to nothing: the journal may be restarted at any time."""
        super().__init__()
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends the record; a journal that takes nothing is told of on stderr."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(next(priority for level, priority in _PRIORITIES if record.levelno >= level)),
            "SYSLOG_IDENTIFIER": "syshaxd",
            "LOGGER": record.name,
        }
        fields |= {name.upper(): str(value) for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        try:
            self._socket.sendto(b"".join(_field(*field) for field in fields.items()), self._path)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Sends nothing more."""
        self._socket.close()
        super().close()


class _Formatter(logging.Formatter):
    """Shows no secrets, whoever logs them: errors of engines and of container engines quote what they were given."""

    def format(self, record: logging.LogRecord) -> str:
        return safe_text(super().format(record))


def _field(name: str, value: str) -> bytes:
    """Name, length, value: whatever the value holds, it can't pass for another field."""
    data = value.encode(errors="replace")[:_MAX_TEXT_BYTES]
    return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)


def open_standard_streams() -> None:
    """Gives this process what its parent may have closed: descriptors 0 to 2, and streams that take any text.

    Else the next sockets and files would get their numbers, and be handed to instances as their input and output.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def setup(level: str, stream: TextIO | None = None) -> None:
    """Sends all log records of at least `level` to `stream` (stderr if None), and warnings of Python with them.

    Where the stream goes to the journal, they go there directly, with fields.
    """
    stream = stream or sys.stderr
    handler: logging.Handler
    if is_journal(stream) and JOURNAL_SOCKET.exists():
        handler = JournalHandler(JOURNAL_SOCKET)
        handler.setFormatter(_Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Formatter(_HUMAN_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def is_journal(stream: TextIO) -> bool:
    """Whether the stream goes to the journal: systemd tells its device and inode in JOURNAL_STREAM."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
