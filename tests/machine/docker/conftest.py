# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One container engine for all tests of this folder, and a runtime on it."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.types import ContainerSpec, Handle, InstanceSpec, RuntimeKind
from syshaxd.runtime.docker import DockerRuntime
from tests.fakes import server
from tests.fakes.specs import make_spec
from tests.machine.docker.bed import Bed
from tests.shell.runtime_contract import said_until_ready

PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
SERVER = "/server.py"


class DockerHarness:
    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed = bed
        self.folder = folder
        self.runtime: DockerRuntime | None = None
        self.runtimes: list[DockerRuntime] = []
        self.notes: list[str] = []

    def new_runtime(self) -> DockerRuntime:
        self.runtime = DockerRuntime(
            self.folder, host=self.bed.url, note=lambda name, generation, text: self.notes.append(text)
        )
        self.runtimes.append(self.runtime)
        return self.runtime

    def spec(self, name: str = "gpu", *, stubborn: bool = False, **container: Any) -> InstanceSpec:
        its = ContainerSpec(
            name=f"vllm_{name}", image=self.bed.image, pull=False, volumes=(f"{server.__file__}:{SERVER}:ro",)
        )
        argv = (PYTHON, "-u", SERVER, *(["stubborn"] if stubborn else []))
        return replace(make_spec(name, argv=argv, runtime=RuntimeKind.DOCKER), container=replace(its, **container))

    def broken_spec(self) -> InstanceSpec:
        return replace(self.spec(), argv=("/nowhere/bin/vllm",))

    async def ready(self, handle: Handle) -> None:
        await said_until_ready(self.runtime, handle)

    async def exit(self, handle: Handle, code: int) -> None:
        await self.ready(handle)
        await self.docker("kill", "--signal", str(signal.SIGRTMIN + code), handle.ident)

    async def say(self, handle: Handle) -> None:
        await self.ready(handle)
        await self.docker("kill", "--signal", "USR1", handle.ident)

    async def is_alive(self, handle: Handle) -> bool:
        return handle.ident in (await self.docker("ps", "--quiet", "--no-trunc")).split()

    async def docker(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.bed.docker, *arguments)

    async def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(await self.docker("inspect", name))
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    with Bed(Path(__file__).parents[3] / "build" / "machine" / "docker") as bed:
        yield bed


@pytest.fixture(autouse=True)
def _no_container_is_left(bed: Bed) -> Iterator[None]:
    yield
    left = bed.docker("ps", "--all", "--quiet").split()
    if left:
        bed.docker("rm", "--force", "--volumes", *left)


@pytest.fixture
async def harness(bed: Bed, tmp_path: Path) -> AsyncIterator[DockerHarness]:
    harness = DockerHarness(bed, tmp_path / "containers")
    yield harness
    for runtime in harness.runtimes:
        await runtime.close()


@pytest.fixture
async def runtime(harness: DockerHarness) -> AsyncIterator[DockerRuntime]:
    runtime = harness.new_runtime()
    yield runtime
    await runtime.close()
