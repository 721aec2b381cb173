# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The host and its GPUs, read through psutil and NVML. Calls block: NVML may hang, /proc/stat takes milliseconds."""

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import pynvml

from syshaxd.core.loads import GpuLoad, HostLoad

T = TypeVar("T")

_log = logging.getLogger(__name__)
_SHM = "/dev/shm"  # noqa: S108  the shared memory itself is measured; nothing is written there
_MOST_GPUS = 1024
_MOST_BYTES = 2**50
_MOST_MILLIWATTS = 1e8
_HOTTEST_C = 1000.0
_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


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


def _text(raw: Any) -> str:
    """Older bindings return bytes."""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _number(raw: Any, most: float) -> float:
    """Raises ValueError unless it is a number from 0 to `most`."""
    if not 0 <= (value := float(raw)) <= most:
        raise ValueError(f"{raw} cannot be")
    return value


def _count(raw: Any, most: int) -> int:
    """Raises ValueError unless it is a count up to `most`."""
    if not 0 <= (value := int(raw)) <= most:
        raise ValueError(f"{raw} cannot be")
    return value


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A reading of NVML."""

    gpus: tuple[GpuLoad, ...] = ()
    error: str = ""
    """What could not be read and why; also empty without any GPU."""


class GpuReader:
    """Reads all GPUs through NVML. Logs each change of what can be read.

    A host without GPUs, or without their driver, is fine. After an error NVML is reopened at the next reading:
    a driver that was loaded late or again, and a GPU that was reset, are found.
    """

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._open = False
        self._most = 0
        self._said = ""

    def read(self) -> GpuReading:
        """Returns the load of the readable GPUs, and why others can't be read."""
        nvml = self._nvml
        try:
            if not self._open:
                nvml.nvmlInit()
                self._open = True
            count = _count(nvml.nvmlDeviceGetCount(), _MOST_GPUS)
        except Exception as error:  # noqa: BLE001 - the library's own errors, and what its bindings make of odd answers
            self._close()
            if getattr(error, "value", None) in _NO_DRIVER and not self._most:
                self._say(logging.INFO, f"not monitoring GPUs: {error}")
                return GpuReading()
            return self._faulty((), f"NVML: {error}")
        gpus: list[GpuLoad] = []
        faults: list[str] = []
        for index in range(count):
            try:
                gpus.append(self._load(index))
            except Exception as error:  # noqa: BLE001 - as above
                faults.append(f"GPU {index}: {error}")
        self._most = max(self._most, count)
        if count < self._most:
            faults.append(f"only {count} of {self._most} GPUs are visible")
        if faults:
            self._close()
            return self._faulty(tuple(gpus), "; ".join(faults))
        names = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
        self._say(logging.INFO, f"monitoring GPUs: {names or 'none, the driver sees no GPU'}")
        return GpuReading(tuple(gpus))

    def _load(self, index: int) -> GpuLoad:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        sensor = nvml.NVML_TEMPERATURE_GPU
        return GpuLoad(
            index=index,
            name=self._told(lambda: _text(nvml.nvmlDeviceGetName(handle))) or f"GPU {index}",
            uuid=self._told(lambda: _text(nvml.nvmlDeviceGetUUID(handle))) or "",
            busy_ratio=self._told(lambda: _number(nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 100) / 100),
            memory_used_bytes=self._told(lambda: _count(memory.used, _MOST_BYTES)) or 0,
            memory_total_bytes=self._told(lambda: _count(memory.total, _MOST_BYTES)) or 0,
            power_w=self._told(lambda: _number(nvml.nvmlDeviceGetPowerUsage(handle), _MOST_MILLIWATTS) / 1000),
            temperature_c=self._told(lambda: _number(nvml.nvmlDeviceGetTemperature(handle, sensor), _HOTTEST_C)),
        )

    def _told(self, call: Callable[[], T]) -> T | None:
        """One value; None: not reported by the driver, or invalid."""
        try:
            return call()
        except self._nvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
                return None
            raise
        except Exception:  # noqa: BLE001 - its bindings make what they like of an odd answer: UnicodeDecodeError, ...
            return None

    def _close(self) -> None:
        if self._open:
            self._open = False
            with suppress(Exception):
                self._nvml.nvmlShutdown()

    def _faulty(self, gpus: tuple[GpuLoad, ...], error: str) -> GpuReading:
        self._say(logging.WARNING, f"cannot read all GPUs, will retry: {error}")
        return GpuReading(gpus, error)

    def _say(self, level: int, message: str) -> None:
        if message != self._said:
            self._said = message
            _log.log(level, "%s", message)
