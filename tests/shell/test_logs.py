# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from syshaxd.system import logs


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """Puts logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    logging.captureWarnings(capture=False)
    for handler in root.handlers:
        handler.close()
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


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What stands where the journal listens."""
    path = tmp_path / "journal"
    monkeypatch.setattr(logs, "JOURNAL_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(50)
        yield receiver


def _entry(datagram: bytes) -> dict[str, str]:
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        end = 8 + int.from_bytes(rest[:8], "little")
        fields[name.decode()] = rest[8:end].decode()
        datagram = rest[end:].removeprefix(b"\n")
    return fields


def test_entries_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: socket.socket) -> None:
    with (tmp_path / "log").open("w+") as stream:
        info = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        logs.setup("debug", stream)
        log = logging.getLogger("syshaxd.x")
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "text")
        assert [_entry(journal.recv(1000))["PRIORITY"] for _ in range(5)] == ["7", "6", "4", "3", "2"]
        log.error("two\nlines, INSTANCE=%s", "x", extra={"instance": "gpu", "request_id": "r-1"})
        assert _entry(journal.recv(1000)) == {
            "MESSAGE": "two\nlines, INSTANCE=x",
            "PRIORITY": "3",
            "SYSLOG_IDENTIFIER": "syshaxd",
            "LOGGER": "syshaxd.x",
            "INSTANCE": "gpu",
            "REQUEST_ID": "r-1",
        }
        log.error("x" * 1_000_000)
        assert len(_entry(journal.recv(1_000_000))["MESSAGE"]) == 64 * 1024
        assert not stream.tell()


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
