# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What goes wrong with real containers, and how it is named and handled."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import syshaxd.runtime.docker.docker_runtime
from syshaxd.core.errors import LaunchFailedError, SyshaxError
from syshaxd.core.launch.container import DONOR_NAME
from syshaxd.core.types import Handle
from syshaxd.runtime.docker import DockerRuntime
from tests.fakes.waiting import until
from tests.machine.docker.bed import LONG_S, Bed
from tests.machine.docker.conftest import DockerHarness

pytestmark = pytest.mark.timeout(120)


async def refusal(runtime: DockerRuntime, harness: DockerHarness, **container: Any) -> LaunchFailedError:
    with pytest.raises(LaunchFailedError) as caught:
        await runtime.launch(harness.spec(**container), 1)
    assert not harness.bed.docker("ps", "--all", "--quiet", "--filter", "label=org.syshax.owner")
    return caught.value


class TestLaunch:
    async def test_what_was_asked_for_is_what_the_engine_shows(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        core = min(os.sched_getaffinity(0))
        spec = harness.spec(
            ipc="shareable",
            shm_size_bytes=1 << 30,
            gpus=("0", "1"),
            ports=(("127.0.0.1", 8001, 8001),),
            working_dir="/home",
            privileged=True,
            cap_add=("SYS_NICE",),
            cpuset_mems="0",
        )
        spec = replace(spec, cores=(core,), env=(("NRC", "4"), ("SYSHAX_QUANTIZE", "q4_0")))
        handle = await runtime.launch(spec, 1)
        found = await harness.inspect(handle.ident)
        config, limits = found["Config"], found["HostConfig"]
        assert found["Name"] == "/vllm_gpu"
        assert [*config["Entrypoint"], *config["Cmd"]] == list(spec.argv)
        assert {"NRC=4", "SYSHAX_QUANTIZE=q4_0"} <= set(config["Env"])
        assert config["WorkingDir"] == "/home"
        assert (limits["IpcMode"], limits["ShmSize"], limits["Privileged"]) == ("shareable", 1 << 30, True)
        assert limits["DeviceRequests"][0]["DeviceIDs"] == ["0", "1"]
        assert limits["PortBindings"] == {"8001/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8001"}]}
        assert (limits["CpusetCpus"], limits["CpusetMems"], limits["CapAdd"]) == (str(core), "0", ["SYS_NICE"])
        assert limits["Init"]
        assert limits["RestartPolicy"]["Name"] in {"", "no"}  # the supervisor alone starts it again
        await runtime.terminate(handle, LONG_S)

    async def test_a_missing_image_whose_registry_is_away(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        error = await refusal(runtime, harness, image="127.0.0.1:1/vllm:x", pull=True)
        assert "can't be reached" in str(error)
        assert "docker load" in str(error)
        assert not error.permanent
        assert any("fetching the image 127.0.0.1:1/vllm:x" in note for note in harness.notes)

    async def test_a_missing_image_that_may_not_be_fetched(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        error = await refusal(runtime, harness, image="127.0.0.1:1/vllm:x")
        assert "container.pull" in str(error)
        assert error.permanent

    async def test_an_image_that_is_not_wanted_any_more_is_not_waited_for(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # a registry that never answers
            image = f"127.0.0.1:{silent.getsockname()[1]}/vllm:x"
            launching = asyncio.create_task(runtime.launch(harness.spec(image=image, pull=True), 1))
            await asyncio.to_thread(until, lambda: harness.notes, LONG_S, "the fetching")
            assert not launching.done()
            runtime.abandon("gpu")
            async with asyncio.timeout(LONG_S):
                with pytest.raises(LaunchFailedError, match="no longer wanted"):
                    await launching
            again = await runtime.launch(harness.spec(), 2)
        await runtime.terminate(again, LONG_S)
        assert not harness.bed.docker("ps", "--all", "--quiet")

    async def test_somebody_elses_container_is_left_alone(
        self, bed: Bed, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        theirs = bed.docker("create", "--name", "vllm_gpu", bed.image, "sleep", "9")
        error = await refusal(runtime, harness)
        assert "docker rm -f vllm_gpu" in str(error)
        assert error.permanent
        assert theirs in bed.docker("ps", "--all", "--quiet", "--no-trunc").split()

    async def test_a_port_that_is_taken(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            error = await refusal(runtime, harness, ports=(("127.0.0.1", port, 80),))
        assert "is taken" in str(error)
        assert not error.permanent

    async def test_a_folder_that_is_not_there(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        error = await refusal(runtime, harness, volumes=("/nowhere/models:/m:ro",))
        assert "container.volumes" in str(error)
        assert error.permanent

    async def test_nothing_to_join(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        error = await refusal(runtime, harness, ipc="container:vllm_other")
        assert "vllm_other" in str(error)
        assert not error.permanent

    async def test_cpus_that_are_not_there(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        error = await refusal(runtime, harness, cpuset_cpus="4000")
        assert "no such CPUs" in str(error)
        assert error.permanent


class TestEnd:
    async def test_killed_from_outside(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await harness.docker("kill", handle.ident)
        status = await runtime.wait(handle)
        assert status.signal == signal.SIGKILL
        assert "dmesg" in status.cause

    async def test_removed_from_outside(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await harness.docker("rm", "--force", handle.ident)
        await runtime.wait(handle)
        again = await runtime.launch(harness.spec(), 2)
        await runtime.terminate(again, LONG_S)

    async def test_started_again_before_anybody_could_look(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await harness.ready(handle)
        harness.bed.docker("restart", "--time", "5", handle.ident)  # holds the loop up: the end is over when it goes on
        status = await runtime.wait(handle)
        assert not await harness.is_alive(handle)
        assert "restarted from outside" in status.cause

    async def test_lost_gpus_end_it(
        self, harness: DockerHarness, runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(syshaxd.runtime.docker.docker_runtime, "_GPU_CHECK_INTERVAL_S", 0.2)
        monkeypatch.setattr(syshaxd.runtime.docker.docker_runtime, "CHECK_INTERVAL_S", 0.1)
        handle = await runtime.launch(harness.spec(gpus=-1), 1)
        await harness.ready(handle)
        assert await harness.is_alive(handle)
        await harness.docker("exec", handle.ident, "touch", "/tmp/gpus-lost")
        status = await runtime.wait(handle)
        assert "daemon-reload" in status.cause


class TestCoupling:
    async def test_a_container_in_a_former_namespace_is_not_adopted(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        gpu_spec, cpu_spec = harness.spec("gpu", ipc="shareable"), harness.spec("cpu", ipc="container:vllm_gpu")
        gpu = await runtime.launch(gpu_spec, 1)
        cpu = await runtime.launch(cpu_spec, 1)
        assert (await harness.inspect(cpu.ident))["HostConfig"]["IpcMode"] == f"container:{gpu.ident}"
        await runtime.close()
        await harness.docker("restart", "--time", "5", gpu.ident)  # behind the daemon's back
        later = harness.new_runtime()
        assert await later.adopt(cpu_spec) is None
        assert not await harness.is_alive(cpu)
        found = await later.adopt(gpu_spec)
        assert found is not None
        cpu = await later.launch(cpu_spec, 2)
        await later.close()
        last = harness.new_runtime()
        assert await last.adopt(cpu_spec) == cpu
        for name in ("cpu", "gpu"):
            await last.terminate(cpu if name == "cpu" else found, LONG_S)

    async def test_a_donor_keeps_shared_memory_over_a_restart(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        specs = {name: harness.spec(name, ipc="donor") for name in ("gpu", "cpu")}
        gpu, cpu = [await runtime.launch(spec, 1) for spec in specs.values()]
        await harness.docker("exec", gpu.ident, "touch", "/dev/shm/kept")
        await runtime.terminate(gpu, LONG_S)
        gpu = await runtime.launch(specs["gpu"], 2)
        for handle in (gpu, cpu):
            assert await harness.docker("exec", handle.ident, "ls", "/dev/shm") == "kept"
        for handle in (gpu, cpu):
            await runtime.terminate(handle, LONG_S)
        assert DONOR_NAME not in await harness.docker("ps", "--all", "--format", "{{.Names}}")

    async def test_a_donor_that_was_started_again_while_nobody_looked(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        spec = harness.spec(ipc="donor")
        handle = await runtime.launch(spec, 1)
        await runtime.close()
        await harness.docker("restart", "--time", "0", DONOR_NAME)
        later = harness.new_runtime()
        assert await later.adopt(spec) is None
        assert not await harness.is_alive(handle)
        again = await later.launch(spec, 2)
        assert await later.adopt(spec) == again
        await later.terminate(again, LONG_S)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    async def test_a_donor_that_was_started_again_while_the_engine_was_away(
        self, bed: Bed, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        handle = await runtime.launch(harness.spec(ipc="donor"), 1)
        donor = (await harness.inspect(DONOR_NAME))["State"]["Pid"]
        await asyncio.to_thread(bed.stop_engine)
        os.kill(donor, signal.SIGKILL)
        await asyncio.to_thread(bed.start_engine)
        assert "IPC namespace" in (await runtime.wait(handle)).cause

    async def test_the_end_of_the_donor_ends_those_who_joined_it(
        self, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        handle = await runtime.launch(harness.spec(ipc="donor"), 1)
        await harness.docker("kill", DONOR_NAME)
        assert "IPC namespace" in (await runtime.wait(handle)).cause
        again = await runtime.launch(harness.spec(ipc="donor"), 2)
        assert await harness.is_alive(again)
        await runtime.terminate(again, LONG_S)


# The SDK leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestEngine:
    """Of the containers, not ours."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    async def test_it_comes_back(
        self, bed: Bed, harness: DockerHarness, runtime: DockerRuntime, number: signal.Signals
    ) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await harness.ready(handle)
        waiting = asyncio.create_task(runtime.wait(handle))
        await asyncio.to_thread(bed.stop_engine, number)
        with pytest.raises(SyshaxError, match="systemctl start docker"):
            await runtime.launch(harness.spec("cpu"), 1)
        await asyncio.to_thread(bed.start_engine)
        assert await harness.is_alive(handle)
        assert not waiting.done()
        await self._says(harness, handle)
        await harness.exit(handle, 3)
        assert (await waiting).code == 3

    async def _says(self, harness: DockerHarness, handle: Handle) -> None:
        """Its output is read again."""
        assert harness.runtime is not None
        async with asyncio.timeout(LONG_S):
            while "said" not in [line async for line in harness.runtime.logs("gpu", tail=None, follow=False)]:
                await harness.docker("kill", "--signal", "USR1", handle.ident)

    async def test_what_ended_while_it_was_away_is_found(
        self, bed: Bed, harness: DockerHarness, runtime: DockerRuntime
    ) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await harness.ready(handle)
        pid = await runtime.pid(handle)
        assert pid is not None
        await asyncio.to_thread(bed.stop_engine)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(bed.start_engine)
        async with asyncio.timeout(LONG_S):
            await runtime.wait(handle)
        assert not await harness.is_alive(handle)


class TestWithoutGpus:
    @pytest.fixture(autouse=True)
    def _without_nvidia(self, bed: Bed) -> Iterator[None]:
        with bed.without_gpus():
            yield

    async def test_an_engine_without_nvidias_runtime(self, harness: DockerHarness, runtime: DockerRuntime) -> None:
        error = await refusal(runtime, harness, gpus=-1)
        assert "nvidia-container-toolkit" in str(error)
        assert error.permanent
