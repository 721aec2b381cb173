# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs `syshax_quantize` in an engine's environment, and reports its progress."""

import asyncio
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from syshaxd.core import jsontext
from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.launch.launch_faults import program_end
from syshaxd.core.weights import WeightsPlan
from syshaxd.system.importable import QUANTISER, importable_folder
from syshaxd.system.threads import in_thread

_LAST_BYTES = 2000
_NO_NUMPY = "No module named 'numpy'"


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of making weights."""

    done_bytes: int
    total_bytes: int
    waits: bool = False
    """For another process that makes weights in the same folder."""

    def __str__(self) -> str:
        if self.waits:
            return "waiting for another process that makes weights"
        return f"making weights: {self.done_bytes >> 20} of {self.total_bytes >> 20} MiB of the model"


class Worker(Protocol):
    """A place where `syshax_quantize` runs. It is used once."""

    def run(self, folder: Path, order: bytes, on_line: Callable[[bytes], None]) -> str:
        """Runs it to its end; blocks.

        Args:
            folder: What it makes.
            order: Its standard input, which stays open: it ends when that is closed.
            on_line: Is called with each line of its standard output.

        Returns:
            Why it failed, as a message; empty: it ended well.

        Raises:
            SyshaxError: It could not be started.
        """

    def kill(self) -> None:
        """Makes `run` end soon; may be called from any thread, at any time."""


class ProcessWorker:
    """An interpreter of this host."""

    def __init__(self, python: str, state: Path) -> None:
        """Starts nothing yet.

        Args:
            python: An interpreter with NumPy, such as that of vLLM's environment.
            state: Folder for what the interpreter needs to import ours.
        """
        self._python = python
        self._state = state
        self._lock = threading.Lock()
        self._killed = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, folder: Path, order: bytes, on_line: Callable[[bytes], None]) -> str:
        """See Worker."""
        # Not asyncio's: uvloop's pipes are inherited by instances that are spawned meanwhile, and then never end.
        with tempfile.TemporaryFile() as errors:
            if (process := self._start(folder, errors)) is None:
                return "no longer wanted"
            assert process.stdin is not None
            assert process.stdout is not None
            with process:
                with suppress(OSError):  # it has ended: its errors say why
                    process.stdin.write(order)
                    process.stdin.flush()
                for line in process.stdout:
                    on_line(line)
                process.wait()
                with suppress(OSError):  # what it did not read
                    process.stdin.close()
            return failure(process.returncode, _last(errors)) if process.returncode else ""

    def _start(self, folder: Path, errors: IO[bytes]) -> "subprocess.Popen[bytes] | None":
        ours = importable_folder(self._state, QUANTISER)
        path = os.pathsep.join((os.fspath(ours), os.environ.get("PYTHONPATH", "")))
        environment = dict(os.environ) | {"PYTHONPATH": path.strip(os.pathsep), "PYTHONDONTWRITEBYTECODE": "1"}
        argv = [self._python, "-s", "-m", QUANTISER, os.fspath(folder)]
        with self._lock:
            if self._killed:
                return None
            try:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
                )
            except OSError as error:
                why = f"cannot start {self._python}: {error.strerror}"
                remedy = "set services.NAME.python to an interpreter with NumPy"
                raise LaunchFailedError(f"{why}; {remedy}", permanent=True) from error
            return self._process

    def kill(self) -> None:
        """See Worker."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()


async def make_weights(
    plan: WeightsPlan,
    folder: Path,
    *,
    worker: Worker,
    cores: Sequence[int] = (),
    report: Callable[[Progress], None],
) -> Path:
    """Returns the folder with the weights of a plan; makes them if they are not there, at the lowest priority.

    If this is cancelled, the making ends, and the next one continues with what is complete.

    Args:
        plan: What is to be made.
        folder: In which weights are kept.
        worker: Where they are made.
        cores: CPUs to compute on; empty: all.
        report: Is called when there is news.

    Raises:
        LaunchFailedError: They can't be made.
        SyshaxError: sysHAX is not complete, or the container engine does not answer.
    """
    made = folder / plan.name
    if await asyncio.to_thread(made.exists):
        return made
    loop = asyncio.get_running_loop()
    order = json.dumps(plan.as_json() | {"cores": list(cores)}).encode() + b"\n"
    faults: list[str] = []

    def on_line(line: bytes) -> None:
        news = jsontext.loads(line)
        if "error" in news:
            faults.append(news["error"])
        if "total_bytes" in news or "waiting" in news:
            progress = Progress(news.get("done_bytes", 0), news.get("total_bytes", 0), waits="waiting" in news)
            loop.call_soon_threadsafe(partial(report, progress))

    working = asyncio.ensure_future(in_thread(partial(worker.run, made, order, on_line)))
    try:
        failed = await asyncio.shield(working)
    finally:
        await in_thread(worker.kill)  # nothing, if it has ended
        await asyncio.wait((working,))
    if failed or not await asyncio.to_thread(made.exists):
        why = (faults or [failed])[-1]
        raise LaunchFailedError(f"no {plan.quantize} weights of {plan.source}: {why}", permanent=False)
    return made


def failure(code: int, said: str) -> str:
    """Why `syshax_quantize` failed, from its exit code (see `program_end`) and the end of its standard error."""
    if _NO_NUMPY in said:
        return "the interpreter has no NumPy: set services.NAME.python to vLLM's own"
    how = program_end(code)
    return f"its process {'was ' if how.signal else ''}{how}: {said or 'it said nothing'}"


def _last(errors: IO[bytes]) -> str:
    """The end of what it said, however much that is."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _LAST_BYTES))
    return errors.read().decode(errors="replace").strip()
