# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a calibration measures, and what the estimates learn from it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.calibration import Calibration, RunResult, drift, interference, plan, seed
from syshaxd.core.placement.estimate import Estimates, observe_loads
from tests.fakes.specs import make_spec

GPU, CPU = make_spec("gpu"), make_spec("cpu")


def result(instance: str, batch: int, token_s: float, *, prompt: int = 32, beside: str = "") -> RunResult:
    first_s = 0.1 + prompt / 1000
    return RunResult(
        instance=instance, batch=batch, prompt_tokens=prompt, beside=beside, first_s=first_s, token_s=token_s
    )


RESULTS = [
    result("gpu", 1, 0.010),
    result("gpu", 1, 0.010, prompt=1000),
    result("gpu", 4, 0.013),
    result("gpu", 16, 0.025),
    result("cpu", 1, 0.2),
    result("gpu", 16, 0.030, beside="cpu"),
]


def test_estimates_begin_with_what_was_measured() -> None:
    known = seed(Estimates(), RESULTS, "gpu")
    assert set(known.token_s) == {"gpu"}, "the other is seeded by its own fingerprint"
    assert known.token_s["gpu"].at(8) == pytest.approx(0.017, rel=0.05)
    assert known.prefill_s["gpu"].at(500) == pytest.approx(0.6, rel=0.05)


def test_what_readings_have_taught_is_kept() -> None:
    load = InstanceLoad(read_at_s=1.0, running=4, token_s=0.5)
    known = observe_loads(Estimates(), Snapshot(instances={"gpu": load}))
    assert seed(known, RESULTS, "gpu").token_s == known.token_s


def test_readings_soon_weigh_more_than_the_calibration() -> None:
    known = seed(Estimates(), RESULTS, "gpu")
    for number in range(30):
        load = InstanceLoad(read_at_s=float(number), running=16, token_s=0.05)
        known = observe_loads(known, Snapshot(instances={"gpu": load}))
    assert known.token_s["gpu"].at(16) == pytest.approx(0.05, rel=0.05)


def read(
    times: float, *, readings: int = 160, contexts: tuple[float, ...] = (0.1, 0.5), context_s: float = 0.01
) -> Estimates:
    """Estimates that began with RESULTS and then saw batches of 1 to 16 whose steps took so many times as long."""
    known = seed(Estimates(), RESULTS, "gpu")
    calibrated = known.token_s["gpu"]
    for number in range(readings):
        batch, context = 1 + number % 16, contexts[number // 2 % len(contexts)]
        token_s = calibrated.at(batch) * times + context_s * context
        load = InstanceLoad(read_at_s=float(number), running=batch, token_s=token_s, kv_usage_ratio=context)
        known = observe_loads(known, Snapshot(instances={"gpu": load}))
    return known


@pytest.mark.parametrize("times", [0.25, 4.0])
def test_readings_that_are_far_off_contradict_a_calibration(times: float) -> None:
    assert drift(read(times), RESULTS, "gpu") == pytest.approx(times, rel=0.3)
    assert drift(read(times), RESULTS, "cpu") is None, "it was not read"
    assert drift(read(times, readings=80), RESULTS, "gpu") is None, "too few"
    assert drift(read(times, contexts=(0.3,)), RESULTS, "gpu") is None, "it may be the context"


@given(st.floats(0.7, 1.4), st.floats(0, 0.02))
def test_another_instance_at_work_and_long_contexts_contradict_none(times: float, context_s: float) -> None:
    assert drift(read(times, context_s=context_s), RESULTS, "gpu") is None


def test_interference_is_the_ratio_to_the_same_batch_alone() -> None:
    assert interference(RESULTS) == {("gpu", "cpu"): pytest.approx(1.2)}
    assert interference([result("gpu", 8, 0.1, beside="cpu")]) == {}


def test_a_calibration_is_stale_for_another_instance() -> None:
    kept = Calibration(made_at_s=0.0, fingerprints={"gpu": "a"}, results=RESULTS)
    assert not kept.is_stale({"gpu": "a"}, "gpu")
    assert kept.is_stale({"gpu": "b"}, "gpu")
    assert kept.is_stale({"cpu": "a"}, "cpu")


@given(st.integers(1, 300), st.integers(1, 300), st.none() | st.integers(128, 100_000))
def test_runs_fit_the_instances(gpu_slots: int, cpu_slots: int, max_model_len: int | None) -> None:
    specs = [replace(GPU, max_num_seqs=gpu_slots), replace(CPU, max_num_seqs=cpu_slots)]
    slots = {spec.name: spec.max_num_seqs for spec in specs}
    runs = list(plan(specs, max_model_len))
    assert {run.instance for run in runs if not run.beside} == {"gpu", "cpu"}
    assert {(run.instance, run.beside) for run in runs if run.beside} == {("gpu", "cpu"), ("cpu", "gpu")}
    for run in runs:
        assert 1 <= run.batch <= slots[run.instance]
        assert run.prompt_tokens + run.answer_tokens <= (max_model_len or 4096)
        if run.beside:
            alone = replace(run, beside="")
            assert alone in runs, "there is something to compare it with"


def test_interference_counts_from_what_was_measured_and_never_as_nothing() -> None:
    assert seed(Estimates(), RESULTS, "gpu").interference == {("gpu", "cpu"): pytest.approx(0.2)}
    quicker = [result("gpu", 1, 0.1), result("gpu", 1, 0.09, beside="cpu")]
    assert 0 < seed(Estimates(), quicker, "gpu").interference["gpu", "cpu"] < 0.02
