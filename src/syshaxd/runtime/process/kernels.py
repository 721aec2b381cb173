# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether this host's CPUs can run the engine of an instance, before it is launched, or a healthy one is ended for it.

No file of an engine says what CPUs it was built for, so some of its kernels are run, once in each boot of the host.
"""

import asyncio
import logging
import signal
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.launch.launch_faults import OTHER_CPUS
from syshaxd.core.types import Device, InstanceSpec
from syshaxd.runtime.process import kernel_probe, procfs
from syshaxd.system.enginefiles import site_packages
from syshaxd.system.threads import in_thread

_log = logging.getLogger(__name__)
_TIMEOUT_S = 60.0
_PASSED = "kernels-passed"
_MAX_PASSED = 16
_DTYPES = {"float": "float32", "float32": "float32", "half": "float16", "float16": "float16"}
_DTYPE = "bfloat16"  # what vLLM chooses on CPUs, whatever the weights are in
_PYTHON = "python"  # another program may do anything with the arguments of an interpreter


async def check_kernels(spec: InstanceSpec, environment: Mapping[str, str], folder: Path) -> None:
    """Runs kernels of an engine for CPUs in a process of their own.

    Args:
        spec: The instance.
        environment: Of its process.
        folder: Where to note what has passed.

    Raises:
        LaunchFailedError: The CPUs of this host lack instructions that the kernels use.
    """
    python = Path(spec.argv[0])
    if spec.device is not Device.CPU or not python.name.startswith(_PYTHON):
        return
    dtype = _dtype(spec)
    key = await asyncio.to_thread(_key, python, dtype)
    passed = await asyncio.to_thread(_read, folder / _PASSED)
    if not key or key in passed:
        return
    text = await asyncio.to_thread(Path(kernel_probe.__file__).read_text, "utf-8")
    match await in_thread(partial(_run, [spec.argv[0], "-c", text, dtype], environment)):
        case 0:
            await asyncio.to_thread(_write, folder / _PASSED, [*passed, key][-_MAX_PASSED:])
        case code if code == -signal.SIGILL:
            raise LaunchFailedError(
                f"{spec.name} cannot run here: {OTHER_CPUS} (services.{spec.name}.python)", permanent=True
            )
        case code:
            _log.info("%s: not checked whether this host's CPUs can run it (status %s)", spec.name, code)


def _run(argv: list[str], environment: Mapping[str, str]) -> int | None:
    """Returns the exit status; None: it could not be run, or took too long."""
    nothing = subprocess.DEVNULL
    try:
        done = subprocess.run(
            argv,
            env=environment,
            cwd="/",
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.returncode


def _key(python: Path, dtype: str) -> str:
    """What was checked, on which host; empty: there is no vLLM for CPUs."""
    files = sorted({file.resolve() for folder in site_packages(python) for file in folder.glob("vllm/_C*.so")})
    if not files:
        return ""
    built = ":".join(f"{file.name}-{(stat := file.stat()).st_size}-{stat.st_mtime_ns}" for file in files)
    return f"{procfs.boot_id()} {python} {built} {dtype}"


def _dtype(spec: InstanceSpec) -> str:
    flags = [*spec.argv, ""]
    given = next((flags[at + 1] for at, flag in enumerate(flags) if flag == "--dtype"), "")
    return _DTYPES.get(given, _DTYPE)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError):
        return []


def _write(path: Path, lines: list[str]) -> None:
    try:
        path.write_text("\n".join(lines) + "\n", "utf-8")
    except OSError as error:
        _log.info("%s: %s; the check is repeated at the next start", path, error.strerror)
