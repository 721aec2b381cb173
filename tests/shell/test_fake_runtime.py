# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import pytest

from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from tests.fakes.runtime import FakeHost, FakeRuntime
from tests.fakes.specs import make_spec
from tests.shell.runtime_contract import RuntimeContract


class FakeHarness:
    def __init__(self) -> None:
        self.host = FakeHost()

    def new_runtime(self) -> FakeRuntime:
        return FakeRuntime(self.host)

    def spec(self, name: str = "gpu", *, stubborn: bool = False) -> InstanceSpec:
        return make_spec(name, argv=("stubborn",) if stubborn else ())

    def broken_spec(self) -> InstanceSpec:
        return make_spec(argv=("broken",))

    async def ready(self, handle: Handle) -> None:
        pass

    async def exit(self, handle: Handle, code: int) -> None:
        self.host.exit(handle.name, ExitStatus(code=code))

    async def say(self, handle: Handle) -> None:
        self.host.say(handle.name, "said")

    async def is_alive(self, handle: Handle) -> bool:
        return self.host.is_alive(handle)


class TestContract(RuntimeContract):
    @pytest.fixture
    def harness(self) -> FakeHarness:
        return FakeHarness()
