# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How the daemon's own log looks: one line for a person, or lines that the journal understands."""

import logging
import os
import sys
from typing import TextIO

_HUMAN_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_JOURNAL_FORMAT = "%(name)s: %(message)s"  # the journal adds the time itself
# syslog's priorities, by the lowest level that gets them.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))


class JournalFormatter(logging.Formatter):
    """Puts the priority before each line, as sd-daemon(3) describes: `<4>`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record's text, each line with its priority."""
        priority = next(priority for level, priority in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def setup(level: str, stream: TextIO | None = None) -> None:
    """Sends all log records of at least `level` to `stream` (stderr if None), and warnings of Python with them."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JournalFormatter(_JOURNAL_FORMAT) if is_journal(stream) else logging.Formatter(_HUMAN_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def is_journal(stream: TextIO) -> bool:
    """Whether the stream goes to the journal: systemd tells its device and inode in JOURNAL_STREAM."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
