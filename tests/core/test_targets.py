# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Classes of requests: batch fills what interactive requests leave, none starves, and targets are met or refused."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from syshaxd.core.config import parse
from syshaxd.core.errors import OverloadedError, SyshaxError
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement import scheduler
from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.decision import InferenceRequest, Offload, Reject, RunOn, Wait
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.measured import Lengths, Line, Measured
from syshaxd.core.placement.prediction import making_room_pays, predict_first_s
from syshaxd.core.placement.queue import Queue
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Policy, View
from syshaxd.core.placement.scheduler import decide
from syshaxd.core.placement.steps import StepTime
from syshaxd.core.placement.targets import RequestClass, Target
from tests.fakes.admission import Client, Clients
from tests.fakes.specs import make_spec

GPU, CPU = replace(make_spec("gpu"), max_num_seqs=4), replace(make_spec("cpu"), max_num_seqs=4)
BOTH = frozenset({("gpu", "cpu"), ("cpu", "gpu")})


@given(st.lists(st.sampled_from(["batch", "interactive", "next"]), max_size=120), st.integers(0, 10))
def test_batch_is_overtaken_but_not_without_end(events: list[str], most: int) -> None:
    queue = Queue(most)
    arrived: list[Claim] = []
    left: list[Claim] = []
    for event in [*events, *["next"] * len(events)]:
        if event != "next":
            arrived.append(Claim(request(batch=event == "batch")))
            queue.append(arrived[-1])
        elif len(queue):
            left.append(queue.pop_first().claim)
    assert not len(queue)
    for position, item in enumerate(left):
        overtaking = [other for other in left[:position] if arrived.index(other) > arrived.index(item)]
        assert not overtaking or item.is_batch, "interactive requests keep the order of arrival"
        assert not any(other.is_batch for other in overtaking), "so do batch requests"
        assert len(overtaking) <= most


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_what_is_taken_out_and_put_back_is_where_it_was(kinds: list[bool], data: st.DataObject) -> None:
    queue = Queue(3)
    for batch in kinds:
        queue.append(Claim(request(batch=batch)))
    entries = list(queue)
    queue.put_back([queue.pop_first() for _ in range(data.draw(st.integers(0, len(kinds))))])
    assert list(queue) == entries
    assert queue.ahead_of(request(batch=True)) == len(kinds) >= queue.ahead_of(request())
    assert queue.last(9) == [(at, entry.claim) for at, entry in enumerate(entries) if at][:-10:-1]
    gone = data.draw(st.sampled_from(entries))
    queue.replace(gone.claim, "gpu")
    assert queue.waiting == len(kinds) - 1
    assert not queue.remove_waiting(gone.claim)
    queue.remove_return(gone.claim)
    assert list(queue) == [entry for entry in entries if entry is not gone]
    assert queue.waiting == len(queue)
    assert all(queue.remove_waiting(claim) for claim in list(queue.claims()))
    assert not queue.waiting


def request(name: str = "r", *, batch: bool = False, **fields: object) -> InferenceRequest:
    kind = RequestClass.BATCH if batch else RequestClass.INTERACTIVE
    base = InferenceRequest(
        request_id=name, model="m", stream=True, whole_because="", prompt_tokens=500, movable=True, request_class=kind
    )
    return structs.replace(base, **fields)  # type: ignore[arg-type]


def known(gpu_s: float, cpu_s: float) -> Estimates:
    def line(x: float, y: float) -> Line:
        return Line(x, y, variance=4.0, spread=y / 50, count=50)

    def prompts_line(y: float) -> Line:
        """Of prompts of many lengths, whose price is known well."""
        return Line(1000, y, variance=250_000.0, covariance=50.0 * y, spread=y / 50, count=50)

    def step(batch: float, step_s: float) -> StepTime:
        return StepTime(line(batch, step_s), Line.first(batch, 0.0), spread=step_s / 50)

    return Estimates(
        token_s={"gpu": step(4, gpu_s), "cpu": step(4, cpu_s)},
        prefill_s={"gpu": prompts_line(0.1), "cpu": prompts_line(3.0)},
        lengths=Lengths((), tuple(range(20, 220, 2)), 120.0),
    )


def view(targets: Mapping[RequestClass, Target], estimates: Estimates, *, queued: int, cpu: int = 0) -> View:
    return View(
        policy=Policy(targets=targets),
        inflight={"gpu": 4, "cpu": cpu},
        candidates=(GPU, CPU),
        pairs=BOTH,
        queued=queued,
        estimates=estimates,
    )


def test_a_request_whose_target_only_help_meets_gets_it_although_it_would_not_pay() -> None:
    targets = {RequestClass.INTERACTIVE: Target(ttft_s=5.0, tpot_s=0.5)}
    without, within = (
        decide(view(of, known(0.01, 0.3), queued=30), request())
        for of in ({}, targets | {RequestClass.INTERACTIVE: Target(ttft_s=5.0)})
    )
    assert without.places == ("gpu",)  # type: ignore[union-attr]
    assert isinstance(within, Offload)
    assert within.prediction is not None
    assert (within.prediction.wait_first_s or 0) > 5.0 >= (within.prediction.offload_first_s or 9)


def test_help_that_breaks_the_target_which_waiting_meets_is_not_taken() -> None:
    of = known(0.03, 0.09)
    free = decide(view({}, of, queued=40), request())
    assert isinstance(free, Offload)
    tight = {RequestClass.INTERACTIVE: Target(ttft_s=100.0, tpot_s=0.04)}
    decision = decide(view(tight, of, queued=40), request())
    assert decision.places == ("gpu",)  # type: ignore[union-attr]


def test_batch_takes_a_cpu_that_pays_nobody_but_half_of_its_slots_only() -> None:
    for cpu, place in ((0, "cpu"), (1, "cpu"), (2, "gpu")):
        decision = decide(view({}, known(0.01, 0.3), queued=30, cpu=cpu), request(batch=True))
        assert not isinstance(decision, Wait)
        assert decision.places[-1] == place  # type: ignore[union-attr]


class Bench(Clients):
    """Clients of one GPU and one CPU, known by their requests' names."""

    def __init__(self, targets: Mapping[RequestClass, Target]) -> None:
        super().__init__((GPU, CPU), policy=Policy(targets=targets))

    def arrive(self, name: str, **fields: object) -> None:
        self.ask(Claim(request(name, **fields)))  # type: ignore[arg-type]

    def see(self, **loads: InstanceLoad) -> None:
        self.read(Snapshot(instances=loads))

    @property
    def running(self) -> dict[str, Client]:
        return {client.claim.request.request_id: client for client in self.clients if client.held}

    @property
    def refused(self) -> dict[str, SyshaxError]:
        return {client.claim.request.request_id: client.refused for client in self.clients if client.refused}


WORKING = {
    "gpu": InstanceLoad(read_at_s=1.0, running=4, token_s=0.1, prefill_tokens=500, prefill_s=0.1),
    "cpu": InstanceLoad(read_at_s=1.0, running=4, token_s=0.4, prefill_tokens=500, prefill_s=3.0),
}
WHOLE = {"whole_because": "seed", "movable": False}


def test_a_request_that_cannot_get_its_first_token_in_time_is_refused_at_once_with_the_time_to_come_again() -> None:
    bench = Bench({RequestClass.INTERACTIVE: Target(ttft_s=15.0, refuse=True)})
    bench.see(**WORKING)
    for number in range(12):
        bench.arrive(f"i{number}", **WHOLE)
    assert bench.refused
    assert len(bench.running) + bench.admission.queued + len(bench.refused) == 12
    error = bench.refused["i11"]
    assert isinstance(error, OverloadedError)
    assert "the target of its class is 15 s" in str(error)
    assert 1 <= error.retry_after_s <= 60
    assert bench.admission.queued > 0, "those that can be served in time wait"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["whole", "split", "batch", "end"]), max_size=40), st.floats(0.5, 40.0))
def test_a_refused_request_is_not_offloaded_and_has_no_slot(events: list[str], ttft_s: float) -> None:
    bench = Bench({RequestClass.INTERACTIVE: Target(ttft_s=ttft_s, refuse=True)})
    bench.see(**WORKING | {"cpu": replace(WORKING["cpu"], running=0)})
    for number, event in enumerate(events):
        if event != "end":
            bench.arrive(f"{event}{number}", batch=event == "batch", **WHOLE if event == "whole" else {})
        elif bench.running:
            bench.end(bench.running[min(bench.running)])
        assert not set(bench.refused) & set(bench.running)
        assert all(not name.startswith("batch") for name in bench.refused), "its class does not ask for that"
        assert len(bench.running) <= sum(bench.admission.inflight.values())
    bench.end_all()


@pytest.mark.parametrize("target", [Target(), Target(ttft_s=15.0), Target(refuse=True)])
def test_without_a_wish_to_be_refused_requests_are_served_late(target: Target) -> None:
    bench = Bench({RequestClass.INTERACTIVE: target})
    bench.see(**WORKING)
    for number in range(12):
        bench.arrive(f"i{number}", **WHOLE)
    assert not bench.refused


def test_interactive_requests_go_before_batch_requests_that_wait() -> None:
    bench = Bench({})
    bench.see(**WORKING)
    for number in range(9):
        bench.arrive(f"b{number}", batch=True, **WHOLE)
    waiting = bench.admission.queued
    assert waiting > 0
    bench.arrive("i", **WHOLE)
    assert "i" not in bench.running
    bench.end(next(client for client in bench.running.values() if client.held == ("gpu",)))
    assert "i" in bench.running
    assert bench.admission.queued == waiting


def test_a_batch_stream_makes_room_for_an_interactive_request_that_waits_and_comes_back_behind_it() -> None:
    bench = Bench({})
    for at_s in range(10):
        bench.see(**{name: replace(load, read_at_s=at_s / 10) for name, load in WORKING.items()})
    bench.see(gpu=replace(WORKING["gpu"], read_at_s=1.0), cpu=InstanceLoad(read_at_s=1.0))
    bench.arrive("b", batch=True, pinned="gpu")
    for number in range(4):
        bench.arrive(f"p{number}", pinned="gpu", **WHOLE)
    assert set(bench.running) == {"b", "p0", "p1", "p2", "p3"}
    bench.arrive("i", **WHOLE)
    assert bench.admission.queued == 1
    bench.see(gpu=replace(WORKING["gpu"], read_at_s=2.0), cpu=InstanceLoad(read_at_s=2.0))
    assert bench.running["b"].causes[0] is Cause.PRIORITY
    assert "i" in bench.running
    assert bench.admission.entries == 1, "the position to which the batch stream returns"


@given(
    st.builds(known, st.floats(0.001, 0.2), st.floats(0.001, 2.0)),
    st.integers(1, 40),
    st.integers(0, 3),
    st.floats(0.0, 20.0),
    st.floats(0.01, 0.5),
    st.floats(0.0, 1.0),
)
def test_a_batch_stream_makes_room_only_if_those_that_wait_gain_more_than_others_lose(
    of: Estimates, queued: int, running: int, handover_s: float, slows: float, refused: float
) -> None:
    def pays(estimates: Estimates, queued: int = queued, running: int = running) -> bool:
        gpu, cpu = (
            Room(spec, InstanceLoad(read_at_s=1.0, running=its), its, 0, 0.25, 4)
            for spec, its in ((GPU, 4), (CPU, running))
        )
        return making_room_pays(estimates, gpu, cpu, queued)

    def takes(seconds: float) -> dict[tuple[str, str], Line]:
        return {("gpu", "cpu"): Line(500, seconds, variance=4.0, spread=seconds / 50, count=50)}

    measured = structs.replace(
        of,
        handover_s=takes(handover_s),
        interference={("gpu", "cpu"): slows},
        refused={"gpu": Measured(refused, 0.0)},
    )
    end_s = measured.lengths.mean * measured.token_s["gpu"].at(4) / 4
    if pays(measured):
        assert queued * end_s > handover_s + 0.25, "those that wait move up only once the stream has left"
        assert slows * 4 * end_s * (queued + 1) / (running + 1) < queued * end_s, "the GPU's streams lose less"
        assert pays(structs.replace(measured, interference={("gpu", "cpu"): slows / 2}))
        assert pays(structs.replace(measured, refused={"gpu": Measured(refused / 2, 0.0)}))
        assert pays(structs.replace(measured, handover_s=takes(handover_s / 2)))
    assert not pays(measured, queued=0)
    assert not pays(structs.replace(measured, token_s={"gpu": measured.token_s["gpu"]})), "nothing is known of the CPU"


@given(st.floats(0.01, 0.3), st.floats(100, 4000), st.integers(0, 6), st.booleans(), st.floats(0.1, 30.0))
def test_a_request_is_refused_if_and_only_if_its_first_token_would_come_too_late_where_it_is_placed(
    prompt_s: float, tokens: float, others: int, split: bool, ttft_s: float
) -> None:
    asked = {"prompt_tokens": int(tokens), **({} if split else WHOLE)}
    bench, free = (Bench({RequestClass.INTERACTIVE: Target(ttft_s=ttft_s, refuse=its)}) for its in (True, False))
    for each in (bench, free):
        for at_s in range(1, 4):
            each.see(gpu=replace(WORKING["gpu"], read_at_s=at_s, prefill_s=prompt_s), cpu=WORKING["cpu"])
        each.see(gpu=InstanceLoad(read_at_s=9.0), cpu=InstanceLoad(read_at_s=9.0))
        for number in range(others):
            each.arrive(f"p{number}", pinned="gpu", **WHOLE)
    decision = free.admission.decide(request(**asked), free.fleet)
    predicted = decision.prediction if isinstance(decision, RunOn | Offload) else None
    first_s = predicted.offload_first_s if predicted else None
    if first_s is None:
        room = scheduler.room(View(policy=free.admission.policy, inflight=free.admission.inflight), GPU)
        estimates = free.admission._placer.estimates
        first_s = predict_first_s(estimates, room, request(**asked), free.admission.queued)
    bench.arrive("r", **asked)
    assert ("r" in bench.refused) is (first_s > ttft_s)
    if "r" in bench.refused:
        error = bench.refused["r"]
        assert isinstance(error, OverloadedError)
        assert 1 <= error.retry_after_s <= 60
        assert error.retry_after_s >= min(60, first_s - ttft_s)
        assert bench.admission.inflight == free.admission.inflight, "it has taken no slot"
        assert bench.decided[-1].decision == Reject(str(error), error.retry_after_s), "the history tells why"


def test_targets_are_configured_by_class() -> None:
    slo = {"interactive": {"ttft_s": 2, "tpot_s": 0.1, "refuse": True}, "batch": {"ttft_s": 600}}
    config = parse({"scheduler": {"slo": slo}})
    policy = Policy.from_config(config)
    assert policy.target(request()) == Target(ttft_s=2.0, tpot_s=0.1, refuse=True)
    assert policy.target(request(batch=True)) == Target(ttft_s=600.0)
