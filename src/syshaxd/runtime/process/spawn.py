# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Starting an instance's process. Blocking until its program has taken over: call it in a thread."""

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from syshaxd.core import jsontext
from syshaxd.core.errors import LaunchFailedError, SyshaxError
from syshaxd.core.numa.cpulist import format_cpulist
from syshaxd.core.types import HandoverProtocol, InstanceSpec
from syshaxd.runtime.logfile import check_room
from syshaxd.runtime.ports import check_port
from syshaxd.runtime.process import procfs, shim, tempfolder
from syshaxd.runtime.process.record import Record
from syshaxd.system.importable import importable_folder

# Between systemd and the daemon: an instance that got them could speak in the daemon's name.
_PRIVATE_VARIABLES = frozenset(
    ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "JOURNAL_STREAM")
)
_TOO_MANY = "no more processes and threads are allowed here; raise TasksMax= of the unit, pids.max, or `ulimit -u`"


def spawn(spec: InstanceSpec, record: Record, record_path: Path, log_path: Path) -> Record:
    """Starts the instance in a session of its own, bound to its CPUs, with its output going to the log.

    Args:
        spec: What to start.
        record: Without `pid` and `start_ticks`.
        record_path: Where the record is kept from now on.
        log_path: File to which its output is appended.

    Returns:
        The whole record.

    Raises:
        LaunchFailedError: Nothing was started.
    """
    _check_model(spec)
    check_port(spec, spec.host, spec.port)
    environment = _environment(spec, record_path.parent, record)
    order = {
        "cores": spec.cores,
        "argv": spec.argv,
        "record": record.fields(),
        "record_path": os.fspath(record_path),
    }
    report_fd, shim_fd = os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", shim.__file__, json.dumps(order)],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.fspath(log_path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, shim_fd, shim.REPORT_FD),
            ],
            setsid=True,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them, other programs don't expect that
        )
    except (OSError, ValueError, OverflowError) as error:  # a NUL or a lone surrogate is a ValueError
        os.close(report_fd)
        why = _TOO_MANY if isinstance(error, BlockingIOError) else error
        raise LaunchFailedError(
            f"{spec.name}: no process could be started: {why}", permanent=not isinstance(error, OSError)
        ) from error
    finally:
        os.close(shim_fd)
    with os.fdopen(report_fd, "rb") as report_file:
        report = report_file.read()  # ends when the instance's program takes over, or when the shim dies
    if not report and (written := Record.read(record_path)) is not None and written.pid == pid:
        return written
    os.waitpid(pid, 0)
    raise _failure(spec, report, log_path)


def check(spec: InstanceSpec, folder: Path, *, needs_port: bool) -> None:
    """Looks for what would keep `spawn` from working.

    Raises:
        SyshaxError: What it is.
    """
    _check_model(spec)
    if shutil.which(spec.argv[0]) is None:
        raise LaunchFailedError(
            f"{spec.name} cannot start {spec.argv[0]}: no such program; "
            f"set {spec.key}.python to the interpreter with vLLM",
            permanent=True,
        )
    _check_cores(spec)
    if needs_port:
        check_port(spec, spec.host, spec.port)
    check_room(folder, spec.name)
    if "TMPDIR" not in dict(spec.env):
        tempfolder.make(folder, spec.name).rmdir()
    if spec.protocol is HandoverProtocol.CONNECTOR:
        importable_folder(folder)


def _check_model(spec: InstanceSpec) -> None:
    """A path that leads nowhere would be taken for the name of a model on a hub, half a minute later."""
    if Path(spec.model).is_absolute() and not Path(spec.model).exists():
        raise LaunchFailedError(
            f"{spec.name} cannot find its model {spec.model}; set models.path, or {spec.key}.model",
            permanent=True,
        )


def _check_cores(spec: InstanceSpec) -> None:
    """Binds this thread for a moment, as the shim would bind its process."""
    before = os.sched_getaffinity(0)
    try:
        if spec.cores:
            os.sched_setaffinity(0, spec.cores)
            if os.sched_getaffinity(0) != set(spec.cores):  # the kernel just leaves out those that it hasn't got
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    except (OSError, ValueError, OverflowError) as error:
        raise _unbound(spec, str(getattr(error, "strerror", None) or error)) from error
    finally:
        os.sched_setaffinity(0, before)


def _unbound(spec: InstanceSpec, why: str) -> LaunchFailedError:
    cpus = format_cpulist(spec.cores)
    return LaunchFailedError(f"{spec.name} cannot be bound to CPUs {cpus}: {why}; set {spec.key}.cores", permanent=True)


def inherited_environment() -> dict[str, str]:
    """The daemon's environment, as far as its instances may have it."""
    return {key: value for key, value in os.environ.items() if key not in _PRIVATE_VARIABLES}


def _environment(spec: InstanceSpec, folder: Path, record: Record) -> dict[str, str]:
    environment = {"PYTHONUNBUFFERED": "1"} | inherited_environment()
    if record.temporary_folder:
        environment["TMPDIR"] = record.temporary_folder
        # It is in TMPDIR by default, and would be lost with it.
        environment.setdefault("TORCHINDUCTOR_CACHE_DIR", os.fspath(folder / "torchinductor"))
    environment |= dict(spec.env)
    environment[procfs.MARK] = record.mark
    if spec.protocol is HandoverProtocol.CONNECTOR:
        try:
            folders = [os.fspath(importable_folder(folder)), environment.get("PYTHONPATH", "")]
        except SyshaxError as error:
            raise LaunchFailedError(f"{spec.name} cannot get the connector: {error}", permanent=True) from error
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    return environment


def _failure(spec: InstanceSpec, report: bytes, log_path: Path) -> LaunchFailedError:
    if not report:
        return LaunchFailedError(f"{spec.name}: the process died before its program; see {log_path}", permanent=False)
    step, number = jsontext.loads(report)
    why = os.strerror(number)
    match step:
        case "bind":
            return _unbound(spec, why)
        case "exec":
            text = f"cannot start {spec.argv[0]}: {why}; set {spec.key}.python to the interpreter with vLLM"
        case _:
            return LaunchFailedError(f"{spec.name}: cannot write its record next to {log_path}: {why}", permanent=False)
    return LaunchFailedError(f"{spec.name} {text}", permanent=number not in {errno.EAGAIN, errno.ENOMEM})
