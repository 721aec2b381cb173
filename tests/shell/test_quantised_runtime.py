# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances get their quantised weights before they are launched; what happens to a launch on the way."""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from syshax_connector.samples import samples_of
from syshax_quantize.maker import Maker
from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError, LaunchFailedError
from syshaxd.core.types import Device, InstanceSpec, QuantisedWeights
from syshaxd.core.weights import Quantize
from syshaxd.instances import binder
from syshaxd.runtime import InstanceRuntime
from syshaxd.runtime.quantised import QuantisedRuntime
from syshaxd.runtime.quantiser import ProcessWorker, Worker
from syshaxd.system.enginefiles import read_launch_host
from syshaxd.system.weights import plan_for, weight_samples, weights_dir
from tests.fakes import checkpoint
from tests.fakes.runtime import FakeRuntime
from tests.fakes.specs import make_spec
from tests.fakes.waiting import until
from tests.shell.runtime_contract import RuntimeContract
from tests.shell.test_fake_runtime import FakeHarness

LONG_S = 30.0
Q8 = {"services": {"cpu": {"runtime": "process", "python": sys.executable, "quantize": "q8_0"}}}


def worker(spec: InstanceSpec, generation: int) -> Worker:
    assert spec.weights is not None
    return ProcessWorker(spec.weights.python, weights_dir().parent)


class WithWeightsHarness(FakeHarness):
    def new_runtime(self) -> InstanceRuntime:  # type: ignore[override]
        return QuantisedRuntime(super().new_runtime(), worker, lambda *news: None)


class TestContract(RuntimeContract):
    @pytest.fixture
    def harness(self) -> FakeHarness:
        return WithWeightsHarness()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return tmp_path


@pytest.fixture
def spec(home: Path) -> InstanceSpec:
    """Of an instance whose weights are not there yet."""
    model = checkpoint.write_model(home / "m", shards=4)
    config = parse(Q8 | {"models": {"path": str(model)}})
    return next(spec for spec in binder.planned_specs(config) if spec.name == "cpu")


@pytest.fixture
def inner() -> FakeRuntime:
    return FakeRuntime()


def test_the_instance_starts_on_the_weights_and_their_size_counts(home: Path, spec: InstanceSpec) -> None:
    assert spec.weights is not None
    plan = plan_for(home / "m", Quantize.Q8_0)
    assert Path(spec.model) == weights_dir() / plan.name
    assert spec.model in spec.argv
    assert (spec.weights.source, spec.weights.quantize) == (str(home / "m"), "q8_0")
    full = sum(path.stat().st_size for path in (home / "m").glob("*.safetensors"))
    assert binder.weights([spec])["cpu"].loaded_bytes() == plan.loaded_bytes < full * 0.7


async def test_weights_are_made_before_the_launch_and_once(home: Path, spec: InstanceSpec, inner: FakeRuntime) -> None:
    news: list[tuple[str, int, str]] = []
    runtime = QuantisedRuntime(inner, worker, lambda *told: news.append(told))
    await runtime.check(spec, needs_port=True)
    handle = await runtime.launch(spec, 3)
    assert handle.generation == 3
    made = await asyncio.to_thread(os.listdir, spec.model)
    assert "config.json" in made
    assert {(name, generation) for name, generation, _ in news} == {("cpu", 3)}
    assert news[-2][2].startswith("making weights: ")
    assert news[-1] == ("cpu", 3, "")
    news.clear()
    await runtime.terminate(handle, 0)
    await runtime.launch(spec, 4)
    assert not news


async def test_to_wait_for_another_making_is_progress(home: Path, spec: InstanceSpec, inner: FakeRuntime) -> None:
    """Each note restarts the start time-out, which a large model would exceed."""
    notes: list[str] = []
    twice = asyncio.Event()

    def note(name: str, generation: int, text: str) -> None:
        notes.append(text)
        if notes[1:]:
            twice.set()

    weights_dir().mkdir(parents=True)
    with (weights_dir() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        launching = asyncio.create_task(QuantisedRuntime(inner, worker, note).launch(spec, 1))
        async with asyncio.timeout(LONG_S):
            await twice.wait()
        assert set(notes) == {"waiting for another process that makes weights"}
    assert (await launching).generation == 1


async def test_a_launch_that_is_not_wanted_any_more_stops_the_making(
    home: Path, spec: InstanceSpec, inner: FakeRuntime
) -> None:
    runtime: QuantisedRuntime = QuantisedRuntime(inner, worker, lambda *_: runtime.abandon("cpu"))
    with pytest.raises(LaunchFailedError, match="no longer wanted"):
        await runtime.launch(spec, 1)
    assert not inner.launched


async def test_a_model_that_changed_since_the_start_is_not_quantised(
    home: Path, spec: InstanceSpec, inner: FakeRuntime
) -> None:
    await asyncio.to_thread(checkpoint.write_model, home / "m", shards=4, seed=1)
    runtime = QuantisedRuntime(inner, worker, lambda *_: None)
    for attempt in (runtime.launch(spec, 1), runtime.check(spec, needs_port=False)):
        with pytest.raises(LaunchFailedError, match="has changed since the start") as caught:
            await attempt
        assert caught.value.permanent


async def test_what_fails_in_the_making_fails_the_launch(home: Path, spec: InstanceSpec, inner: FakeRuntime) -> None:
    weights = replace(spec.weights or QuantisedWeights(quantize="q8_0"), python="/bin/false")
    runtime = QuantisedRuntime(inner, worker, lambda *_: None)
    with pytest.raises(LaunchFailedError, match=r"no q8_0 weights of .*/m: its process exited with code 1"):
        await runtime.launch(replace(spec, weights=weights), 1)


async def test_instances_without_quantised_weights_are_left_alone(home: Path, inner: FakeRuntime) -> None:
    runtime = QuantisedRuntime(inner, worker, lambda *_: pytest.fail("there is nothing to make"))
    await runtime.launch(make_spec("gpu"), 1)
    await runtime.launch(replace(make_spec("cpu"), weights=QuantisedWeights(quantize="q8_0")), 1)
    assert inner.launched == [("gpu", 1), ("cpu", 1)]


def test_a_model_that_cannot_be_quantised_is_a_fault_of_the_key(home: Path) -> None:
    model = checkpoint.write_model(home / "m", config={"num_experts": 8})
    config = parse(Q8 | {"models": {"path": str(model)}})
    with pytest.raises(ConfigError, match=r"services.cpu.quantize: the model is a mixture of experts"):
        binder.planned_specs(config)


@pytest.mark.parametrize(
    ("service", "says"),
    [
        ({"device": "cuda", "runtime": "process", "python": "p", "model": "/m"}, r"services.cpu.quantize: .*CPUs only"),
        (
            {"runtime": "process", "python": "p", "model": "/m", "args": {"quantization": "fp8"}},
            r"services.cpu.args.quantization: cannot be combined with services.cpu.quantize",
        ),
        ({"runtime": "external"}, r"services.cpu.quantize: syshaxd does not start this instance"),
        (
            {"runtime": "docker", "container": {"image": "vllm"}, "model": "/m", "quantize": "auto"},
            r"services.cpu.python: needed with services.cpu.quantize .auto",
        ),
        (
            {"runtime": "docker", "container": {"image": "i"}, "model": "/m", "protocol": "syshax", "quantize": "auto"},
            r"services.cpu.quantize: auto is for stock vLLM",
        ),
        (
            {"runtime": "docker", "container": {"image": "i"}, "model": "/m", "protocol": "syshax",
             "env": {"SYSHAX_QUANTIZE": "q4_0"}},
            r"services.cpu.env.SYSHAX_QUANTIZE: differs from services.cpu.quantize",
        ),
    ],
)  # fmt: skip
def test_where_it_has_no_effect_the_key_is_refused(home: Path, service: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        binder.planned_specs(parse({"services": {"cpu": {"quantize": "q8_0"} | service}}))


def test_the_sysHAX_images_quantise_by_themselves(home: Path) -> None:  # noqa: N802 - the product's name
    service = {"runtime": "docker", "container": {"image": "i"}, "model": "/m", "env": {"INFERENCE_OP_MODE": "fused"}}
    for more in ({"quantize": "q4_0"}, {"env": {"INFERENCE_OP_MODE": "fused", "SYSHAX_QUANTIZE": "q4_0"}}):
        specs = binder.planned_specs(parse({"services": {"cpu": service | more}}))
        spec = next(spec for spec in specs if spec.name == "cpu")
        assert dict(spec.env)["SYSHAX_QUANTIZE"] == "q4_0"
        assert spec.weights == QuantisedWeights(quantize="q4_0")
        assert (spec.model, spec.device) == ("/m", Device.CPU)


def test_weights_are_of_the_model_that_they_were_made_of(home: Path, spec: InstanceSpec) -> None:
    model = home / "m"
    made = weights_dir() / plan_for(model, Quantize.Q8_0).name
    Maker(plan_for(model, Quantize.Q8_0).as_json(), made, report=lambda *_: None).make()
    other = checkpoint.write_model(home / "other", seed=1)
    folders = {"gpu": {"model": str(model)}, "cpu": {"model": str(made)}}
    by_hand = {name: {"runtime": "process", "python": sys.executable} | its for name, its in folders.items()}
    host = read_launch_host(parse({"services": by_hand}))
    assert host.engines["gpu"].identity == host.engines["cpu"].identity != ""
    cpu = next(spec for spec in binder.planned_specs(parse({"services": by_hand})) if spec.name == "cpu")
    assert cpu.weights == QuantisedWeights(quantize="q8_0")
    # The connector of an instance that was started by hand finds it out by itself.
    assert samples_of(made) == samples_of(model) == weight_samples(model) != samples_of(other)
    by_hand["gpu"]["model"] = str(other)
    assert read_launch_host(parse({"services": by_hand})).engines["gpu"].identity != host.engines["cpu"].identity


def engine(folder: Path, says: str) -> Path:
    """An interpreter that answers each order with this, and counts them."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho . >> {folder}/asked\nhead -n1 > {folder}/order\n{says}\n")
    path.chmod(0o755)
    return path


def auto_spec(home: Path, python: Path, *, measure: bool = True) -> InstanceSpec:
    service = {"runtime": "process", "python": str(python), "quantize": "auto", "cores": "0"}
    config = parse({"services": {"cpu": service}, "models": {"path": str(home / "m")}})
    return next(spec for spec in binder.planned_specs(config, measure=measure) if spec.name == "cpu")


def test_only_the_daemon_measures_and_others_say_what_is_missing(home: Path) -> None:
    checkpoint.write_model(home / "m")
    spec = auto_spec(home, engine(home, "exit 1"), measure=False)
    assert (spec.weights, spec.model) == (None, str(home / "m"))
    assert spec.weights_reason.startswith("full weights: not measured on this host yet")
    assert not (home / "asked").exists()


def test_auto_measures_once_and_takes_the_fastest(home: Path) -> None:
    checkpoint.write_model(home / "m")
    times = {"none": {"1": 9.0}, "q8_0": {"1": 4.5}, "q4_0": "no kernel"}
    python = engine(home, f"echo '{json.dumps(times)}'")
    for measure in (True, True, False):
        spec = auto_spec(home, python, measure=measure)
        assert spec.weights_text == "q8_0"
        assert "q8_0 2.00 times as fast" in spec.weights_reason
    assert (home / "asked").read_text() == ".\n"
    order = json.loads((home / "order").read_text())
    assert (order["shape"], order["threads"], order["cores"]) == ([checkpoint.INNER, checkpoint.HIDDEN], 1, [0])
    assert order["configs"].keys() >= {"none", "q8_0"}


def test_a_measurement_ends_with_its_daemon(home: Path) -> None:
    checkpoint.write_model(home / "m")
    python = engine(home, f"cat; echo . > {home}/ended")
    code = (
        "from pathlib import Path\n"
        "from syshaxd.system.auto_weights import auto_choice\n"
        f"auto_choice(Path({str(home / 'm')!r}), {str(python)!r}, '0.32.0', (), measure=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as daemon:
        until((home / "order").exists, LONG_S, "no measurement has begun")
        assert not (home / "ended").exists()
        daemon.kill()
    until((home / "ended").exists, LONG_S, "the measurement runs on")


@pytest.mark.parametrize("says", ["exit 1", "echo no json", "echo '{}'", "echo '[1]'"])
def test_where_auto_cannot_measure_the_weights_stay_full(home: Path, says: str) -> None:
    checkpoint.write_model(home / "m")
    spec = auto_spec(home, engine(home, f"echo 'it is broken' >&2; {says}"))
    assert (spec.weights, spec.model) == (None, str(home / "m"))
    assert spec.weights_reason == "full weights: a layer could not be measured (it is broken)"


def test_a_measurement_that_is_killed_says_what_to_look_at(home: Path) -> None:
    checkpoint.write_model(home / "m")
    spec = auto_spec(home, engine(home, "kill -ILL $$"))
    assert spec.weights_reason.startswith(
        "full weights: a layer could not be measured (killed by signal 4 (it was built"
    )


def test_auto_leaves_a_model_that_cannot_be_quantised(home: Path) -> None:
    checkpoint.write_model(home / "m", config={"num_experts": 8})
    spec = auto_spec(home, Path("/no/such/python"))
    assert spec.weights is None
    assert "mixture of experts" in spec.weights_reason
