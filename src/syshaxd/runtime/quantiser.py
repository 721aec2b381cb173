# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs `syshax_quantize` in an engine's environment."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-s",
            "-m",
            QUANTISER,
            os.fspath(made),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        text = f"cannot start {python}: {error.strerror}; set services.NAME.python to an interpreter with NumPy"
        raise LaunchFailedError(text, permanent=True) from error
    try:
        fault = await _attend(process, plan.as_json() | {"cores": list(cores)}, report)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if fault or not await asyncio.to_thread(made.exists):
        raise LaunchFailedError(f"no {plan.quantize} weights of {plan.source}: {fault}", permanent=False)
    return made


async def _attend(
    process: asyncio.subprocess.Process, order: dict[str, Any], report: Callable[[Progress], None]
) -> str:
    """Hears a making to its end. Returns why it failed; empty: it did not."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(_last(process.stderr))
    fault = ""
    try:
        with suppress(ConnectionError):  # it has ended: its errors say why
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
        async for line in process.stdout:
            news = json.loads(line)
            fault = news.get("error", fault)
            if "total_bytes" in news or "waiting" in news:
                done, total = news.get("done_bytes", 0), news.get("total_bytes", 0)
                report(Progress(done, total, waits="waiting" in news))
        said = await errors
        code = await process.wait()
    finally:
        errors.cancel()
    if fault or not code:
        return fault
    if _NO_NUMPY in said:
        return "the interpreter has no NumPy: set services.NAME.python to vLLM's own"
    return f"its process ended with code {code}: {said.strip()[-_LAST_BYTES:] or 'it said nothing'}"


async def _last(stream: asyncio.StreamReader) -> str:
    """The end of what is said, however much it is."""
    kept = b""
    while part := await stream.read(_LAST_BYTES):
        kept = (kept + part)[-_LAST_BYTES:]
    return kept.decode(errors="replace")
