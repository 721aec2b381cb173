# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs the programs of a step and shows that they move: a live line on a terminal, a line now and then elsewhere."""

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

_TERMINAL_INTERVAL_S = 1.0
_PLAIN_INTERVAL_S = 15.0
_TAIL_LINES = 25
_WIDTH = 100


class StepFailedError(Exception):
    """A step did not succeed. The message tells which, the end of its output, and what to do."""


class Step:
    """One step that takes seconds. Use as a context manager; `run` programs inside."""

    def __init__(self, title: str, log: Path) -> None:
        """`log`: gets the whole output of the programs."""
        self._title = title
        self._log = log
        self._last_line = ""
        self._started_s = 0.0
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Step":
        """Shows that the step begins."""
        self._started_s = time.monotonic()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        _say(f"==> {self._title}")
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shows that the step has ended, and how long it took."""
        self._done.set()
        self._ticker.join()
        _clear()
        if kind is None:
            _say(f"    done in {time.monotonic() - self._started_s:.0f} s")

    def run(self, argv: Sequence[object], env: Mapping[str, str] | None = None) -> None:
        """Runs a program to its end.

        Raises:
            StepFailedError: It can't be started, or its exit code is not 0.
        """
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        command = [str(part) for part in argv]
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
                )
            except OSError as error:
                raise StepFailedError(f"{self._title}: cannot start {command[0]}: {error.strerror}") from error
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    tail.append(line.rstrip())
                    if not line.startswith(("WARNING", " ")):
                        self._last_line = line.strip() or self._last_line
        if process.returncode != 0:
            raise StepFailedError(
                f"{self._title} failed ({command[0]} exited with code {process.returncode}). The end of its output:\n\n"
                + "\n".join(f"    {line}" for line in tail)
                + f"\n\nAll of it is in {self._log}. Once the cause is mended, run the same command again."
            )

    def _tick(self) -> None:
        interval_s = _TERMINAL_INTERVAL_S if sys.stdout.isatty() else _PLAIN_INTERVAL_S
        while not self._done.wait(interval_s):
            text = f"    {time.monotonic() - self._started_s:4.0f} s  {self._last_line}"[:_WIDTH]
            if sys.stdout.isatty():
                sys.stdout.write(f"\r\x1b[2K{text}")
                sys.stdout.flush()
            else:
                _say(text)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _clear() -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\r\x1b[2K")
        sys.stdout.flush()
