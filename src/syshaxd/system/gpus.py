# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The host's GPUs, read through NVML. Calls block, and NVML may hang."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from syshaxd.core.config.gpus import VISIBLE
from syshaxd.core.launch.gpu_binding import HostGpus
from syshaxd.core.loads import GpuLoad

T = TypeVar("T")

_log = logging.getLogger(__name__)
_MOST_GPUS = 1024
_MOST_PARTS = 64
_MOST_BYTES = 2**50
_MOST_MILLIWATTS = 1e8
_HOTTEST_C = 1000.0
_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_ADDRESS = re.compile(r"(?:[0-9a-f]{4})?([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.ASCII)
"""On the PCI bus; NVML writes the domain with eight digits."""
_LIMIT_S = 20.0
"""For the driver to answer; it initialises idle GPUs one after the other."""


def host_gpus(limit_s: float = _LIMIT_S) -> HostGpus:
    """Returns the GPUs that the driver shows, and which of them this process may use. It takes at most `limit_s`."""
    visible = os.environ.get(VISIBLE)
    found: list[GpuReading] = []
    thread = threading.Thread(target=lambda: found.append(GpuReader(quiet=True).read()), name="gpus", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not found:
        return HostGpus(error=f"NVML has not answered for {limit_s:g} s", visible=visible)
    return HostGpus(gpus=found[0].gpus, error=found[0].error, visible=visible)


def _text(raw: Any) -> str:
    """Older bindings return bytes."""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _address(raw: Any) -> str:
    """A PCI address as the kernel writes it. Raises ValueError unless it is one."""
    match = _ADDRESS.fullmatch(_text(raw).lower())
    if match is None:
        raise ValueError(f"{raw} is no PCI address")
    return match[1]


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

    def __init__(self, nvml: Any = pynvml, *, quiet: bool = False) -> None:
        """Reads nothing yet; a quiet one logs nothing."""
        self._nvml = nvml
        self._quiet = quiet
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
            address=self._told(lambda: _address(nvml.nvmlDeviceGetPciInfo(handle).busId)) or "",
            parts=self._told(lambda: tuple(self._parts(handle))) or (),
            power_w=self._told(lambda: _number(nvml.nvmlDeviceGetPowerUsage(handle), _MOST_MILLIWATTS) / 1000),
            temperature_c=self._told(lambda: _number(nvml.nvmlDeviceGetTemperature(handle, sensor), _HOTTEST_C)),
        )

    def _parts(self, handle: Any) -> Iterator[str]:
        """UUIDs of the MIG devices of a GPU in MIG mode."""
        nvml = self._nvml
        if not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return
        for number in range(_count(nvml.nvmlDeviceGetMaxMigDeviceCount(handle), _MOST_PARTS)):
            with suppress(nvml.NVMLError):  # there are gaps
                yield _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))

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
        if message != self._said and not self._quiet:
            self._said = message
            _log.log(level, "%s", message)
