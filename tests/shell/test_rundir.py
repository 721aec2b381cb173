# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from syshaxd.core.errors import SyshaxError
from syshaxd.system import rundir


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


@pytest.fixture
def daemon(home: Path) -> Iterator[Path]:
    """The socket of a daemon that this user has started by hand."""
    path = rundir.socket_path(None)
    rundir.make_folder(path.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        yield path


def test_where_the_daemon_puts_its_socket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rundir.socket_path(None) == home / "run/syshax/admin.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert rundir.socket_path(None) == Path(f"/tmp/syshax-{os.getuid()}/admin.sock")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/syshax:/run/other")
    assert rundir.socket_path(None) == rundir.SERVICE_SOCKET
    assert rundir.socket_path("~/mine.sock") == home / "mine.sock"


def test_a_path_that_is_too_long() -> None:
    longest = "/" + "x" * 99
    assert rundir.socket_path(longest) == Path(longest)
    with pytest.raises(SyshaxError, match="has 101 bytes, and may have 100"):
        rundir.socket_path(longest + "x")
    with pytest.raises(SyshaxError, match="has 109 bytes"):
        rundir.socket_path("/" + "ü" * 54)


def test_a_client_finds_the_users_daemon(daemon: Path) -> None:
    assert rundir.find_socket(None) == daemon


def test_a_client_finds_it_from_a_shell_without_the_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch, daemon: Path
) -> None:
    monkeypatch.setattr(rundir, "_user_sockets", lambda: (home / "nowhere/admin.sock", daemon))
    assert rundir.find_socket(None) == daemon


def test_a_client_without_a_daemon_looks_for_the_service() -> None:
    assert rundir.find_socket(None) == rundir.SERVICE_SOCKET


def test_a_folder_that_cannot_be_looked_into_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "x" * 300)  # longer than a name may be: an error also for root
    assert rundir.find_socket(None) == rundir.SERVICE_SOCKET


def test_a_client_takes_what_it_is_told(daemon: Path) -> None:
    assert rundir.find_socket(Path("x.sock")) == Path("x.sock")


def test_a_client_trusts_no_folder_of_others(daemon: Path) -> None:
    daemon.parent.chmod(0o777)
    assert rundir.find_socket(None) == rundir.SERVICE_SOCKET


def test_a_new_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    rundir.make_folder(folder)
    rundir.make_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_everybody_can_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(SyshaxError, match="can be written to by all users"):
        rundir.make_folder(tmp_path)
    tmp_path.chmod(0o1777)
    rundir.make_folder(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    squatted = tmp_path / "squatted"
    squatted.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(squatted)
    os.chown(squatted, 12345, 12345)
    for folder in (squatted, link):
        with pytest.raises(SyshaxError, match="belongs to another user"):
            rundir.make_folder(folder)


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    rundir.make_folder(link)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(SyshaxError, match=r"cannot create the folder .* File exists"):
        rundir.make_folder(path)


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, former[1]))  # as on a full disk
    try:
        with pytest.raises(SyshaxError, match=r"cannot lock the admin socket with .*admin.sock.lock: File too large"):
            rundir.claim_socket(tmp_path / "run" / "admin.sock")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_where_records_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rundir.state_dir() == home / ".local/state/syshax"
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert rundir.state_dir() == Path("/xdg/syshax")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/syshax:/var/lib/other")
    assert rundir.state_dir() == Path("/var/lib/syshax")


def test_a_daemon_that_takes_no_connections_is_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(os.fspath(path))
        listening.listen(0)
        waiting.connect(os.fspath(path))  # who comes next would wait for ever
        assert rundir.answers(path)
        assert rundir.is_awaited(path)
        assert not rundir.forbidden(path)
