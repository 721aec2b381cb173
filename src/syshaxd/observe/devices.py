# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The host's load, read through psutil. Calls block: /proc/stat takes milliseconds."""

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

from syshaxd.core.loads import HostLoad

T = TypeVar("T")

_log = logging.getLogger(__name__)
_SHM = "/dev/shm"  # noqa: S108  the shared memory itself is measured; nothing is written there


class HostReader:
    """Reads the host's load."""

    def __init__(self) -> None:
        self._idle_s = 0.0
        self._total_s = 0.0
        self._said: dict[str, str] = {}

    def read(self) -> HostLoad:
        """Returns the load; CPU usage is over the time since the last call, and since boot at the first one."""
        memory_total, memory_used = self._read("memory", _memory_usage, (0, 0))
        shm_total, shm_used = self._read("shared memory", _shm_usage, (0, 0))
        return HostLoad(
            cpu_count=self._read("number of CPUs", psutil.cpu_count, None) or 1,
            cpu_busy_ratio=self._read("CPU usage", self._cpu_busy_ratio, 0.0),
            memory_used_bytes=memory_used,
            memory_total_bytes=memory_total,
            shm_used_bytes=shm_used,
            shm_total_bytes=shm_total,
        )

    def _cpu_busy_ratio(self) -> float:
        times = psutil.cpu_times()
        # Guests' time is in user's and nice's already.
        total_s = sum(times) - times.guest - times.guest_nice
        idle_s = times.idle + times.iowait
        elapsed_s = total_s - self._total_s
        idle_ratio = (idle_s - self._idle_s) / elapsed_s if elapsed_s > 0 else 1.0
        self._total_s, self._idle_s = total_s, idle_s
        return min(1.0, max(0.0, 1.0 - idle_ratio))

    def _read(self, what: str, read: Callable[[], T], unknown: T) -> T:
        """One value; a failure is logged once and affects no other value."""
        try:
            value = read()
        except Exception as error:  # noqa: BLE001 - whatever the kernel's files and psutil come up with
            if self._said.get(what) != str(error):
                self._said[what] = str(error)
                _log.warning("cannot read the host's %s: %s: %s", what, type(error).__name__, error)
            return unknown
        self._said.pop(what, None)
        return value


def _memory_usage() -> tuple[int, int]:
    """Size and use."""
    memory = psutil.virtual_memory()
    return memory.total, memory.total - memory.available


def _shm_usage() -> tuple[int, int]:
    """Size and use of the shared memory; both 0 if there is none, as in some containers."""
    with suppress(FileNotFoundError):
        usage = shutil.disk_usage(_SHM)
        return usage.total, usage.used
    return 0, 0
