# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The host and its GPUs, read through psutil and NVML. Calls block: NVML may hang, /proc/stat takes milliseconds."""

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from syshaxd.core.loads import GpuLoad, HostLoad

_log = logging.getLogger(__name__)
_SHM = "/dev/shm"  # noqa: S108  the shared memory itself is measured; nothing is written there
_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


class HostReader:
    """Reads the host's load."""

    def __init__(self) -> None:
        self._idle_s = 0.0
        self._total_s = 0.0

    def read(self) -> HostLoad:
        """Returns the load; CPU usage is over the time since the last call, and since boot at the first one."""
        times = psutil.cpu_times()
        # Guests' time is in user's and nice's already.
        total_s = sum(times) - times.guest - times.guest_nice
        idle_s = times.idle + times.iowait
        elapsed_s = total_s - self._total_s
        idle_ratio = (idle_s - self._idle_s) / elapsed_s if elapsed_s > 0 else 1.0
        self._total_s, self._idle_s = total_s, idle_s
        memory = psutil.virtual_memory()
        shm_total, shm_used = _shm_usage()
        return HostLoad(
            cpu_count=psutil.cpu_count() or 1,
            cpu_busy_ratio=min(1.0, max(0.0, 1.0 - idle_ratio)),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            shm_used_bytes=shm_used,
            shm_total_bytes=shm_total,
        )


def _shm_usage() -> tuple[int, int]:
    """Size and use of the shared memory; both 0 where there is none, as in some containers."""
    with suppress(FileNotFoundError):
        usage = shutil.disk_usage(_SHM)
        return usage.total, usage.used
    return 0, 0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What NVML said."""

    gpus: tuple[GpuLoad, ...] = ()
    error: str = ""
    """What could not be read and why; empty also where there is no GPU at all."""


class GpuReader:
    """Reads all GPUs through NVML. Every change of their readability is logged once.

    A host without GPUs, or without their driver, is fine. After an error NVML is opened anew at the next reading:
    a driver that was loaded late or again, and a GPU that was reset, are found.
    """

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._open = False
        self._most = 0
        self._said = ""

    def read(self) -> GpuReading:
        """Returns the load of the GPUs that can be read, and what is wrong with the others."""
        nvml = self._nvml
        try:
            if not self._open:
                nvml.nvmlInit()
                self._open = True
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._close()
            if error.value in _NO_DRIVER and not self._most:
                self._say(logging.INFO, f"no GPU is watched: {error}")
                return GpuReading()
            return self._faulty((), f"NVML: {error}")
        gpus: list[GpuLoad] = []
        faults: list[str] = []
        for index in range(count):
            try:
                gpus.append(self._load(index))
            except nvml.NVMLError as error:
                faults.append(f"GPU {index}: {error}")
        self._most = max(self._most, count)
        if count < self._most:
            faults.append(f"{count} of {self._most} GPUs are left")
        if faults:
            self._close()
            return self._faulty(tuple(gpus), "; ".join(faults))
        names = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
        self._say(logging.INFO, f"GPUs watched: {names or 'none, the driver sees no GPU'}")
        return GpuReading(tuple(gpus))

    def _load(self, index: int) -> GpuLoad:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        rates = self._if_supported(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        power_mw = self._if_supported(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        temperature_c = self._if_supported(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        return GpuLoad(
            index=index,
            name=nvml.nvmlDeviceGetName(handle),
            uuid=nvml.nvmlDeviceGetUUID(handle),
            busy_ratio=None if rates is None else rates.gpu / 100,
            memory_used_bytes=memory.used,
            memory_total_bytes=memory.total,
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=temperature_c,
        )

    def _if_supported(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._nvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
                return None
            raise

    def _close(self) -> None:
        if self._open:
            self._open = False
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _faulty(self, gpus: tuple[GpuLoad, ...], error: str) -> GpuReading:
        self._say(logging.WARNING, f"GPUs cannot all be read, which is tried again: {error}")
        return GpuReading(gpus, error)

    def _say(self, level: int, message: str) -> None:
        if message != self._said:
            self._said = message
            _log.log(level, "%s", message)
