# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What runs in a new process before the instance does: binds it to its CPUs, records it, and becomes it.

ProcessRuntime starts this file with `python -I -S`, in a session of its own. Doing these things here, and not from the
daemon after the start, leaves no moment in which a process is unbound, or runs without anybody being able to find it
again. Uses nothing but the standard library. On failure it writes `[step, errno]` as JSON to descriptor 3, which
otherwise closes when the instance's program takes over.
"""
# ruff: noqa: PTH105, PTH108, PTH123 - to load pathlib takes longer than all else here

import errno
import json
import os
import sys
from typing import Any

REPORT_FD = 3


def main() -> None:
    """Carries out the order in the first argument."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    os.set_inheritable(REPORT_FD, False)
    step = "bind"
    try:
        if order["cores"]:
            os.sched_setaffinity(0, order["cores"])
            if os.sched_getaffinity(0) != set(order["cores"]):  # the kernel just leaves out those that it hasn't got
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        step = "record"
        _write_record(order["record_path"], order["record"])
        step = "exec"
        os.execvp(order["argv"][0], order["argv"])  # noqa: S606 - a shell is just what is not wanted
    except (OSError, ValueError) as error:  # a NUL or a lone surrogate, say, is a ValueError
        if step == "exec":
            os.unlink(order["record_path"])
        os.write(REPORT_FD, json.dumps([step, getattr(error, "errno", errno.EINVAL)]).encode())
        os._exit(127)


def _write_record(path: str, record: dict[str, Any]) -> None:
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        record |= {"pid": os.getpid(), "start_ticks": int(stat.read().rpartition(")")[2].split()[19])}
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
