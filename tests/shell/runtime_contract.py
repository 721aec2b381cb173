# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What every InstanceRuntime must do. A test module runs it with a class that gives a fixture `harness`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Protocol

import pytest

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from syshaxd.runtime import InstanceRuntime

LONG_S = 30.0
"""A time that only a failing test takes."""


async def said_until_ready(runtime: InstanceRuntime | None, handle: Handle) -> list[str]:
    """What a server wrote up to its line `ready`, once it has."""
    assert runtime is not None
    said: list[str] = []
    async with aclosing(runtime.logs(handle.name, tail=None, follow=True)) as lines:
        async for line in lines:
            if line.startswith(f"==== {handle.name}, generation {handle.generation},"):
                said = []
            said.append(line)
            if line == "ready" and f"generation {handle.generation}," in said[0]:
                return said
    raise AssertionError("not reached")


class Harness(Protocol):
    """One kind of runtime, and a way to tell its servers what to do."""

    def new_runtime(self) -> InstanceRuntime:
        """As a newly started daemon would make it. One at a time: the one before is closed first."""

    def spec(self, name: str = "gpu", *, stubborn: bool = False) -> InstanceSpec:
        """A server that runs until it is told to end; `stubborn`: it takes no notice of being asked."""

    def broken_spec(self) -> InstanceSpec:
        """A server that can never be launched."""

    async def ready(self, handle: Handle) -> None:
        """Returns once the server has come so far that it obeys the other methods."""

    async def exit(self, handle: Handle, code: int) -> None:
        """The server exits by itself."""

    async def say(self, handle: Handle) -> None:
        """The server writes the line `said`."""

    async def is_alive(self, handle: Handle) -> bool:
        """Whether the server runs."""


class RuntimeContract:
    @pytest.fixture
    async def runtime(self, harness: Harness) -> AsyncIterator[InstanceRuntime]:
        runtime = harness.new_runtime()
        yield runtime
        await runtime.close()

    async def test_a_launched_server_runs(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 7)
        assert (handle.name, handle.generation) == ("gpu", 7)
        assert await harness.is_alive(handle)
        await runtime.terminate(handle, LONG_S)

    async def test_its_process_is_known_while_it_runs(self, harness: Harness, runtime: InstanceRuntime) -> None:
        first = await runtime.launch(harness.spec(), 1)
        assert (await runtime.pid(first) or 0) > 1
        await runtime.terminate(first, LONG_S)
        await runtime.wait(first)
        assert await runtime.pid(first) is None
        second = await runtime.launch(harness.spec(), 2)
        assert await runtime.pid(first) is None
        await runtime.terminate(second, LONG_S)

    @pytest.mark.parametrize("code", [0, 3])
    async def test_wait_tells_the_exit_code(self, harness: Harness, runtime: InstanceRuntime, code: int) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        waiting = asyncio.create_task(runtime.wait(handle))
        await harness.exit(handle, code)
        assert await waiting == ExitStatus(code=code)
        assert await runtime.wait(handle) == ExitStatus(code=code)
        assert not await harness.is_alive(handle)

    async def test_terminate_returns_when_the_server_is_gone(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await runtime.terminate(handle, LONG_S)
        assert not await harness.is_alive(handle)
        await runtime.wait(handle)

    async def test_terminate_uses_force_after_the_grace(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(stubborn=True), 1)
        await harness.ready(handle)
        await runtime.terminate(handle, 0.05)
        assert not await harness.is_alive(handle)
        assert (await runtime.wait(handle)).signal == 9

    async def test_terminating_what_has_ended_is_no_error(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await harness.exit(handle, 1)
        await runtime.wait(handle)
        await runtime.terminate(handle, LONG_S)

    async def test_terminating_twice_at_once(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await asyncio.gather(runtime.terminate(handle, LONG_S), runtime.terminate(handle, LONG_S))
        assert not await harness.is_alive(handle)

    async def test_giving_up_the_wait_does_not_end_the_server(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        waiting = asyncio.create_task(runtime.wait(handle))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert await harness.is_alive(handle)
        await harness.exit(handle, 2)
        assert await runtime.wait(handle) == ExitStatus(code=2)

    async def test_an_older_generation_is_left_alone(self, harness: Harness, runtime: InstanceRuntime) -> None:
        first = await runtime.launch(harness.spec(), 1)
        await runtime.terminate(first, LONG_S)
        second = await runtime.launch(harness.spec(), 2)
        await runtime.terminate(first, LONG_S)
        await runtime.wait(first)
        assert await harness.is_alive(second)
        await runtime.terminate(second, LONG_S)

    async def test_two_instances_are_apart(self, harness: Harness, runtime: InstanceRuntime) -> None:
        gpu = await runtime.launch(harness.spec("gpu"), 1)
        cpu = await runtime.launch(harness.spec("cpu"), 1)
        await runtime.terminate(gpu, LONG_S)
        assert await harness.is_alive(cpu)
        await runtime.terminate(cpu, LONG_S)

    async def test_a_launch_that_can_never_work_says_so(self, harness: Harness, runtime: InstanceRuntime) -> None:
        with pytest.raises(LaunchFailedError, match="gpu") as error:
            await runtime.launch(harness.broken_spec(), 1)
        assert error.value.permanent
        assert await runtime.adopt(harness.broken_spec()) is None

    async def test_what_can_be_launched_passes_the_check(self, harness: Harness, runtime: InstanceRuntime) -> None:
        spec = harness.spec()
        await runtime.check(spec, needs_port=True)
        handle = await runtime.launch(spec, 1)
        await runtime.check(spec, needs_port=False)
        assert await harness.is_alive(handle)
        await runtime.terminate(handle, LONG_S)

    async def test_nothing_to_adopt(self, harness: Harness, runtime: InstanceRuntime) -> None:
        assert await runtime.adopt(harness.spec()) is None

    async def test_nothing_to_adopt_after_an_exit(self, harness: Harness, runtime: InstanceRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await runtime.terminate(handle, LONG_S)
        await runtime.close()
        assert await harness.new_runtime().adopt(harness.spec()) is None

    async def test_a_running_server_is_adopted(self, harness: Harness, runtime: InstanceRuntime) -> None:
        spec = harness.spec()
        handle = await runtime.launch(spec, 3)
        await runtime.close()
        later = harness.new_runtime()
        assert await later.adopt(spec) == handle
        waiting = asyncio.create_task(later.wait(handle))
        await harness.exit(handle, 5)
        assert (await waiting).code in {None, 5}
        assert await later.adopt(spec) is None
        await later.close()

    async def test_an_adopted_server_can_be_ended(self, harness: Harness, runtime: InstanceRuntime) -> None:
        spec = harness.spec()
        handle = await runtime.launch(spec, 3)
        await runtime.close()
        later = harness.new_runtime()
        assert await later.adopt(spec) == handle
        await later.terminate(handle, LONG_S)
        assert not await harness.is_alive(handle)
        await later.wait(handle)
        await later.close()

    async def test_a_running_server_of_another_spec_is_ended(self, harness: Harness, runtime: InstanceRuntime) -> None:
        spec = harness.spec()
        handle = await runtime.launch(spec, 3)
        await runtime.close()
        later = harness.new_runtime()
        assert await later.adopt(replace(spec, max_num_seqs=spec.max_num_seqs + 1)) is None
        assert not await harness.is_alive(handle)
        await later.close()

    async def test_logs_are_kept_over_generations(self, harness: Harness, runtime: InstanceRuntime) -> None:
        for generation in (1, 2):
            handle = await runtime.launch(harness.spec(), generation)
            await harness.say(handle)
            await runtime.terminate(handle, LONG_S)
        lines = [line async for line in runtime.logs("gpu", tail=None, follow=False)]
        assert lines.count("said") == 2
        last = [line async for line in runtime.logs("gpu", tail=2, follow=False)]
        assert last == lines[-2:]
        assert [line async for line in runtime.logs("gpu", tail=0, follow=False)] == []
        assert [line async for line in runtime.logs("cpu", tail=None, follow=False)] == []

    async def test_logs_can_be_followed_over_generations(self, harness: Harness, runtime: InstanceRuntime) -> None:
        async with aclosing(runtime.logs("gpu", tail=0, follow=True)) as lines:
            for generation in (1, 2):
                handle = await runtime.launch(harness.spec(), generation)
                speaking = asyncio.create_task(harness.say(handle))
                while await anext(lines) != "said":
                    pass
                await speaking
                await runtime.terminate(handle, LONG_S)
