# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An engine built for other CPUs is told before it is launched, and before a healthy one is ended for it."""

import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import Device, InstanceSpec
from syshaxd.runtime.process import ProcessRuntime
from tests.fakes.specs import make_spec


class Engine:
    """An environment with a vLLM of which only the probe of its kernels is run: `how` is what that does."""

    def __init__(self, folder: Path, how: str) -> None:
        self.python = folder / "bin" / "python3"
        self.library = folder / "lib" / "python3.11" / "site-packages" / "vllm" / "_C.abi3.so"
        self._runs = folder / "runs"
        for path in (self.python, self.library):
            path.parent.mkdir(parents=True)
        self.library.write_bytes(b"kernels")
        probe = f'[ "$1" = -c ] && {{ echo "$3 $X" >> {self._runs}; {how}; exit; }}'
        self.python.write_text(f"#!/bin/sh\n{probe}\nexec sleep 1000\n")
        self.python.chmod(0o755)

    def spec(self, *flags: str) -> InstanceSpec:
        spec = make_spec("cpu", argv=(str(self.python), "-m", "vllm", *flags))
        return replace(spec, device=Device.CPU, env=(("X", "y"),))

    @property
    def runs(self) -> list[str]:
        return self._runs.read_text().splitlines() if self._runs.exists() else []


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ProcessRuntime]:
    runtime = ProcessRuntime(tmp_path / "state")
    yield runtime
    await runtime.close()


ILLEGAL = "kill -ILL $$"
_BUILT = "built for other CPUs than this host's"


async def test_illegal_instructions_are_told_before_anything_is_started(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    spec = Engine(tmp_path, ILLEGAL).spec()
    with pytest.raises(LaunchFailedError, match=_BUILT) as caught:
        await runtime.launch(spec, 1)
    assert caught.value.permanent
    assert [_BUILT in line async for line in runtime.logs("cpu", tail=1, follow=False)] == [True]
    with pytest.raises(LaunchFailedError, match=_BUILT):
        await runtime.check(spec, needs_port=False)


async def test_what_has_passed_is_run_again_only_for_another_build(tmp_path: Path, runtime: ProcessRuntime) -> None:
    engine = Engine(tmp_path, "true")
    for _ in range(3):
        await runtime.check(engine.spec(), needs_port=False)
    again = ProcessRuntime(tmp_path / "state2")
    (tmp_path / "state2").mkdir()
    (tmp_path / "state2" / "kernels-passed").write_bytes((tmp_path / "state" / "kernels-passed").read_bytes())
    await again.check(engine.spec(), needs_port=False)
    await again.close()
    assert engine.runs == ["bfloat16 y"]
    os.utime(engine.library, (time.time(), time.time() + 60))
    await runtime.check(engine.spec(), needs_port=False)
    await runtime.check(engine.spec("--dtype", "half"), needs_port=False)
    assert engine.runs == ["bfloat16 y"] * 2 + ["float16 y"]


@pytest.mark.parametrize("how", ["exit 1", "kill -SEGV $$", "rm -f x/y; exit 127"])
async def test_any_other_end_tells_nothing(tmp_path: Path, runtime: ProcessRuntime, how: str) -> None:
    engine = Engine(tmp_path, how)
    for _ in range(2):
        await runtime.check(engine.spec(), needs_port=False)
    assert len(engine.runs) == 2


async def test_only_interpreters_with_kernels_for_cpus_are_run(tmp_path: Path, runtime: ProcessRuntime) -> None:
    engine = Engine(tmp_path, ILLEGAL)
    await runtime.check(replace(engine.spec(), device=Device.CUDA), needs_port=False)
    wrapper = engine.python.with_name("serve")
    engine.python.rename(wrapper)
    await runtime.check(replace(engine.spec(), argv=(str(wrapper), "-m", "vllm")), needs_port=False)
    wrapper.rename(engine.python)
    engine.library.unlink()
    await runtime.check(engine.spec(), needs_port=False)
    assert not engine.runs


async def test_a_record_of_what_has_passed_that_cannot_be_read_is_made_anew(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    engine = Engine(tmp_path, "true")
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "kernels-passed").write_bytes(b"\xff\n")
    for _ in range(2):
        await runtime.check(engine.spec(), needs_port=False)
    assert len(engine.runs) == 1
