# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Making quantised weights: the numbers, the memory that it takes, and what an interruption leaves."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from syshax_quantize import rounding
from syshax_quantize.maker import Maker, MakingError
from syshaxd.core.errors import ConflictError, LaunchFailedError, NotFoundError
from syshaxd.core.weights import Quantize, Scheme, WeightsError, WeightsPlan, plan_weights
from syshaxd.core.weights.scheme import Cpu
from syshaxd.runtime.quantiser import ProcessWorker, Progress, failure, make_weights
from syshaxd.system import weights
from tests.fakes import checkpoint

AMX = Cpu(flags=frozenset(("amx_int8", "amx_bf16")))
MATRIX = "model.layers.1.mlp.down_proj.weight"
WAYS = [(Quantize.Q8_0, Scheme.INT8), (Quantize.Q4_0, Scheme.PACK4), (Quantize.Q4_0, Scheme.INT4)]


def plan_of(model: Path, quantize: Quantize = Quantize.Q8_0, scheme: Scheme = Scheme.INT8) -> WeightsPlan:
    return plan_weights(weights.read_checkpoint(model), quantize, scheme)


def nothing(done: int, total: int) -> None:
    pass


def make(plan: WeightsPlan, folder: Path, report: Callable[[int, int], None] = nothing) -> Path:
    Maker(plan.as_json(), folder / plan.name, threads=2, report=report).make()
    return folder / plan.name


@pytest.mark.parametrize(("quantize", "scheme"), WAYS)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_is_made_is_the_model_in_fewer_bits(
    tmp_path: Path, quantize: Quantize, scheme: Scheme, dtype: str
) -> None:
    model = checkpoint.write_model(tmp_path / "m", dtype=dtype)
    plan = plan_of(model, quantize, scheme)
    made = make(plan, tmp_path / "kept")
    before, after = checkpoint.read(model), checkpoint.read(made)
    assert sum(path.stat().st_size for path in made.glob("*.safetensors")) == plan.stored_bytes
    for name, array in before.items():
        if name in plan.left or array.ndim < 2:
            assert np.array_equal(array, after[name])
            continue
        error = np.sqrt(np.mean((checkpoint.restored(after, name) - array) ** 2)) / np.std(array)
        assert error < (0.01 if quantize is Quantize.Q8_0 else 0.09)
    assert (made / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert weights.record_of(made)["source"] == str(model)
    assert not list((tmp_path / "kept").glob(".making*"))


@given(
    hnp.arrays(np.float32, (3, 32), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    st.sampled_from([rounding.int4_groups, rounding.pack4_groups]),
)
@settings(deadline=None)
def test_a_better_scale_is_never_worse_than_rounding_to_nearest(
    rows: rounding.Floats, way: Callable[[rounding.Floats, int], tuple[bytes, bytes]]
) -> None:
    numbers, scales = (np.frombuffer(part, kind) for part, kind in zip(way(rows, 32), ("<u4", "<u2"), strict=True))
    scale = rounding.as_floats(scales.tobytes(), "BF16").reshape(3, 1)
    if way is rounding.pack4_groups:
        parts = ((numbers.reshape(3, 4, 1) >> np.arange(0, 32, 4, dtype=np.uint32)) & 15).reshape(3, 32)
        result = (parts.astype(np.float64) - 8) * scale
    else:
        result = np.frombuffer(numbers.tobytes(), np.int8).reshape(3, 32).astype(np.float64) * scale
    assert np.isfinite(result).all()
    largest = np.abs(rows).max(axis=1, keepdims=True)
    plain = rounding.as_floats(rounding.bf16_bits((largest / 7).astype(np.float32)).tobytes(), "BF16").reshape(3, 1)
    plain = np.where(plain == 0, 1, plain).astype(np.float64)
    nearest = np.clip(np.rint(rows / plain), -8, 7) * plain
    units = np.where(largest > 0, largest, 1)
    ours, theirs = (((each - rows) / units) ** 2 for each in (result, nearest))
    assert (ours.sum(axis=1) <= theirs.sum(axis=1) * 1.001 + 1e-5).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, odd: float) -> None:
    arrays = {MATRIX: np.full((32, 32), odd, np.float32)}
    (tmp_path / "m").mkdir()
    checkpoint.write_file(tmp_path / "m/model.safetensors", arrays)
    (tmp_path / "m/config.json").write_text("{}")
    with pytest.raises(MakingError, match=f"{MATRIX} are damaged"):
        make(plan_of(tmp_path / "m"), tmp_path / "kept")
    assert not list((tmp_path / "kept").glob(".making-*/*"))  # a failed file takes no room


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("when", ["planned", "begun"])
def test_a_model_that_changes_meanwhile_is_never_half_the_old_one(tmp_path: Path, name: str, when: str) -> None:
    model = checkpoint.write_model(tmp_path / "m")
    plan = plan_of(model)
    changed = False

    def change(*_: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            with (model / name).open("r+b") as file:
                file.seek(-2, os.SEEK_END)
                file.write(b"\0\0")
            os.utime(model / name, ns=(0, 1))  # clocks of file systems are coarse

    if when == "planned":
        change()
    with pytest.raises(MakingError, match=f"{name} changed meanwhile"):
        make(plan, tmp_path / "kept", change)
    again = plan_of(model)
    assert again.name != plan.name
    make(again, tmp_path / "kept")


def test_who_may_read_the_model_may_read_its_weights(tmp_path: Path) -> None:
    """Such as the user of an instance's container."""
    model = checkpoint.write_model(tmp_path / "m")
    for mode, public in ((0o755, 0o644), (0o700, 0o600)):
        model.chmod(mode)
        for path in model.iterdir():
            path.chmod(public)
        made = make(plan_of(model), tmp_path / f"kept-{mode}")
        assert stat.S_IMODE(made.stat().st_mode) == mode
        assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {public}
        assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700


class Killed(BaseException):
    """As a SIGKILL: nothing after it is done."""


@given(st.lists(st.integers(1, 60), max_size=4), st.sampled_from(WAYS))
@settings(max_examples=15, deadline=None)
def test_whenever_it_is_interrupted_nothing_half_made_is_used(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], how: tuple[Quantize, Scheme]
) -> None:
    base = tmp_path_factory.mktemp("interrupted")
    model = checkpoint.write_model(base / "m", shards=3)
    plan = plan_of(model, *how)
    whole = contents(make(plan, base / "reference"))
    for steps in kills:
        left = steps

        def step(done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        try:
            make(plan, base / "kept", step)
        except Killed:
            made = base / "kept" / plan.name
            assert not made.exists() or contents(made) == whole
    assert contents(make(plan, base / "kept")) == whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_whole_is_not_made_again(tmp_path: Path) -> None:
    plan = plan_of(checkpoint.write_model(tmp_path / "m", shards=3))
    seen: list[int] = []

    def stop_at_the_second_file(done: int, total: int) -> None:
        if list((tmp_path / "kept").glob(".making-*/model-00002*.safetensors")):
            raise Killed

    with pytest.raises(Killed):
        make(plan, tmp_path / "kept", stop_at_the_second_file)
    make(plan, tmp_path / "kept", lambda done, total: seen.append(done))
    assert seen[0] > 0


def test_no_room_on_the_disk_is_told_before_anything_is_made(tmp_path: Path) -> None:
    plan = plan_of(checkpoint.write_model(tmp_path / "m")).as_json()
    plan["files"][0]["size"] = 1 << 60
    with pytest.raises(MakingError, match=r"MiB free, and the weights take .* MiB: make room"):
        Maker(plan, tmp_path / "kept/x", report=nothing).make()
    assert not list((tmp_path / "kept").glob(".making-*/*"))


def test_a_checkpoint_larger_than_the_memory(tmp_path: Path) -> None:
    """Five files of 32 MiB each, with 128 MiB of address space beyond what the interpreter takes at start."""
    shapes = {f"model.layers.{at}.mlp.down_proj.weight": (4096, 2048) for at in range(10)}
    model = checkpoint.write_model(tmp_path / "m", shards=5, shapes=shapes)
    plan = plan_of(model)
    limit = 128 << 20
    assert sum(path.stat().st_size for path in model.glob("*.safetensors")) > limit
    code = (
        "import json, pathlib, resource, sys, numpy\n"
        "from syshax_quantize.maker import Maker\n"
        "pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])\n"
        f"most = pages * resource.getpagesize() + {limit}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "plan = json.loads(sys.stdin.read())\n"
        "Maker(plan, pathlib.Path(sys.argv[1]), threads=2, report=lambda *_: None).make()\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    made = tmp_path / "kept" / plan.name
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    order = json.dumps(plan.as_json())
    done = subprocess.run(
        [sys.executable, "-c", code, str(made)], input=order, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) << 10 < 160 << 20
    assert made.exists()


def local(state: Path) -> ProcessWorker:
    return ProcessWorker(sys.executable, state)


@pytest.fixture
def large(tmp_path: Path) -> WeightsPlan:
    """Of a model that takes a while."""
    shapes = {f"model.layers.{at}.mlp.down_proj.weight": (1024, 1024) for at in range(12)}
    return plan_of(checkpoint.write_model(tmp_path / "m", shards=6, shapes=shapes))


async def test_the_process_tells_how_far_it_is_and_two_make_one(tmp_path: Path, large: WeightsPlan) -> None:
    news: list[Progress] = []
    making = [make_weights(large, tmp_path / "kept", worker=local(tmp_path), report=news.append) for _ in range(2)]
    first, second = await asyncio.gather(*making)
    assert first == second == tmp_path / "kept" / large.name
    assert any(its.done_bytes == its.total_bytes > 0 for its in news)


def test_an_instance_that_is_spawned_meanwhile_keeps_nothing_of_it(tmp_path: Path) -> None:
    """It would hold the making's pipes open for as long as it lives."""
    uvloop = pytest.importorskip("uvloop")
    plan = plan_of(checkpoint.write_model(tmp_path / "m"))
    spawned: list[int] = []
    done = threading.Event()

    def spawn_instances() -> None:
        while not done.is_set():
            spawned.append(os.posix_spawn("/bin/sleep", ["sleep", "600"], {}))
            done.wait(0.005)

    async def make_all() -> None:
        for number in range(8):
            kept = tmp_path / f"kept-{number}"
            await make_weights(plan, kept, worker=local(tmp_path), report=lambda _: None)

    spawner = threading.Thread(target=spawn_instances)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        spawner.start()
        try:
            runner.run(asyncio.wait_for(make_all(), 50))
        finally:
            done.set()
            spawner.join()
            for pid in spawned:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


async def test_cancelled_it_ends_and_goes_on_later(tmp_path: Path, large: WeightsPlan) -> None:
    begun = asyncio.Event()
    making = asyncio.create_task(
        make_weights(large, tmp_path / "kept", report=lambda _: begun.set(), worker=local(tmp_path))
    )
    await begun.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await make_weights(large, tmp_path / "kept", report=lambda _: None, worker=local(tmp_path))
    assert (tmp_path / "kept" / large.name / "config.json").exists()


async def test_an_interpreter_that_cannot_make_them_is_told(tmp_path: Path, large: WeightsPlan) -> None:
    for python, says in (("/no/such/python", "cannot start"), ("/bin/false", "exited with code 1")):
        with pytest.raises(LaunchFailedError, match=says):
            await make_weights(large, tmp_path / "kept", worker=ProcessWorker(python, tmp_path), report=lambda _: None)


@pytest.mark.parametrize("code", [-signal.SIGKILL, 128 + signal.SIGKILL])
def test_a_making_that_is_killed_says_what_to_look_at(code: int) -> None:
    assert "was killed by signal 9 (unless a user killed it, the kernel was out of memory" in failure(code, "")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda model: (model / "config.json").unlink(), "config.json: No such file"),
        (lambda model: (model / "config.json").write_text("{"), "can't be understood"),
        (lambda model: (model / "config.json").write_text("[]"), "no JSON object"),
        (lambda model: next(model.glob("*.safetensors")).unlink(), "lacks model-00001"),
        (lambda model: os.truncate(next(model.glob("*.safetensors")), 100), "not a complete safetensors file"),
        (lambda model: [path.unlink() for path in model.glob("*.safetensors")], "holds no .*safetensors"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(tmp_path: Path, harm: Callable[[Path], object], says: str) -> None:
    model = checkpoint.write_model(tmp_path / "m")
    harm(model)
    with pytest.raises(WeightsError, match=says):
        weights.plan_for(model, Quantize.Q8_0, AMX)


def test_what_is_kept_is_listed_and_removed(tmp_path: Path) -> None:
    made = make(plan_of(checkpoint.write_model(tmp_path / "m")), tmp_path / "kept")
    (tmp_path / "kept/.making-other").mkdir()
    assert [(its.path.name, its.is_whole) for its in weights.kept(tmp_path / "kept")] == [
        (".making-other", False),
        (made.name, True),
    ]
    weights.remove(tmp_path / "kept", made.name)
    weights.remove(tmp_path / "kept", ".making-other")
    assert weights.kept(tmp_path / "kept") == []
    with pytest.raises(NotFoundError, match="available: nothing"):
        weights.remove(tmp_path / "kept", made.name)


def test_what_is_being_made_is_not_removed(tmp_path: Path) -> None:
    """The making would name its folder complete without the files that were removed."""
    plan = plan_of(checkpoint.write_model(tmp_path / "m", shards=3))
    refused: list[str] = []

    def remove(done: int, total: int) -> None:
        for each in weights.kept(tmp_path / "kept"):
            with pytest.raises(ConflictError, match="may still be in progress") as caught:
                weights.remove(tmp_path / "kept", each.path.name)
            refused.append(str(caught.value))
        if list((tmp_path / "kept").glob(".making-*/model-00002*.safetensors")):
            raise Killed

    with pytest.raises(Killed):
        make(plan, tmp_path / "kept", remove)
    assert refused
    (left,) = weights.kept(tmp_path / "kept")
    weights.remove(tmp_path / "kept", left.path.name)
    assert weights.kept(tmp_path / "kept") == []
