# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A new text for the configuration file, which other programs may change meanwhile."""

from contextlib import suppress
from pathlib import Path

from syshaxd.core.errors import ConfigError
from syshaxd.system import configfile, replacing


class FileChange:
    """The file's new text: written to disk before any instance is touched, moved into place at the end."""

    def __init__(self, path: Path, text: str) -> None:
        """Does nothing yet."""
        self._path = path
        self._text = text
        self._before: str | None = None
        self._draft: replacing.Draft | None = None

    def prepare(self) -> None:
        """Tries all that can fail. Raises ConfigError: the file can't be written."""
        self._before = _text_in(self._path)
        self._draft = replacing.Draft(self._path, self._text)

    def commit(self) -> str:
        """Replaces the file. Returns a message about it; raises ConfigError: it is as before."""
        assert self._draft is not None
        note = ""
        with replacing.locked(self._path):
            meanwhile = _text_in(self._path)
            if meanwhile not in (None, self._before):
                beside = rejected_path(self._path)
                replacing.write(beside, meanwhile or "")
                note = f"the file was changed while another text was applied; that change was saved to {beside}"
            self._draft.commit()
        return note

    def discard(self) -> None:
        """Leaves the file as it is."""
        if self._draft is not None:
            self._draft.discard()


def _text_in(path: Path) -> str | None:
    """The text of a file; None: it can't be read."""
    with suppress(ConfigError):
        return configfile.read_text(path)
    return None


def rejected_path(path: Path) -> Path:
    """Where a text is kept that is not in effect."""
    return path.with_name(f"{path.name}.rejected")
