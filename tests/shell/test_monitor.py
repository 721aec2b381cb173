# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""SystemMonitor against simulated instances; the devices' readers against a fake NVML and this host."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import aiohttp
import pynvml
import pytest
from aiohttp import web

from syshax_sim import BUILT_IN, Faults, SimInstance
from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.launch.gpu_binding import HostGpus
from syshaxd.core.loads import HostLoad, Snapshot
from syshaxd.core.types import InstanceSpec
from syshaxd.observe.devices import HostReader
from syshaxd.observe.monitor import SystemMonitor, probe_health
from syshaxd.system.gpus import GpuReader, GpuReading, host_gpus
from tests.fakes.specs import external_spec

INTERVAL_S = 0.02
LIMIT_S = 50.0
HOST = HostLoad(
    cpu_count=1,
    cpu_busy_ratio=0.5,
    memory_used_bytes=1,
    memory_total_bytes=2,
    shm_used_bytes=0,
    shm_total_bytes=0,
)


def spec_of(sim: SimInstance, name: str = "gpu") -> InstanceSpec:
    return external_spec(name, host=sim.host, port=sim.port)


class Watched:
    """A running monitor whose snapshots can be waited for."""

    def __init__(
        self,
        *specs: InstanceSpec,
        timeout_s: float = 5.0,
        read_host: Callable[[], HostLoad] = lambda: HOST,
        read_gpus: Callable[[], GpuReading] = GpuReading,
    ) -> None:
        self.specs = list(specs)
        self.monitor = SystemMonitor(
            lambda: self.specs, interval_s=INTERVAL_S, timeout_s=timeout_s, read_host=read_host, read_gpus=read_gpus
        )
        self.monitor.subscribe(self._on_snapshot)
        self._changed = asyncio.Event()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        assert snapshot is self.monitor.latest()
        self._changed.set()

    async def until(self, good: Callable[[Snapshot], bool]) -> Snapshot:
        async with asyncio.timeout(LIMIT_S):
            while not good(self.monitor.latest()):
                self._changed.clear()
                await self._changed.wait()
        return self.monitor.latest()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Watched"]:
        task = asyncio.create_task(self.monitor.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def sim() -> AsyncIterator[SimInstance]:
    async with SimInstance(BUILT_IN["instant"]) as sim:
        yield sim


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def complete(session: aiohttp.ClientSession, sim: SimInstance, tokens: int = 8) -> None:
    body = {"prompt": "hello", "max_tokens": tokens}
    async with session.post(f"{sim.url}/v1/completions", json=body) as response:
        assert response.status == 200


class HeldBack(SimInstance):
    """Answers /metrics only while `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__(BUILT_IN["instant"])
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def _metrics(self, request: web.Request) -> web.Response:
        self.asked.set()
        await self.may_answer.wait()
        return await super()._metrics(request)


async def test_what_was_read_of_an_instance_at_another_address_is_dropped(session: aiohttp.ClientSession) -> None:
    """After a reload, neither the former reading nor one under way is that of the new instance."""
    async with HeldBack() as sim, HeldBack() as other, Watched(spec_of(sim)).running() as watched:
        await complete(session, sim)
        sim.may_answer.set()
        await watched.until(lambda snapshot: bool(snapshot.load("gpu").generation_tokens))
        sim.may_answer.clear()
        sim.asked.clear()
        await sim.asked.wait()
        watched.specs[:] = [spec_of(other)]
        await watched.until(lambda snapshot: "gpu" not in snapshot.instances)
        sim.may_answer.set()
        other.may_answer.set()
        load = (await watched.until(lambda snapshot: "gpu" in snapshot.instances)).load("gpu")
        assert not load.generation_tokens


def test_before_the_first_reading_there_is_an_empty_snapshot() -> None:
    monitor = SystemMonitor(list, interval_s=1.0, timeout_s=1.0)
    assert monitor.latest() == Snapshot(max_age_s=10.0)


async def test_reads_an_instance(sim: SimInstance, session: aiohttp.ClientSession) -> None:
    sim.set_faults(Faults(stall=True))
    async with Watched(spec_of(sim)).running() as watched:
        await watched.until(lambda snapshot: "gpu" in snapshot.instances)
        request = asyncio.create_task(complete(session, sim))
        snapshot = await watched.until(lambda snapshot: snapshot.instances["gpu"].running == 1)
        assert snapshot.instances["gpu"].error == ""
        assert snapshot.taken_at_s >= snapshot.instances["gpu"].read_at_s > 0
        sim.set_faults(Faults())
        await request
        snapshot = await watched.until(lambda snapshot: snapshot.instances["gpu"].generation_tokens_per_s > 0)
        assert snapshot.instances["gpu"].prompt_tokens_per_s > 0
        await watched.until(lambda snapshot: snapshot.instances["gpu"].generation_tokens_per_s == 0)


async def test_reads_an_instance_from_before_v1() -> None:
    async with (
        SimInstance(BUILT_IN["instant"], old_metric_names=True) as sim,
        Watched(spec_of(sim)).running() as watched,
    ):
        snapshot = await watched.until(lambda snapshot: "gpu" in snapshot.instances)
        assert snapshot.instances["gpu"].error == ""


async def test_a_dead_instance_keeps_its_last_values_until_it_is_back(sim: SimInstance) -> None:
    spec = spec_of(sim)
    async with Watched(spec).running() as watched:
        good = await watched.until(lambda snapshot: "gpu" in snapshot.instances)
        assert not good.instances["gpu"].error
        sim.kill()
        bad = await watched.until(lambda snapshot: bool(snapshot.instances["gpu"].error))
        assert bad.instances["gpu"].error == f"GET {sim.url}/metrics: Connection refused"
        read_at_s = bad.instances["gpu"].read_at_s
        assert read_at_s >= good.instances["gpu"].read_at_s
        async with SimInstance(BUILT_IN["instant"], port=spec.port):
            back = await watched.until(lambda snapshot: not snapshot.instances["gpu"].error)
            assert back.instances["gpu"].read_at_s > read_at_s


async def test_an_instance_that_never_answered_has_an_error_and_no_time(unused_spec: InstanceSpec) -> None:
    async with Watched(unused_spec).running() as watched:
        snapshot = await watched.until(lambda snapshot: "cpu" in snapshot.instances)
        assert snapshot.instances["cpu"].read_at_s == 0.0
        assert "Connection refused" in snapshot.instances["cpu"].error


async def test_a_dead_instance_is_logged_once(unused_spec: InstanceSpec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "syshaxd.observe.monitor")
    async with Watched(unused_spec).running() as watched:
        seen: list[float] = []
        await watched.until(lambda snapshot: seen.append(snapshot.taken_at_s) or len(set(seen)) > 10)
    assert [record.message for record in caplog.records if "load of cpu" in record.message] == [
        f"cannot read the load of cpu: GET http://{unused_spec.address}/metrics: Connection refused"
    ]


@pytest.fixture
async def unused_spec() -> InstanceSpec:
    """Nothing listens there."""
    async with SimInstance(BUILT_IN["instant"]) as sim:
        return spec_of(sim, "cpu")


async def test_a_slow_instance_delays_no_other(sim: SimInstance) -> None:
    async with SimInstance(BUILT_IN["instant"]) as slow:
        slow.set_faults(Faults(metrics_delay_s=3600))
        async with Watched(spec_of(sim), spec_of(slow, "cpu"), timeout_s=3600).running() as watched:
            times: set[float] = set()
            await watched.until(lambda snapshot: "gpu" in snapshot.instances)
            await watched.until(lambda snapshot: times.add(snapshot.instances["gpu"].read_at_s) or len(times) == 3)
            assert "cpu" not in watched.monitor.latest().instances


async def test_a_slow_instance_has_an_error(sim: SimInstance) -> None:
    sim.set_faults(Faults(metrics_delay_s=3600))
    async with Watched(spec_of(sim), timeout_s=0.1).running() as watched:
        snapshot = await watched.until(lambda snapshot: "gpu" in snapshot.instances)
        assert snapshot.instances["gpu"].error == f"GET {sim.url}/metrics: no answer within 0.1 s"


async def test_an_instance_that_talks_rubbish_has_an_error(sim: SimInstance) -> None:
    sim.set_faults(Faults(metrics_text="<html>"))
    async with Watched(spec_of(sim)).running() as watched:
        snapshot = await watched.until(lambda snapshot: "gpu" in snapshot.instances)
        assert "is this a vLLM server" in snapshot.instances["gpu"].error


async def test_an_instance_that_is_gone_from_the_targets_is_gone_from_the_snapshot(sim: SimInstance) -> None:
    async with Watched(spec_of(sim)).running() as watched:
        await watched.until(lambda snapshot: "gpu" in snapshot.instances)
        watched.specs = []
        await watched.until(lambda snapshot: not snapshot.instances)


async def test_nvml_that_hangs_delays_nothing() -> None:
    release = threading.Event()
    calls: list[None] = []

    def hang() -> GpuReading:
        calls.append(None)
        release.wait(LIMIT_S)
        return GpuReading()

    async with Watched(timeout_s=0.05, read_gpus=hang).running() as watched:
        snapshot = await watched.until(lambda snapshot: bool(snapshot.gpu_error))
        assert snapshot.gpu_error == "NVML has not answered for 0.05 s"
        assert snapshot.host == HOST
        times: set[float] = set()
        await watched.until(lambda snapshot: times.add(snapshot.taken_at_s) or len(times) > 3)
        assert len(calls) == 1, "one hanging thread is enough"
        release.set()
        await watched.until(lambda snapshot: not snapshot.gpu_error)


async def test_a_hanging_nvml_does_not_hold_up_the_end() -> None:
    release = threading.Event()

    def hang() -> GpuReading:
        release.wait(LIMIT_S)
        return GpuReading()

    async with asyncio.timeout(LIMIT_S / 2):
        async with Watched(read_gpus=hang).running() as watched:
            await watched.until(lambda snapshot: snapshot.host is not None)
    release.set()


async def test_a_host_that_cannot_be_read_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: Iterator[HostLoad | OSError] = iter([OSError("no /proc"), OSError("no /proc"), HOST])

    def read() -> HostLoad:
        outcome = next(outcomes, HOST)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    async with Watched(read_host=read).running() as watched:
        await watched.until(lambda snapshot: snapshot.host is not None)
    assert [record.message for record in caplog.records] == ["cannot read the host's load: no /proc"]


async def test_health_probe(sim: SimInstance, session: aiohttp.ClientSession) -> None:
    await probe_health(session, spec_of(sim))
    sim.set_faults(Faults(health_status=503))
    with pytest.raises(InstanceFailedError, match="/health: status 503"):
        await probe_health(session, spec_of(sim))
    sim.set_faults(Faults(hang=True))
    with pytest.raises(InstanceTimeoutError, match=r"/health: no answer within 0\.1 s"):
        await probe_health(session, spec_of(sim), timeout_s=0.1)
    sim.kill()
    with pytest.raises(InstanceFailedError, match="/health: Connection refused"):
        await probe_health(session, spec_of(sim))


def test_this_host_can_be_read() -> None:
    reader = HostReader()
    for _ in range(2):
        load = reader.read()
        assert load.cpu_count >= 1
        assert 0.0 <= load.cpu_busy_ratio <= 1.0
        assert 0 < load.memory_used_bytes < load.memory_total_bytes
        assert 0 <= load.shm_used_bytes <= load.shm_total_bytes


class FakeNvml:
    """The functions of pynvml that are used, over GPUs that tests break."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self.init_error: int | None = None
        self.errors: dict[int, int] = {}
        """Error code by GPU."""
        self.mig = False
        self.opened = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index in self.errors:
            raise pynvml.NVMLError(self.errors[index])
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "H200"

    def nvmlDeviceGetUUID(self, handle: int | str) -> str:  # noqa: N802
        return f"MIG-{handle}" if isinstance(handle, str) else f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=10 + handle, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.mig:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=25, memory=3)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 123_456

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(busId=f"0000{handle:04X}:1A:00.0".encode())

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:  # noqa: N802
        return [int(self.mig), int(self.mig)]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> str:  # noqa: N802
        if index % 3:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"{handle}-{index}"

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return 40


@pytest.fixture
def gpu_log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "syshaxd.system.gpus")
    return lambda: [record.message for record in caplog.records]


def test_gpus_are_read() -> None:
    first, second = GpuReader(FakeNvml(2)).read().gpus
    assert (first.index, first.name, first.uuid) == (0, "H200", "GPU-0")
    assert (first.busy_ratio, first.memory_used_bytes, first.memory_total_bytes) == (0.25, 10, 100)
    assert (first.power_w, first.temperature_c) == (123.456, 40)
    assert second.uuid == "GPU-1"
    assert (second.address, second.parts) == ("0001:1a:00.0", ()), "as the kernel writes it"


def test_a_value_that_the_driver_does_not_tell_is_none() -> None:
    nvml = FakeNvml(1)
    nvml.mig = True
    reading = GpuReader(nvml).read()
    assert reading.gpus[0].busy_ratio is None
    assert reading.gpus[0].parts == ("MIG-0-0", "MIG-0-3", "MIG-0-6")
    assert reading.error == ""


def test_a_driver_that_does_not_answer_holds_up_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(GpuReader, "read", lambda _: release.wait(LIMIT_S) and GpuReading())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert host_gpus(0.01) == HostGpus(error="NVML has not answered for 0.01 s", visible="1")
    release.set()


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_host_without_a_driver_is_fine_and_said_once(code: int, gpu_log: Callable[[], list[str]]) -> None:
    nvml = FakeNvml(1)
    nvml.init_error = code
    reader = GpuReader(nvml)
    assert [reader.read() for _ in range(3)] == [GpuReading()] * 3
    assert len(gpu_log()) == 1
    assert gpu_log()[0].startswith("not monitoring GPUs")


def test_a_driver_that_is_loaded_later_is_found(gpu_log: Callable[[], list[str]]) -> None:
    nvml = FakeNvml(1)
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    reader = GpuReader(nvml)
    reader.read()
    nvml.init_error = None
    assert len(reader.read().gpus) == 1
    assert gpu_log()[-1] == "monitoring GPUs: 0 (H200)"


def test_a_lost_gpu_is_told_once_and_the_others_are_read_on(gpu_log: Callable[[], list[str]]) -> None:
    nvml = FakeNvml(2)
    reader = GpuReader(nvml)
    reader.read()
    nvml.errors = {0: pynvml.NVML_ERROR_GPU_IS_LOST}
    for _ in range(3):
        reading = reader.read()
        assert [gpu.uuid for gpu in reading.gpus] == ["GPU-1"]
        assert reading.error == "GPU 0: GPU is lost"
    assert len(gpu_log()) == 2
    nvml.errors = {}
    assert reader.read().error == ""
    assert gpu_log()[2:] == ["monitoring GPUs: 0 (H200), 1 (H200)"]
    assert nvml.opened == 1, "opened as often as closed, and once more"


def test_a_gpu_that_fell_off_the_bus_is_missed() -> None:
    nvml = FakeNvml(2)
    reader = GpuReader(nvml)
    reader.read()
    nvml.gpus = 1
    assert reader.read().error == "only 1 of 2 GPUs are visible"


def test_a_driver_that_goes_away_is_an_error_once_there_were_gpus() -> None:
    nvml = FakeNvml(1)
    reader = GpuReader(nvml)
    reader.read()
    nvml.errors = {0: pynvml.NVML_ERROR_UNKNOWN}
    reader.read()
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert reader.read() == GpuReading((), "NVML: Driver Not Loaded")
