# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs `syshax_quantize` in an engine's environment."""

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.weights import WeightsPlan
from syshaxd.system.enginefiles import QUANTISER, importable_folder

_LAST_BYTES = 2000
_NO_NUMPY = "No module named 'numpy'"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a making is."""

    done_bytes: int
    total_bytes: int
    waits: bool = False
    """For another process that makes weights in the same folder."""

    def __str__(self) -> str:
        if self.waits:
            return "waiting for another process that makes weights"
        return f"making weights: {self.done_bytes >> 20} of {self.total_bytes >> 20} MiB of the model"


async def make_weights(
    plan: WeightsPlan,
    folder: Path,
    *,
    python: str,
    state: Path,
    cores: Sequence[int] = (),
    report: Callable[[Progress], None],
) -> Path:
    """Returns the folder with the weights of a plan; makes them if they are not there, at the lowest priority.

    If this is cancelled, the making ends, and the next one goes on with what is whole.

    Args:
        plan: What is to be made.
        folder: In which weights are kept.
        python: An interpreter with NumPy, such as that of vLLM's environment.
        state: Folder for what the interpreter needs to find ours.
        cores: CPUs to compute on; empty: all.
        report: Is called when there is news.

    Raises:
        LaunchFailedError: They can't be made.
        SyshaxError: sysHAX is not whole.
    """
    made = folder / plan.name
    if await asyncio.to_thread(made.exists):
        return made
    ours = await asyncio.to_thread(importable_folder, state, QUANTISER)
    path = os.pathsep.join((os.fspath(ours), os.environ.get("PYTHONPATH", "")))
    environment = dict(os.environ) | {"PYTHONPATH": path.strip(os.pathsep), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [python, "-s", "-m", QUANTISER, os.fspath(made)]
    # Not asyncio's: uvloop's pipes are inherited by instances that are spawned meanwhile, and then never end.
    with tempfile.TemporaryFile() as errors:
        try:
            process = await asyncio.to_thread(
                subprocess.Popen,
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        except OSError as error:
            text = f"cannot start {python}: {error.strerror}; set services.NAME.python to an interpreter with NumPy"
            raise LaunchFailedError(text, permanent=True) from error
        loop = asyncio.get_running_loop()
        order = plan.as_json() | {"cores": list(cores)}

        def tell(progress: Progress) -> None:
            loop.call_soon_threadsafe(partial(report, progress))

        hearing = loop.run_in_executor(None, _hear, process, order, tell)
        try:
            fault = await asyncio.shield(hearing)
        finally:
            process.kill()  # nothing, if it has ended
            await asyncio.wait((hearing,))
        if process.returncode and not fault:
            fault = _why(process.returncode, await asyncio.to_thread(_last, errors))
    if fault or not await asyncio.to_thread(made.exists):
        raise LaunchFailedError(f"no {plan.quantize} weights of {plan.source}: {fault}", permanent=False)
    return made


def _hear(process: "subprocess.Popen[bytes]", order: dict[str, Any], report: Callable[[Progress], object]) -> str:
    """Hears a making to its end, in a thread. Returns what it says was wrong; empty: nothing."""
    assert process.stdin is not None
    assert process.stdout is not None
    fault = ""
    # Its standard input stays open: it ends when that is closed, with this process.
    with process:
        with suppress(OSError):  # it has ended: its errors say why
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        for line in process.stdout:
            news = json.loads(line)
            fault = news.get("error", fault)
            if "total_bytes" in news or "waiting" in news:
                done, total = news.get("done_bytes", 0), news.get("total_bytes", 0)
                report(Progress(done, total, waits="waiting" in news))
        process.wait()
        with suppress(OSError):  # what it did not read
            process.stdin.close()
    return fault


def _why(code: int, said: str) -> str:
    if _NO_NUMPY in said:
        return "the interpreter has no NumPy: set services.NAME.python to vLLM's own"
    return f"its process ended with code {code}: {said or 'it said nothing'}"


def _last(errors: IO[bytes]) -> str:
    """The end of what it said, however much that is."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _LAST_BYTES))
    return errors.read().decode(errors="replace").strip()
