# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs the programs of a step and shows progress: a live line on a terminal, occasional lines elsewhere."""

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TERMINAL_INTERVAL_S = 1.0
_PLAIN_INTERVAL_S = 10.0
_TAIL_LINES = 25
_WIDTH = 100
# What pip says, but not about its progress.
_NO_NEWS = ("WARNING", "uninstall", "Uninstall", "existing installation")
_ERASE_LINE = "\r\x1b[2K"


class StepFailedError(Exception):
    """A step failed. The message has the step, the end of its output, and what to do."""


def say(text: str) -> None:
    """Shows a line at once."""
    print(text, flush=True)  # noqa: T201


class Step:
    """One step that takes seconds. Use as a context manager; `run` programs inside."""

    def __init__(self, title: str, log: Path, *, plain_interval_s: float = _PLAIN_INTERVAL_S) -> None:
        """Does no I/O yet.

        Args:
            title: What is done, for people.
            log: Gets the whole output of the programs.
            plain_interval_s: Seconds between two lines where there is no terminal.
        """
        self._title = title
        self._log = log
        self._news = ""
        self._terminal = sys.stdout.isatty()
        self._interval_s = _TERMINAL_INTERVAL_S if self._terminal else plain_interval_s
        self._started_s = 0.0
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        """Shows that the step begins."""
        self._started_s = time.monotonic()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text("")
        say(f"==> {self._title}")
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shows that the step has ended, and how long it took."""
        self._done.set()
        self._ticker.join()
        if self._terminal:
            sys.stdout.write(_ERASE_LINE)
        how = "done in" if kind is None else "not done, after"
        say(f"    {how} {time.monotonic() - self._started_s:.0f} s")

    def run(self, what: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Runs a program to its end; if this is interrupted, the program is killed.

        Args:
            what: What the program does, for people.
            argv: The program and its arguments.
            env: All its environment variables, if not ours.

        Raises:
            StepFailedError: It can't be started, or its exit code is not 0.
        """
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        command = [str(part) for part in argv]
        self._news = what
        with self._log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            try:
                process = subprocess.Popen(
                    command,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    close_fds=False,  # it holds the lock of `only_one`
                )
            except OSError as error:
                raise StepFailedError(f"{what}: cannot start {command[0]}: {error.strerror}") from error
            with process:
                assert process.stdout is not None
                try:
                    for line in process.stdout:
                        log.write(line)
                        tail.append(line.rstrip())
                        if line.strip() and not any(word in line for word in _NO_NEWS):
                            self._news = f"{what}: {line.strip()}"
                except BaseException:
                    process.kill()
                    raise
        if process.returncode != 0:
            raise StepFailedError(
                f"{what}: {command[0]} ended with code {process.returncode}. The end of its output:\n\n"
                + "\n".join(f"    {line}" for line in tail)
                + f"\n\nAll of it is in {self._log}. Fix the cause and run the same command again."
            )

    def _tick(self) -> None:
        while not self._done.wait(self._interval_s):
            text = f"    {time.monotonic() - self._started_s:4.0f} s  {self._news}"[:_WIDTH]
            if self._terminal:
                sys.stdout.write(f"{_ERASE_LINE}{text}")
                sys.stdout.flush()
            else:
                say(text)
