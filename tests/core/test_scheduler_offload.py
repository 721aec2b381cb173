# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The policy `turn` on two instances that can hand over to each other: each rule by example, and for all loads."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement import scheduler
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Reject, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.measured import Lengths, Line
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Move, Policy, View
from syshaxd.core.placement.steps import StepTime
from tests.fakes.specs import make_spec

GPU, CPU = replace(make_spec("gpu"), max_num_seqs=8), replace(make_spec("cpu"), max_num_seqs=8)
BOTH = frozenset({("gpu", "cpu"), ("cpu", "gpu")})
SPLIT = InferenceRequest(request_id="r", model="m", stream=True, whole_because="", prompt_tokens=500, max_tokens=100)
FULL = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=8, waiting=2)})
VIEW = View(policy=Policy(name="turn"), snapshot=FULL, candidates=(GPU, CPU), pairs=BOTH)
FAST_GPU = Estimates(token_s={"gpu": StepTime.first(8, 0.0065), "cpu": StepTime.first(8, 0.35)})


def decide(request: InferenceRequest = SPLIT, snapshot: Snapshot = FULL, **more: object) -> Decision:
    return scheduler.decide(structs.replace(VIEW, snapshot=snapshot, **more), request)  # type: ignore[arg-type]


def test_a_full_gpu_hands_over_to_a_cpu_with_room_and_says_why() -> None:
    decision = decide()
    assert isinstance(decision, Offload)
    assert (decision.prefill, decision.decode, decision.prediction) == ("gpu", "cpu", None)
    assert decision.reasons == ("gpu: 8 of 8 slots taken", "cpu: has room")


@pytest.mark.parametrize(
    "request_",
    [structs.replace(SPLIT, whole_because="n: its answers share one prompt"), structs.replace(SPLIT, prompt_tokens=63)],
)
def test_what_cannot_be_split_or_is_short_goes_to_the_cpu_whole(request_: InferenceRequest) -> None:
    assert isinstance(decide(request_), RunOn)


def test_without_a_pair_it_goes_to_the_cpu_whole() -> None:
    for pairs in (frozenset[tuple[str, str]](), frozenset({("cpu", "gpu")})):
        assert isinstance(decide(pairs=pairs), RunOn)


def test_the_prefill_may_go_over_the_gpus_backlog_by_some_and_else_the_request_waits() -> None:
    assert isinstance(decide(inflight={"gpu": 10}), Offload)
    waits = decide(inflight={"gpu": 11})
    assert isinstance(waits, Wait)
    assert waits.cpu_has_room
    assert "cpu: has room, but a GPU has none to compute the prompt" in waits.reasons


def test_a_slow_cpu_gets_no_request_that_is_quicker_if_it_waits() -> None:
    """Whatever the reason is for which it could not be offloaded."""
    for request in (structs.replace(SPLIT, whole_because="seed"), structs.replace(SPLIT, prompt_tokens=10)):
        assert isinstance(decide(request, estimates=FAST_GPU), RunOn)
        assert decide(request, estimates=FAST_GPU).places == ("gpu",)
        assert decide(request, estimates=FAST_GPU, queued=500).places == ("cpu",)
    whole = structs.replace(SPLIT, whole_because="seed")
    backlog_full = decide(whole, inflight={"gpu": 10}, estimates=FAST_GPU)
    assert isinstance(backlog_full, Wait)
    assert "would take 35.0 s, the wait for gpu" in " ".join(backlog_full.reasons)


def test_a_long_prompt_stays_off_a_cpu_that_computes_prompts_slowly() -> None:
    alike = Estimates(
        token_s={"gpu": StepTime.first(1, 0.01), "cpu": StepTime.first(1, 0.01)},
        prefill_s={"gpu": Line.first(1000, 0.1), "cpu": Line.first(1000, 5.0)},
    )
    whole = structs.replace(SPLIT, whole_because="seed")
    assert decide(whole, estimates=alike).places == ("gpu",)
    assert decide(structs.replace(whole, prompt_tokens=50), estimates=alike).places == ("cpu",)
    assert isinstance(decide(SPLIT, estimates=alike), Offload), "the GPU computes its prompt"


def test_an_offload_that_takes_longer_than_the_wait_does_not_happen() -> None:
    decision = decide(estimates=FAST_GPU)
    assert isinstance(decision, RunOn)
    assert decision.instance == "gpu", "into its backlog"
    assert "would take 35.1 s, the wait for gpu" in decision.reasons[-1]


def test_a_long_queue_makes_it_worth_while() -> None:
    decision = decide(queued=500, estimates=FAST_GPU)
    assert isinstance(decision, Offload)
    assert decision.prediction is not None
    assert decision.prediction.benefit_s > 0


def test_an_offload_that_the_client_asks_for_needs_places_on_both() -> None:
    asked = structs.replace(SPLIT, offload=True, prompt_tokens=1)
    idle = Snapshot()
    assert isinstance(decide(asked, idle), Offload)
    for full in ("gpu", "cpu"):
        assert isinstance(decide(asked, idle, inflight={full: 10}), Wait)
    assert isinstance(decide(asked, idle, pairs=frozenset()), RunOn)
    assert isinstance(decide(structs.replace(asked, whole_because="seed"), idle), RunOn)


def moves(
    gpu: InstanceLoad, cpu: InstanceLoad | None = None, inflight: dict[str, int] | None = None
) -> tuple[Move, ...]:
    loads = {"gpu": gpu} | ({"cpu": cpu} if cpu else {})
    return scheduler.moves(structs.replace(VIEW, snapshot=Snapshot(instances=loads), inflight=inflight or {}))


def test_streams_go_back_to_a_gpu_with_room_to_spare() -> None:
    assert moves(InstanceLoad(read_at_s=1.0, running=2)) == (Move("cpu", "gpu", Cause.ROOM, 2),)
    assert moves(InstanceLoad(read_at_s=1.0, running=5)) == (Move("cpu", "gpu", Cause.ROOM, 1),)
    for running, inflight in ((6, 0), (2, 6)):
        assert moves(InstanceLoad(read_at_s=1.0, running=running), inflight={"gpu": inflight}) == ()
    assert moves(InstanceLoad(read_at_s=1.0, running=2, waiting=1)) == ()
    assert moves(InstanceLoad(read_at_s=1.0, running=2, kv_usage_ratio=0.75)) == ()


def test_one_stream_at_a_time_leaves_a_gpu_that_preempts() -> None:
    pressed = InstanceLoad(read_at_s=1.0, running=4, waiting=1, kv_usage_ratio=0.95, preempted=2)
    assert moves(replace(pressed, preempted=0)) == ()
    assert moves(pressed) == (Move("gpu", "cpu", Cause.PRESSURE, 1),)
    assert moves(pressed, inflight={"cpu": 8}) == ()
    assert moves(pressed, InstanceLoad(read_at_s=1.0, waiting=1)) == ()


loads = st.builds(
    InstanceLoad,
    read_at_s=st.just(1.0),
    running=st.integers(0, 12),
    waiting=st.integers(0, 4),
    kv_usage_ratio=st.floats(0, 1),
)
counts = st.fixed_dictionaries({"gpu": st.integers(0, 14), "cpu": st.integers(0, 14)})
requests = st.builds(
    InferenceRequest,
    request_id=st.just("r"),
    model=st.just("m"),
    stream=st.booleans(),
    offload=st.booleans(),
    prompt_tokens=st.integers(0, 200) | st.integers(0, 100_000),
    max_tokens=st.none() | st.integers(1, 4000),
    whole_because=st.sampled_from(["", "seed"]),
)
estimates = st.builds(
    Estimates,
    token_s=st.dictionaries(
        st.sampled_from(["gpu", "cpu"]), st.builds(StepTime.first, st.just(1), st.floats(0.001, 1.0))
    ),
    prefill_s=st.dictionaries(
        st.sampled_from(["gpu", "cpu"]), st.builds(Line.first, st.just(1000), st.floats(0.01, 100.0))
    ),
    lengths=st.builds(Lengths, mean=st.floats(1, 1000)),
)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any loads of both."""
    return structs.replace(
        VIEW,
        snapshot=Snapshot(instances={"gpu": draw(loads), "cpu": draw(loads)}),
        inflight=draw(counts),
        pairs=draw(st.sampled_from([BOTH, frozenset[tuple[str, str]]()])),
        queued=draw(st.integers(0, 100)),
        estimates=draw(estimates),
    )


@given(requests, views())
def test_for_all_loads(request_: InferenceRequest, view: View) -> None:
    decision = scheduler.decide(view, request_)
    assert not isinstance(decision, Reject)
    if isinstance(decision, RunOn | Offload):
        rooms = {spec.name: scheduler.room(view, spec) for spec in (GPU, CPU)}
        *prefill, last = (rooms[name] for name in decision.places)
        assert last.has_place
        assert all(room.has_prefill_place for room in prefill)
    if isinstance(decision, Offload):
        assert view.pairs
        assert not request_.whole_because
        assert (decision.prefill, decision.decode) == ("gpu", "cpu")
        if not request_.offload:
            assert request_.prompt_tokens >= 64
            assert decision.prediction is None or decision.prediction.benefit_s >= 0


@given(requests, views())
def test_the_cpu_helps_only_with_what_does_not_end_sooner_on_the_gpu(request_: InferenceRequest, view: View) -> None:
    """As far as both were seen at work, and unless the client insists."""
    decision, known, gpu = scheduler.decide(view, request_), view.estimates, view.snapshot.instances["gpu"]
    if not isinstance(decision, RunOn | Offload) or decision.places[-1] != "cpu" or len(known.token_s) < 2:
        return
    if isinstance(decision, Offload) and request_.offload:
        return
    tokens = min(known.lengths.mean, request_.max_tokens or known.lengths.mean)
    room = scheduler.room(view, GPU)
    ahead = 1 + view.queued + max(gpu.waiting, view.inflight["gpu"] - room.slots)
    on_gpu_s = ahead * known.lengths.mean * known.token_s["gpu"].mean_s / room.slots
    on_gpu_s += tokens * known.token_s["gpu"].mean_s
    on_cpu_s = tokens * known.token_s["cpu"].mean_s
    if isinstance(decision, RunOn) and len(known.prefill_s) == 2:
        on_gpu_s += request_.prompt_tokens * known.prefill_s["gpu"].y / 1000
        on_cpu_s += request_.prompt_tokens * known.prefill_s["cpu"].y / 1000
    assert on_cpu_s <= on_gpu_s * (1 + 1e-9)


@given(loads, loads, counts)
def test_a_stream_is_never_given_away_and_taken_back_at_once(
    gpu: InstanceLoad, cpu: InstanceLoad, inflight: dict[str, int]
) -> None:
    snapshot = Snapshot(instances={"gpu": gpu, "cpu": cpu})
    view = structs.replace(VIEW, snapshot=snapshot, inflight=inflight)
    found = scheduler.moves(view)
    assert len({move.cause for move in found}) <= 1
    for move in found:
        if move.cause is Cause.ROOM:
            decision = scheduler.decide(view, SPLIT)
            assert isinstance(decision, RunOn)
            assert decision.instance == "gpu"
