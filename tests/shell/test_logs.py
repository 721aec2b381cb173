# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from syshaxd import logs


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """Puts logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_for_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with (tmp_path / "log").open("w+") as stream:
        logs.setup("info", stream)
        logging.getLogger("syshaxd.x").info("up in %.1f s", 2.0)
        logging.getLogger("syshaxd.x").debug("unseen")
        stream.seek(0)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO    syshaxd.x: up in 2.0 s\n", stream.read())


def test_lines_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w+") as stream:
        info = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        logs.setup("debug", stream)
        log = logging.getLogger("syshaxd.x")
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "text")
        log.error("two\nlines")
        stream.seek(0)
        assert stream.read().splitlines() == [
            *(f"<{priority}>syshaxd.x: text" for priority in (7, 6, 4, 3, 2)),
            "<3>syshaxd.x: two",
            "<3>lines",
        ]


def test_a_stream_without_a_descriptor_is_no_journal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (Path(os.devnull)).open("w") as closed:
        pass
    assert not logs.is_journal(closed)
    assert capsys.readouterr().out == ""


def test_pythons_warnings_are_logged(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        logs.setup("warning", stream)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)
            warnings.warn("old thing", DeprecationWarning, stacklevel=1)
            logging.captureWarnings(capture=False)
        stream.seek(0)
        assert "py.warnings" in stream.read()
