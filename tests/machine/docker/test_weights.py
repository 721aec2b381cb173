# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Quantised weights made in a container of the instance's image, on a real container engine."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syshax_quantize.maker import Maker
from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import InstanceSpec, QuantisedWeights
from syshaxd.core.weights import Quantize
from syshaxd.runtime.docker import DockerRuntime
from syshaxd.runtime.quantised import QuantisedRuntime
from syshaxd.system.weights import plan_for
from tests.fakes import checkpoint
from tests.fakes.waiting import until_async
from tests.machine.docker.bed import LONG_S, Bed
from tests.machine.docker.conftest import DockerHarness
from tests.machine.docker.image import make_tar

pytestmark = pytest.mark.timeout(120)
IMAGE = "syshax-numpy:test"
News = list[tuple[str, int, str]]


@pytest.fixture(scope="module", params=["root is root", "userns-remap"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """An engine in whose containers root is root here, and one in which it is nobody."""
    if request.param == "root is root":
        yield request.getfixturevalue("bed")
        return
    with Bed(Path(__file__).parents[3] / "build" / "machine" / "userns", remapped=True) as remapped:
        assert remapped.docker("run", "--rm", remapped.image, "cat", "/proc/self/uid_map").split()[1] != "0"
        yield remapped


@pytest.fixture(scope="module", autouse=True)
def _image(bed: Bed) -> Iterator[None]:
    archive = bed.folder / "numpy.tar"
    make_tar(archive, ["numpy"])
    bed.docker("import", str(archive), IMAGE)
    archive.unlink()
    yield
    bed.docker("rmi", IMAGE)


@pytest.fixture
def spec(harness: DockerHarness, tmp_path: Path) -> InstanceSpec:
    """An instance whose weights are not made yet."""
    shapes = {f"model.layers.{at}.mlp.down_proj.weight": (512, 512) for at in range(8)}
    model = checkpoint.write_model(tmp_path / "m", shards=4, shapes=shapes)
    made = tmp_path / "kept" / plan_for(model, Quantize.Q8_0).name
    spec = harness.spec(image=IMAGE)
    assert spec.container is not None
    container = replace(spec.container, volumes=(*spec.container.volumes, f"{made}:{made}:ro"))
    weights = QuantisedWeights(quantize="q8_0", source=str(model))
    return replace(spec, model=str(made), weights=weights, container=container)


def quantised(runtime: DockerRuntime, note: Callable[[str, int, str], None]) -> QuantisedRuntime:
    return QuantisedRuntime(runtime, runtime.weights_worker, note)


async def test_weights_are_made_in_a_container_before_the_launch(
    harness: DockerHarness, runtime: DockerRuntime, spec: InstanceSpec, tmp_path: Path
) -> None:
    news: News = []
    both = quantised(runtime, lambda *told: news.append(told))
    await both.check(spec, needs_port=True)
    handle = await both.launch(spec, 3)
    assert await harness.is_alive(handle)
    assert any("making weights: " in text for _, _, text in news)
    assert news[-1] == ("gpu", 3, "")
    expected = tmp_path / "expected"
    plan = await asyncio.to_thread(plan_for, tmp_path / "m", Quantize.Q8_0)
    await asyncio.to_thread(Maker(plan.as_json(), expected, report=lambda *_: None).make)
    assert await asyncio.to_thread(contents, Path(spec.model)) == await asyncio.to_thread(contents, expected)
    await harness.docker("exec", handle.ident, "sh", "-c", 'cat "$0"/* >/dev/null', spec.model)  # it may read them
    names = await harness.docker("ps", "--all", "--format", "{{.Names}}")
    assert names.split() == ["vllm_gpu"]
    await both.terminate(handle, 10.0)


def contents(folder: Path) -> dict[str, bytes]:
    assert folder.stat().st_uid == os.getuid()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_launch_that_is_not_wanted_any_more_ends_the_container(
    harness: DockerHarness, runtime: DockerRuntime, spec: InstanceSpec
) -> None:
    both: QuantisedRuntime = quantised(runtime, lambda *_: both.abandon("gpu"))
    with pytest.raises(LaunchFailedError, match="no longer wanted"):
        await both.launch(spec, 1)

    async def is_removed() -> bool:  # the launch does not wait for that
        return not await harness.docker("ps", "--all", "--quiet")

    await until_async(is_removed, LONG_S, "the container is removed")


async def test_an_image_that_cannot_make_them_says_why(
    harness: DockerHarness, runtime: DockerRuntime, spec: InstanceSpec
) -> None:
    assert spec.container is not None
    both = quantised(runtime, lambda *_: None)
    without = replace(spec, container=replace(spec.container, image=harness.bed.image))
    with pytest.raises(LaunchFailedError, match="has no NumPy"):
        await both.launch(without, 1)
    assert not await harness.docker("ps", "--all", "--quiet")
