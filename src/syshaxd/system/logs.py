# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon's own log: one line per record, or journal entries with fields."""

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
# syslog priorities by lowest level.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
# A datagram's limit is about 200 KB.
_MAX_TEXT_BYTES = 64 * 1024
_FIELDS = ("instance", "request_id")
"""Keys of a record's `extra`, which become the journal fields INSTANCE and REQUEST_ID."""


class JournalHandler(logging.Handler):
    """Sends each record as one entry, by the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: Path) -> None:
        """Does not connect: the journal may be restarted at any time."""
        super().__init__()
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends the record; reports failures on stderr."""
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
    """Redacts secrets in all records: errors of engines and container engines quote their input."""

    def format(self, record: logging.LogRecord) -> str:
        return safe_text(super().format(record))


def _field(name: str, value: str) -> bytes:
    """Name, length, value: no value can be mistaken for another field."""
    data = value.encode(errors="replace")[:_MAX_TEXT_BYTES]
    return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)


def open_standard_streams() -> None:
    """Reopens descriptors 0 to 2 if the parent closed them, and makes streams accept any text.

    Otherwise sockets and files would get their numbers and be inherited by instances as input and output.
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
    """Sends log records of at least `level`, and Python's warnings, to `stream` (stderr if None).

    If the stream is connected to the journal, sends them there directly, with fields.
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
    """Whether the stream is connected to the journal: systemd sets JOURNAL_STREAM to its device and inode."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
