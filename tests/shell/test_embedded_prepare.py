# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Preparing: steps that show what they do, folders that are whole or made anew, one preparation at a time."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from syshax_embedded.engine import check_room
from syshax_embedded.folders import begin, finish, is_complete, only_one
from syshax_embedded.progress import Step, StepFailedError

HANG = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
"""A program that tells its process id and goes on."""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# Folders.


def test_a_folder_is_whole_only_when_finished_by_the_same_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    assert not is_complete(folder, "recipe 1")
    begin(folder)
    assert not is_complete(folder, "recipe 1")
    finish(folder, "recipe 1")
    assert is_complete(folder, "recipe 1")
    assert not is_complete(folder, "recipe 2")


def test_what_an_interrupted_attempt_left_is_removed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    begin(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "half").touch()
    (folder / "link").symlink_to(elsewhere)
    begin(folder)
    finish(folder, "recipe")
    assert len(list(folder.iterdir())) == 1
    assert (elsewhere / "precious").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StepFailedError, match="not of this program"):
        begin(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_too_little_room_is_told(tmp_path: Path) -> None:
    check_room(tmp_path, 1)
    with pytest.raises(StepFailedError, match=r"GiB are needed.*XDG_CACHE_HOME"):
        check_room(tmp_path, 2**60)


# Steps.


def test_a_step_tells_its_begin_and_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "step.log"
    with Step("brewing tea", log) as step:
        step.run("water", python("print('boiling')"))
        step.run("leaves", python("import sys; print('green', file=sys.stderr)"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "==> brewing tea"
    assert lines[-1].startswith("    done in ")
    assert "boiling" in log.read_text()
    assert "green" in log.read_text()


def test_a_failed_program_shows_its_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "step.log"
    fail = python("for n in range(100): print('line', n)\nraise SystemExit(3)")
    with pytest.raises(StepFailedError) as caught, Step("title", log) as step:
        step.run("counting", fail)
    message = str(caught.value)
    assert "counting: " in message
    assert "ended with code 3" in message
    assert "line 99" in message
    assert "line 9\n" not in message
    assert str(log) in message
    assert "run the same command again" in message
    assert "not done" in capsys.readouterr().out


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(StepFailedError, match="cannot start /nothing/here: No such file"),
        Step("t", tmp_path / "l") as s,
    ):
        s.run("nothing", ["/nothing/here"])


def test_output_that_is_no_text(tmp_path: Path) -> None:
    with Step("t", tmp_path / "log") as step:
        step.run("bytes", python("import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')"))


def test_a_terminal_gets_one_live_line(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from syshax_embedded.progress import Step\n"
        f"with Step('t', Path({str(tmp_path / 'log')!r})) as step:\n"
        "    step.run('water', ['sleep', '1.3'])"
    )
    outside, inside = pty.openpty()
    with subprocess.Popen(python(code), stdout=inside, stdin=subprocess.DEVNULL) as process:
        os.close(inside)
        shown = b""
        with suppress(OSError):  # so the end looks like here
            while part := os.read(outside, 1000):
                shown += part
    os.close(outside)
    assert process.returncode == 0
    assert b"\r\x1b[2K       1 s  water\r\x1b[2K" in shown
    assert b"\r\x1b[2K    done in " in shown


# One at a time.


def locked(cache: Path) -> bool:
    with (cache / "prepare.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def preparing(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A preparation that runs a program without an end: its process, and the program's id."""
    code = (
        "from pathlib import Path; import signal\n"
        "from syshax_embedded.folders import only_one\n"
        "from syshax_embedded.progress import Step\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with only_one(folder), Step('t', folder / 'log', plain_interval_s=0.05) as step:\n"
        f"    step.run('id', [{sys.executable!r}, '-c', {HANG!r}])\n"
    )
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        number = next(line.split()[-1] for line in process.stdout if line.split()[-2] == "id:")
        yield process, int(number)
        process.kill()
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)


def wait_for_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(fd)
    assert poll.poll(50_000), f"{pid} has not ended"
    os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_preparation_stops_its_program(
    tmp_path: Path, preparing: tuple["subprocess.Popen[str]", int], number: signal.Signals
) -> None:
    process, program = preparing
    assert locked(tmp_path)
    process.send_signal(number)
    process.wait(50)
    wait_for_end(program)
    assert not locked(tmp_path)


def test_a_program_that_outlives_its_preparation_keeps_the_next_one_waiting(
    tmp_path: Path, preparing: tuple["subprocess.Popen[str]", int]
) -> None:
    process, program = preparing
    process.kill()
    process.wait(50)
    assert locked(tmp_path)
    os.kill(program, signal.SIGKILL)
    with only_one(tmp_path):
        assert locked(tmp_path)
    assert not locked(tmp_path)


# The command.


def command(*arguments: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    """Runs it where pip finds no package."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environment |= {"XDG_CACHE_HOME": str(cache), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, "-m", "syshax_embedded", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.long
def test_without_packages_it_says_what_failed_and_trusts_nothing(tmp_path: Path) -> None:
    done = command("prepare", "--engine-only", cache=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "PyTorch: " in done.stderr
    assert "No matching distribution found for torch" in done.stderr
    assert done.stdout.startswith("==> installing vLLM")
    (environment,) = (tmp_path / "syshax" / "engines").iterdir()
    assert (environment / "bin" / "python").exists()
    begin(environment)  # it is known as ours, and not as whole
    assert not (environment / "bin").exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command("prepare", cache=tmp_path / "file")
    assert done.returncode == 1
    assert f"cannot write to {tmp_path}/file/syshax: Not a directory. Set XDG_CACHE_HOME to" in done.stderr
    assert "Traceback" not in done.stderr
