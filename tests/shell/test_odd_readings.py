# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Readings may be odd in any way: each value that cannot be is unknown, and nothing else is lost."""

import asyncio
import math
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError, TopologyError
from syshaxd.core.loads import NO_LOAD, GpuLoad, HostLoad, InstanceLoad, Snapshot
from syshaxd.core.wire import vllm_metrics
from syshaxd.observe.devices import HostReader
from syshaxd.observe.monitor import SystemMonitor
from syshaxd.system import host
from syshaxd.system.gpus import GpuReader

ERRORS = st.sampled_from(
    [
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ValueError("odd"),
        OverflowError("huge"),
        RecursionError("deep"),
        AttributeError("gpu"),
        TypeError("none"),
        OSError(5, "Input/output error"),
        pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN),
        pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED),
    ]
)
ODD = st.one_of(
    ERRORS,
    st.none(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.integers(),
    st.sampled_from([-1, 2**64, 10**400, math.nan, math.inf, -math.inf]),
    st.floats(),
    st.lists(st.integers(), max_size=2),
)


class OddNvml:
    """Tells what it is given: the value, or the error that it is."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, **told: Any) -> None:
        self.told = told

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Any:
            if name in ("nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByIndex"):
                return None
            key = name.removeprefix("nvmlDeviceGet")
            value = self.told.get(key, 1)
            if isinstance(value, Exception):
                raise value
            if key == "UtilizationRates":
                return SimpleNamespace(gpu=value)
            if key == "MemoryInfo":
                return SimpleNamespace(used=value, total=value)
            return value

        return call


def _is_possible(gpu: GpuLoad) -> bool:
    measured = (gpu.busy_ratio, gpu.power_w, gpu.temperature_c)
    return (
        all(value is None or (math.isfinite(value) and value >= 0) for value in measured)
        and 0 <= gpu.memory_used_bytes < 2**63
        and 0 <= gpu.memory_total_bytes < 2**63
        and isinstance(gpu.name, str)
        and isinstance(gpu.uuid, str)
    )


@settings(deadline=None)
@given(
    told=st.dictionaries(
        st.sampled_from(["Count", "Name", "UUID", "MemoryInfo", "UtilizationRates", "PowerUsage", "Temperature"]), ODD
    )
)
def test_whatever_a_driver_tells(told: dict[str, Any]) -> None:
    reading = GpuReader(OddNvml(**told)).read()
    assert all(map(_is_possible, reading.gpus))
    assert reading.gpus or reading.error or told.get("Count") is not None


def test_a_name_that_is_not_utf_8_costs_only_the_name() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    reading = GpuReader(OddNvml(Name=error)).read()
    assert (reading.error, reading.gpus[0].name, reading.gpus[0].memory_total_bytes) == ("", "GPU 0", 1)


@pytest.mark.parametrize("broken", ["cpu_times", "virtual_memory", "cpu_count"])
@pytest.mark.parametrize(
    "error", [psutil.Error(), ValueError("odd line"), KeyError("MemTotal"), OverflowError(), RuntimeError("no line")]
)
def test_a_value_of_the_host_that_cannot_be_read_costs_no_other(
    broken: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = HostReader().read()

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(psutil, broken, fail)
    odd = HostReader().read()
    assert odd.shm_total_bytes == good.shm_total_bytes
    assert (odd.memory_total_bytes == good.memory_total_bytes) == (broken != "virtual_memory")
    assert odd.cpu_count == (1 if broken == "cpu_count" else good.cpu_count)


NAMES = st.sampled_from(
    [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:num_preemptions_total",
        "vllm:request_prefill_time_seconds_sum",
    ]
)
VALUES = st.one_of(
    st.floats().map(str), st.integers().map(str), st.text(max_size=10), st.just("9" * 400), st.just("1" * 5000)
)
LINES = st.tuples(NAMES, st.sampled_from(["", '{model_name="m"}', "{", '{model_name="\\']), VALUES)


@settings(deadline=None)
@given(lines=st.lists(LINES, max_size=12))
def test_whatever_an_instance_tells(lines: list[tuple[str, str, str]]) -> None:
    text = "\n".join(f"{name}{labels} {value}" for name, labels, value in lines)
    try:
        load = vllm_metrics.load(vllm_metrics.read(text, model="m", at_s=2.0), None)
    except InstanceFailedError:
        return
    assert 0 <= load.running < 2**31
    assert 0 <= load.waiting < 2**31
    assert 0 <= load.kv_usage_ratio <= 1.001
    assert 0 <= load.preemptions < 2**63
    assert math.isfinite(load.generation_tokens_per_s)


async def test_neither_a_reader_nor_a_subscriber_ends_the_monitor(caplog: pytest.LogCaptureFixture) -> None:
    readings = 0
    went_on = asyncio.Event()

    def host() -> HostLoad:
        raise RecursionError("odd")

    def gpus() -> Any:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monitor = SystemMonitor(list, interval_s=0.01, timeout_s=1.0, read_host=host, read_gpus=gpus)

    def on_snapshot(snapshot: Snapshot) -> None:
        nonlocal readings
        readings += 1
        if readings > 10:
            went_on.set()
        raise OverflowError("a subscriber's own")

    monitor.subscribe(on_snapshot)
    task = asyncio.create_task(monitor.run())
    async with asyncio.timeout(30):
        await went_on.wait()
    assert not task.done()
    assert "invalid start byte" in monitor.latest().gpu_error
    task.cancel()
    await asyncio.wait((task,))
    assert sum("a subscriber's own" in message for message in caplog.messages) == 1  # once, not at each reading


@given(age_s=st.floats(0, 1e6), other_s=st.floats(0, 1e6))
def test_a_reading_counts_up_to_its_age_whatever_else_was_read(age_s: float, other_s: float) -> None:
    now_s = 2e6
    full, other = (InstanceLoad(read_at_s=now_s - old_s, running=8) for old_s in (age_s, other_s))
    snapshot = Snapshot(taken_at_s=now_s, instances={"gpu": full, "cpu": other}, max_age_s=10.0)
    assert snapshot.load("gpu") == (full if now_s - full.read_at_s <= 10.0 else NO_LOAD)
    assert snapshot.load("nobody") == NO_LOAD


FILES = [
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/present",
    "sys/devices/system/node/online",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/meminfo",
    "sys/devices/system/node/node0/distance",
    "sys/devices/system/cpu/cpu0/topology/core_cpus_list",
    "sys/devices/system/cpu/cpu0/topology/package_cpus_list",
    "sys/bus/pci/devices/0000:00:00.0/class",
    "sys/bus/pci/devices/0000:00:00.0/vendor",
    "sys/bus/pci/devices/0000:00:00.0/numa_node",
]
GOOD = ["0", "0", "0", "0", "Node 0 MemTotal: 1 kB", "10", "0", "0", "0x030200", "0x10de", "0"]
CONTENTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", b"\n", b"0-999999" + b",0-999999" * 50, b"1" * 5000, b"-1", b"0"]),
    st.just(b"Node 0 MemTotal: " + b"9" * 5000 + b" kB"),
)


@settings(deadline=None, max_examples=60)
@given(odd=st.dictionaries(st.sampled_from(FILES), CONTENTS, max_size=3))
def test_whatever_sys_tells(odd: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    for name, text in zip(FILES, GOOD, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(odd.get(name, text.encode()))
    with nullcontext() if not odd else suppress(TopologyError):
        assert host.topology(root).nodes
