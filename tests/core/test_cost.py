# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The policy `cost`: each rule by example, and what holds for all loads."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement import scheduler
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Reject, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.measured import Lengths, Line, Measured
from syshaxd.core.placement.prediction import pays
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Move, Policy, View
from syshaxd.core.placement.steps import StepTime
from syshaxd.core.placement.targets import NO_TARGET, RequestClass, Target
from tests.fakes.specs import make_spec

GPU, CPU = replace(make_spec("gpu"), max_num_seqs=8), replace(make_spec("cpu"), max_num_seqs=8)
BOTH = frozenset({("gpu", "cpu"), ("cpu", "gpu")})
VIEW = View(policy=Policy(name="cost"), candidates=(GPU, CPU), pairs=BOTH)
SPLIT = InferenceRequest(
    request_id="r", model="m", stream=True, whole_because="", prompt_tokens=500, max_tokens=100, movable=True
)
FULL = {"gpu": 8}


def line(x: float, y: float) -> Line:
    """What was measured often, so that it is sure."""
    return Line(x, y, variance=4.0, spread=y / 50, count=50)


def prompts_line(y: float) -> Line:
    """Of prompts of many lengths, whose price is known well."""
    return Line(1000, y, variance=250_000.0, covariance=50.0 * y, spread=y / 50, count=50)


def steps(batch: float, step_s: float) -> StepTime:
    return StepTime(line(batch, step_s), Line.first(batch, 0.0), spread=step_s / 50)


def seconds(value: float, spread: float) -> Line:
    """Of a hand-over, whatever its size."""
    return Line(1000, value, variance=4.0, spread=spread, count=50)


def known(gpu_s: float, cpu_s: float) -> Estimates:
    return Estimates(
        token_s={"gpu": steps(8, gpu_s), "cpu": steps(4, cpu_s)},
        prefill_s={"gpu": prompts_line(0.1), "cpu": prompts_line(3.0)},
        lengths=Lengths((), tuple(range(20, 220, 2)), 120.0),
    )


LIKE, SLOW = known(0.03, 0.09), known(0.0075, 0.4)


def decide(
    estimates: Estimates, queued: int = 0, request: InferenceRequest = SPLIT, inflight: dict[str, int] | None = None
) -> Decision:
    return scheduler.decide(
        structs.replace(VIEW, inflight=inflight or FULL, queued=queued, estimates=estimates), request
    )


def test_a_gpu_with_room_takes_everything() -> None:
    assert decide(LIKE, inflight={"gpu": 7}) == RunOn("gpu", ("the GPU has room",))


def test_a_cpu_that_is_nearly_as_quick_helps_as_soon_as_the_wait_is_long() -> None:
    assert decide(LIKE) == RunOn("gpu", decide(LIKE).reasons), "its backlog"
    helped = decide(LIKE, queued=40)
    assert isinstance(helped, Offload)
    assert helped.returns_to == "gpu"
    assert helped.prediction is not None
    assert helped.prediction.least_s > 0.1 * helped.prediction.wait_s
    assert helped.prediction.benefit_s > helped.prediction.least_s


def test_a_cpu_fifty_times_slower_helps_with_nothing_that_can_wait() -> None:
    for queued in (0, 10, 100, 300):
        assert decide(SLOW, queued).places == ("gpu",)  # type: ignore[union-attr]
    full = decide(SLOW, 10, inflight={"gpu": 10})
    assert isinstance(full, Wait)
    assert full.cpu_has_room
    assert "would cost other requests more of gpu's time than it saves" in full.reasons[1]


def test_others_on_the_cpu_count() -> None:
    crowded = structs.replace(
        LIKE, token_s=LIKE.token_s | {"cpu": replace(steps(1, 0.09), by_batch=replace(line(1, 0.09), covariance=0.1))}
    )
    assert decide(LIKE, 40, inflight=FULL | {"cpu": 7}).places[-1] == "cpu"  # type: ignore[union-attr]
    assert decide(crowded, 40, inflight=FULL | {"cpu": 7}).places == ("gpu",)  # type: ignore[union-attr]


def test_what_is_unsure_is_not_done() -> None:
    unsure = structs.replace(
        LIKE, token_s={name: replace(step, spread=step.mean_s) for name, step in LIKE.token_s.items()}
    )
    assert isinstance(decide(LIKE, 25), Offload)
    assert decide(unsure, 25).places == ("gpu",)  # type: ignore[union-attr]


def test_a_cpu_that_slows_the_gpu_by_more_than_it_spares_it_does_not_help() -> None:
    assert isinstance(decide(LIKE, 40), Offload)
    decision = decide(structs.replace(LIKE, interference={("gpu", "cpu"): 0.4}), 40)
    assert "would cost other requests more of gpu's time than it saves" in " ".join(decision.reasons)  # type: ignore[union-attr]


def test_a_prompt_that_the_gpu_computes_for_longer_than_the_cpu_spares_it_delays_nobody() -> None:
    """As in traces of code: long prompts and short answers."""
    dear = replace(prompts_line(0.4), covariance=100.0)
    prompts = structs.replace(LIKE, prefill_s={**LIKE.prefill_s, "gpu": dear})
    assert isinstance(decide(LIKE, 40), Offload)
    decision = decide(prompts, 40)
    assert decision.places == ("gpu",)  # type: ignore[union-attr]
    assert "would cost other requests more of gpu's time than it saves" in " ".join(decision.reasons)  # type: ignore[union-attr]


def test_refused_saves_speak_against_an_offload() -> None:
    refusing = structs.replace(LIKE, refused={"gpu": Measured(0.5, 0.5)})
    assert isinstance(decide(LIKE, 30, inflight=FULL | {"cpu": 4}), Offload)
    assert decide(refusing, 30, inflight=FULL | {"cpu": 4}).places == ("gpu",)  # type: ignore[union-attr]


def test_how_quick_a_cpu_is_gets_known_by_one_request() -> None:
    new = Estimates(token_s={"gpu": steps(8, 0.03)})
    assert isinstance(decide(new), Offload)
    assert decide(new, inflight=FULL | {"cpu": 1}).places == ("gpu",)  # type: ignore[union-attr]
    whole = structs.replace(SPLIT, whole_because="seed")
    no_prefill = structs.replace(LIKE, prefill_s={"gpu": line(1000, 0.1)})
    assert decide(no_prefill, 40, whole, FULL | {"cpu": 1}).places == ("gpu",)  # type: ignore[union-attr]


def test_a_gpu_that_was_drained_is_not_filled_with_more_than_its_kv_cache_has_room_for() -> None:
    spec, seen = replace(GPU, max_num_seqs=64), structs.replace(LIKE, kv_per_request={"gpu": Measured(0.04, 0.002, 20)})
    drained = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=4, kv_usage_ratio=0.19)})
    view = structs.replace(VIEW, snapshot=drained, candidates=(spec,), estimates=seen)
    places = {count: scheduler.decide(structs.replace(view, inflight={"gpu": count}), SPLIT) for count in range(40)}
    taken = [count for count, decision in places.items() if isinstance(decision, RunOn)]
    assert max(taken) + 1 == 22 + 5, "slots by KV, and a quarter for the backlog inside"


def test_a_preemption_in_the_last_reading_keeps_no_stream_from_its_slot() -> None:
    preempted = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=5, preempted=11)})
    view = structs.replace(VIEW, snapshot=preempted, inflight={"gpu": 6}, estimates=LIKE)
    assert scheduler.room(view, GPU).has_slot
    assert not scheduler.room(structs.replace(view, policy=Policy(name="turn")), GPU).has_slot


def moves(estimates: Estimates, gpu: InstanceLoad, inflight: dict[str, int] | None = None) -> tuple[Move, ...]:
    snapshot = Snapshot(instances={"gpu": gpu})
    return scheduler.moves(structs.replace(VIEW, snapshot=snapshot, inflight=inflight or {}, estimates=estimates))


def test_a_stream_leaves_a_gpu_that_preempts_only_where_that_is_quicker_than_computing_it_again() -> None:
    pressed = InstanceLoad(read_at_s=1.0, running=8, waiting=12, kv_usage_ratio=0.95, preempted=2)
    quick = {("gpu", "cpu"): seconds(0.2, 0.02), ("cpu", "gpu"): seconds(0.2, 0.02)}
    slow = {("gpu", "cpu"): seconds(0.5, 0.02), ("cpu", "gpu"): seconds(0.8, 0.1)}
    assert moves(structs.replace(LIKE, handover_s=quick), pressed) == (Move("gpu", "cpu", Cause.PRESSURE, 1),)
    assert moves(structs.replace(SLOW, handover_s=slow), pressed) == ()
    assert moves(Estimates(), pressed) == ()
    assert moves(structs.replace(LIKE, handover_s=quick), replace(pressed, preempted=0)) == ()
    assert moves(structs.replace(LIKE, handover_s=quick), pressed, {"cpu": 8}) == ()


def test_streams_go_back_to_a_gpu_with_room_to_spare() -> None:
    assert moves(LIKE, InstanceLoad(read_at_s=1.0, running=2)) == (Move("cpu", "gpu", Cause.ROOM, 2),)
    assert moves(LIKE, InstanceLoad(read_at_s=1.0, running=2), {"gpu": 6}) == ()
    assert moves(LIKE, InstanceLoad(read_at_s=1.0, running=2, waiting=1)) == ()
    assert moves(LIKE, InstanceLoad(read_at_s=1.0, running=2, kv_usage_ratio=0.75)) == ()
    assert moves(known(0.03, 0.03), InstanceLoad(read_at_s=1.0, running=2)) == (), "it is as quick where it is"


names = st.sampled_from(["gpu", "cpu"])
lines = st.builds(
    Line,
    st.floats(1, 64),
    st.floats(0.001, 1.0),
    variance=st.floats(0, 100),
    covariance=st.floats(-1, 1),
    spread=st.floats(0, 1),
    count=st.integers(1, 50),
)
prompts = st.builds(Line, st.floats(1, 4000), st.floats(0.001, 30.0), spread=st.floats(0, 10), count=st.integers(1, 50))
step_times = st.builds(
    StepTime, lines, prompts, variance=st.floats(0, 1), covariance=st.floats(-1, 1), spread=st.floats(0, 1)
)
values = st.builds(Measured, st.floats(0, 1), st.floats(0, 1))
estimates_ = st.builds(
    Estimates,
    token_s=st.dictionaries(names, step_times),
    prefill_s=st.dictionaries(names, prompts),
    kv_per_request=st.dictionaries(names, values),
    kv_per_token=st.dictionaries(names, st.builds(Measured, st.floats(0, 0.001), st.floats(0, 0.001))),
    handover_s=st.dictionaries(st.sampled_from(sorted(BOTH)), prompts),
    refused=st.dictionaries(names, values),
)
loads = st.builds(
    InstanceLoad,
    read_at_s=st.just(1.0),
    running=st.integers(0, 12),
    waiting=st.integers(0, 4),
    kv_usage_ratio=st.floats(0, 1),
    preempted=st.integers(0, 3),
)
counts = st.fixed_dictionaries({"gpu": st.integers(0, 14), "cpu": st.integers(0, 14)})
requests = st.builds(
    InferenceRequest,
    request_id=st.just("r"),
    model=st.just("m"),
    stream=st.booleans(),
    prompt_tokens=st.integers(0, 200) | st.integers(0, 100_000),
    max_tokens=st.none() | st.integers(1, 4000),
    whole_because=st.sampled_from(["", "seed"]),
    movable=st.booleans(),
)


@given(
    requests,
    loads,
    loads,
    counts,
    st.integers(0, 100),
    estimates_,
    st.sampled_from([BOTH, frozenset()]),
    st.integers(0, 4000),
)
def test_for_all_loads(
    request_: InferenceRequest,
    gpu: InstanceLoad,
    cpu: InstanceLoad,
    inflight: dict[str, int],
    queued: int,
    estimates: Estimates,
    pairs: frozenset[tuple[str, str]],
    tokens: int,
) -> None:
    snapshot = Snapshot(instances={"gpu": gpu, "cpu": cpu})
    view = structs.replace(
        VIEW,
        snapshot=snapshot,
        inflight=inflight,
        pairs=pairs,
        queued=queued,
        estimates=estimates,
        kv_tokens={name: count * tokens for name, count in inflight.items()},
        request_kv_tokens=estimates.kv_tokens(request_),
    )
    decision = scheduler.decide(view, request_)
    rooms = {spec.name: scheduler.room(view, spec) for spec in (GPU, CPU)}
    assert not isinstance(decision, Reject), "a full fleet makes a request wait"
    if isinstance(decision, Wait):
        assert not rooms["gpu"].has_place, "nothing waits for a GPU that has a place"
        return
    assert rooms[decision.places[-1]].has_place
    for name in decision.places:
        kv = estimates.kv_share(name, view.mean_kv_tokens(name))
        if kv is not None and rooms[name].slots > 1:
            assert rooms[name].slots * kv.value <= 0.9 + 1e-9, "no more runs than its KV cache has room for"
    if decision.places[-1] == "cpu":
        assert rooms["gpu"].full
        assert not rooms["cpu"].full
        assert decision.prediction is None or pays(decision.prediction)
        if isinstance(decision, Offload):
            assert decision.prediction is not None or not rooms["cpu"].running
            assert rooms["gpu"].has_prefill_place
            assert not request_.whole_because


@st.composite
def measured(draw: st.DrawFn) -> Estimates:
    """Devices that are known well enough for help: a CPU up to fifty times slower, prompts of any price."""
    gpu_s = draw(st.floats(0.005, 0.05))
    its = known(gpu_s, gpu_s * draw(st.floats(1, 50)))
    prefill_s = {"gpu": prompts_line(draw(st.floats(0.01, 1.0))), "cpu": prompts_line(draw(st.floats(0.5, 20.0)))}
    return structs.replace(its, prefill_s=prefill_s)


@given(
    measured(),
    st.integers(0, 200),
    st.integers(0, 7),
    st.integers(10, 4000),
    st.sampled_from(RequestClass),
    st.builds(Target, ttft_s=st.none() | st.floats(0.1, 30), tpot_s=st.none() | st.floats(0.01, 1)),
    st.sampled_from(["", "seed"]),
)
def test_no_help_at_a_negative_lower_bound_and_none_that_delays_the_queue(
    estimates: Estimates,
    queued: int,
    on_cpu: int,
    prompt_tokens: int,
    request_class: RequestClass,
    target: Target,
    whole_because: str,
) -> None:
    view = structs.replace(
        VIEW,
        policy=Policy(targets={request_class: target}),
        inflight=FULL | {"cpu": on_cpu},
        queued=queued,
        estimates=estimates,
    )
    request = structs.replace(
        SPLIT, prompt_tokens=prompt_tokens, max_tokens=None, request_class=request_class, whole_because=whole_because
    )
    decision = scheduler.decide(view, request)
    if isinstance(decision, Wait | Reject) or decision.places[-1] != "cpu":
        return
    prediction = decision.prediction
    assert prediction is not None
    assert not prediction.delays_gpu
    if not pays(prediction):
        assert request.is_batch or target != NO_TARGET
        assert prediction.least_first_s > 0, "what it gains is the first token"
    if isinstance(decision, Offload) and queued:
        work_s = estimates.prefill_s["gpu"].slope * prompt_tokens
        answer_s = estimates.lengths.mean * estimates.token_s["gpu"].at(GPU.max_num_seqs) / GPU.max_num_seqs
        assert work_s <= 2 * answer_s, "the CPU takes less off the GPU than its prompt puts before those ahead"


@given(loads, counts, estimates_)
def test_no_stream_moves_in_a_circle(gpu: InstanceLoad, inflight: dict[str, int], estimates: Estimates) -> None:
    found = moves(estimates, gpu, inflight)
    assert len(found) <= 1
    if found and found[0].cause is Cause.ROOM:
        assert decide(estimates, inflight=inflight | {"gpu": inflight["gpu"]}).places == ("gpu",)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["gpu-only", "cpu-only", "upstream-threshold"])
def test_policies_that_predict_nothing(policy: str) -> None:
    pressed = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=8, kv_usage_ratio=0.95, preempted=2)})
    expected = {"gpu-only": ("gpu",), "cpu-only": ("cpu",), "upstream-threshold": ("gpu", "cpu")}
    view = structs.replace(VIEW, policy=Policy(name=policy), snapshot=pressed, inflight=FULL)
    decision = scheduler.decide(view, SPLIT)
    assert isinstance(decision, RunOn | Offload)
    assert decision.places == expected[policy]
    assert scheduler.moves(view) == ()
    alone = scheduler.decide(
        structs.replace(view, candidates=(CPU if policy != "cpu-only" else GPU,), inflight={}), SPLIT
    )
    assert isinstance(alone, RunOn), "until the other is ready"
