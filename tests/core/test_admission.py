# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission over all orders of events: nobody is overtaken at the GPU, no place is lost, nobody waits for nothing."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.claims import Claim, Fleet
from syshaxd.core.placement.decision import InferenceRequest, Offload, RunOn
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.slots import Slot
from tests.fakes.admission import Client, Clients
from tests.fakes.specs import make_spec

GPU, CPU = replace(make_spec("gpu"), max_num_seqs=2), replace(make_spec("cpu"), max_num_seqs=2)
BOTH = frozenset({("gpu", "cpu"), ("cpu", "gpu")})
MOST = {"gpu": 2 + 1 + 1, "cpu": 2 + 1}
"""Slots, a backlog, and at the GPU a prefill more."""


class Bench(Clients):
    """Clients of one GPU and one CPU."""

    def __init__(self, snapshot: Snapshot | None = None, *, max_queue_size: int = 1000) -> None:
        super().__init__((GPU, CPU), policy="turn", snapshot=snapshot, max_queue_size=max_queue_size)
        self.migrating = False

    def on_grant(self, client: Client) -> None:
        if (pinned := client.claim.request.pinned) is not None:
            waiting = [other for other in self.waiting() if other.claim.request.pinned == pinned]
            self.overtaken += [other.number for other in waiting if other.number < client.number]
        if client.held == ("gpu",) and client.claim.request.pinned is None:
            waiting = [other for other in self.waiting() if other.claim.request.pinned is None]
            self.overtaken += [other.number for other in waiting if other.number < client.number]
            self.overtaken += [other.number for other in self.clients if self._returns_before(other, client)]

    def on_move(self, client: Client, target: Slot, cause: Cause) -> None:
        if cause is Cause.ROOM and not self.migrating and client.placement and client.placement.returns_to:
            self.overtaken += [other.number for other in self.clients if self._returns_before(other, client)]

    def migrate(self, draining: Sequence[str]) -> None:
        self.migrating = True
        super().migrate(draining)
        self.migrating = False

    def give_back(self, client: Client, name: str) -> None:
        (slot,) = (slot for slot in client.slots if slot.spec.name == name)
        self.release(client, slot)

    def arrive(self, *, movable: bool = False, pinned: str | None = None) -> Client:
        request = InferenceRequest(
            request_id="",
            model="",
            stream=True,
            pinned=pinned,
            prompt_tokens=500,
            whole_because="" if movable else "seed",
            movable=movable,
        )
        return self.ask(Claim(request))

    def _returns_before(self, other: Client, client: Client) -> bool:
        """Whether `other`, whom the CPU helps, should have had the slot at the GPU that `client` has got."""
        helped = other.placement is not None and bool(other.placement.returns_to) and other.held == ("cpu",)
        helped = helped and Cause.DRAIN not in other.causes  # it had returned, and has no position any more
        return helped and self.can_move and other.number < client.number


class Machine(RuleBasedStateMachine):
    """Requests come, end and give up, readings come, and the GPU goes and comes."""

    def __init__(self) -> None:
        super().__init__()
        self.read_at_s = 0.0
        self.bench = Bench()

    @rule(movable=st.booleans(), pinned=st.sampled_from([None, None, None, "gpu", "cpu"]))
    def arrive(self, movable: bool, pinned: str | None) -> None:
        self.bench.arrive(movable=movable and pinned is None, pinned=pinned)

    @precondition(lambda self: self.bench.clients)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.bench.end(data.draw(st.sampled_from(self.bench.clients), label="client"))

    @precondition(lambda self: any(isinstance(client.placement, Offload) for client in self.bench.clients))
    @rule(data=st.data())
    def prefill_ends(self, data: st.DataObject) -> None:
        able = [
            client
            for client in self.bench.clients
            if isinstance(client.placement, Offload) and client.held == ("gpu", "cpu")
        ]
        if able:
            self.bench.give_back(data.draw(st.sampled_from(able), label="client"), "gpu")
            self.bench.settle()

    @rule(
        running=st.integers(0, 2),
        waiting=st.integers(0, 2),
        kv_ratio=st.sampled_from([0.1, 0.8, 0.95]),
        preempted=st.integers(0, 1),
        draining=st.sampled_from([(), ("cpu",), ("gpu",)]),
    )
    def reading(self, running: int, waiting: int, kv_ratio: float, preempted: int, draining: tuple[str, ...]) -> None:
        self.read_at_s += 1
        load = InstanceLoad(
            read_at_s=self.read_at_s, running=running, waiting=waiting, kv_usage_ratio=kv_ratio, preempted=preempted
        )
        self.bench.read(Snapshot(instances={"gpu": load}), draining)

    @rule(can=st.booleans())
    def streams_can_move(self, can: bool) -> None:
        self.bench.can_move = can
        self.bench.admit()
        self.bench.settle()

    @rule()
    def gpu_goes_and_comes(self) -> None:
        self.bench.ready = (CPU,) if GPU in self.bench.ready else (GPU, CPU)
        self.bench.admit()
        self.bench.settle()

    @invariant()
    def slots_are_those_held(self) -> None:
        for name, most in MOST.items():
            held = sum(client.held.count(name) for client in self.bench.clients)
            assert self.bench.admission.inflight.get(name, 0) == held <= most

    @invariant()
    def nobody_is_overtaken_at_the_gpu(self) -> None:
        assert not self.bench.overtaken

    @invariant()
    def requests_that_wait_are_counted(self) -> None:
        assert self.bench.admission.queued == len(self.bench.waiting())
        assert self.bench.admission.is_quiet == (not any(not client.refused for client in self.bench.clients))

    @invariant()
    def nobody_who_insists_on_the_cpu_waits_for_others_than_it(self) -> None:
        if any(client.claim.request.pinned == "cpu" for client in self.bench.waiting()):
            assert self.bench.admission.inflight["cpu"] == MOST["cpu"]

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        free = [client for client in self.bench.waiting() if client.claim.request.pinned is None]
        if free and not self.bench.admission.inflight.get("gpu") and GPU in self.bench.ready:
            pytest.fail(f"request {free[0].number} waits, and nothing runs on the GPU")
        if free and GPU not in self.bench.ready:
            assert self.bench.admission.inflight["cpu"] == MOST["cpu"]

    def teardown(self) -> None:
        """In the end all get a slot, as long as others end."""
        bench = self.bench
        bench.can_move = True
        bench.ready = (GPU, CPU)
        bench.read(Snapshot())
        bench.end_all()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def full_gpu_with_helped(bench: Bench) -> tuple[list[Client], list[Client]]:
    """Two requests on the GPU, and two that the CPU helps: their first tokens are made."""
    first = [bench.arrive() for _ in range(2)]
    helped = [bench.arrive(movable=True) for _ in range(2)]
    for client in helped:
        assert isinstance(client.placement, Offload)
        bench.give_back(client, "gpu")
        bench.settle()
    return first, helped


def test_a_request_that_the_cpu_helps_goes_on_at_the_gpu_in_the_order_of_arrival() -> None:
    bench = Bench()
    first, helped = full_gpu_with_helped(bench)
    later = bench.arrive()
    assert [client.held for client in (*helped, later)] == [("cpu",), ("cpu",), ()]
    assert bench.admission.queued == 1
    bench.end(first[0])
    assert [client.held for client in helped] == [("gpu",), ("cpu",)]
    bench.end(first[1])
    assert [client.causes for client in helped] == [(Cause.ROOM,), (Cause.ROOM,)]
    assert later.held, "only now its position has come up"


def test_a_stream_that_cannot_move_right_now_keeps_nobody_waiting() -> None:
    bench = Bench()
    bench.can_move = False
    first, helped = full_gpu_with_helped(bench)
    for client in first:
        bench.end(client)
    later = [bench.arrive() for _ in range(2)]
    assert [client.held for client in later] == [("gpu",), ("gpu",)]
    assert [client.held for client in helped] == [("cpu",), ("cpu",)]
    bench.can_move = True
    bench.end(later[0])
    assert [client.held for client in helped] == [("gpu",), ("cpu",)], "their positions were kept, in order"


def test_the_last_in_the_queue_gets_what_room_the_cpu_has_and_the_first_its_slot_at_the_gpu() -> None:
    bench = Bench()
    running = [bench.arrive(pinned=name) for name in ("gpu", "gpu", "gpu", "cpu", "cpu")]
    assert all(client.held for client in running)
    queue = [bench.arrive() for _ in range(3)]
    assert [client.held for client in queue] == [(), (), ()]
    bench.end(running[-1])
    assert [client.held for client in queue] == [("cpu",), (), ()], "nothing is known yet: the first is helped"
    bench.end(running[0])
    assert [client.held for client in queue] == [("cpu",), ("gpu",), ()]


def test_a_request_that_insists_on_the_cpu_gets_its_next_slot_whoever_waits_for_the_gpu() -> None:
    bench = Bench()
    running = [bench.arrive(pinned=name) for name in ("gpu", "gpu", "gpu", "cpu", "cpu", "cpu")]
    free = [bench.arrive() for _ in range(3)]
    insisting = [bench.arrive(pinned="cpu") for _ in range(2)]
    bench.end(running[-1])
    assert [client.held for client in (*insisting, *free)] == [("cpu",), (), (), (), ()]
    bench.end(running[-2])
    assert [client.held for client in (*insisting, *free)] == [("cpu",), ("cpu",), (), (), ()]


def test_a_request_that_insists_on_a_cpu_that_is_being_started_waits_for_it() -> None:
    class Starting(Bench):
        @property
        def fleet(self) -> Fleet:
            return structs.replace(super().fleet, waited_for=lambda request, tried: (CPU,))

    bench = Starting()
    bench.ready = (GPU,)
    for _ in range(MOST["gpu"]):
        bench.arrive(pinned="gpu")
    free, insisting = bench.arrive(), bench.arrive(pinned="cpu")
    bench.admit()
    assert free.waits
    assert insisting.waits
    bench.ready = (GPU, CPU)
    bench.admit()
    assert insisting.held == ("cpu",)


def test_a_stream_that_leaves_a_gpu_that_preempts_returns_before_all_others() -> None:
    bench = Bench()
    moved, other = bench.arrive(movable=True), bench.arrive()
    pressed = InstanceLoad(read_at_s=1.0, running=2, waiting=1, preempted=1, kv_usage_ratio=0.99)
    bench.read(Snapshot(instances={"gpu": pressed}))
    assert (moved.held, moved.causes) == (("cpu",), (Cause.PRESSURE,))
    waiting = [bench.arrive(pinned="cpu") for _ in range(3)] + [bench.arrive() for _ in range(3)]
    assert [client.held for client in waiting[3:]] == [(), (), ()]
    bench.read(Snapshot(instances={"gpu": replace(pressed, read_at_s=2.0, preempted=0, waiting=0)}))
    assert (moved.held, moved.causes) == (("gpu",), (Cause.PRESSURE, Cause.ROOM))
    for client in (moved, other, *waiting):
        bench.end(client)
    assert bench.admission.is_quiet
    assert not bench.admission.entries


def test_streams_leave_an_instance_that_is_to_stop_the_longest_first_for_as_long_as_there_is_room() -> None:
    bench = Bench()
    streams = [bench.arrive(movable=True) for _ in range(2)]
    bench.arrive(pinned="cpu")
    bench.arrive(pinned="cpu")
    bench.read(Snapshot(), draining=("gpu",))
    assert [client.held for client in streams] == [("gpu",), ("cpu",)]


def test_requests_that_the_cpu_answers_do_not_fill_the_queue() -> None:
    bench = Bench(max_queue_size=1)
    full_gpu_with_helped(bench)
    waits, refused = bench.arrive(), bench.arrive()
    assert bench.admission.queued == 1
    assert (waits.waits, refused.waits) == (True, False)


def test_the_rest_of_an_answer_goes_before_all_that_waits_but_not_back_to_where_it_failed() -> None:
    bench = Bench()
    running = [bench.arrive(pinned=name) for name in ("gpu", "gpu", "gpu", "cpu", "cpu", "cpu")]
    waits = bench.arrive()
    rest = bench.ask(Claim(waits.claim.request, tried=("cpu",), first=True))
    bench.end(running[-1])
    assert (waits.held, rest.held) == ((), ())
    bench.end(running[0])
    assert (waits.held, rest.held) == ((), ("gpu",))


@given(st.permutations(["gpu", "gpu", None]))
def test_a_large_request_is_not_overtaken_by_smaller_ones_for_which_the_kv_cache_has_room(
    pinned: list[str | None],
) -> None:
    large, *small = pinned
    bench = Clients((replace(GPU, max_num_seqs=64),), policy="cost")
    request = InferenceRequest(request_id="", model="", stream=True, prompt_tokens=1000, max_tokens=64)
    running = [bench.ask(Claim(request)) for _ in range(8)]
    bench.read(Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=8, kv_usage_ratio=0.6)}))
    large_request = structs.replace(request, pinned=large, prompt_tokens=8000)
    while isinstance(bench.admission.decide(large_request, bench.fleet), RunOn):
        running.append(bench.ask(Claim(request)))
    first = bench.ask(Claim(large_request))
    shorter = [structs.replace(request, pinned=name, prompt_tokens=10) for name in small]
    assert isinstance(bench.admission.decide(shorter[0], bench.fleet), RunOn), "there is room for a small one"
    others = [bench.ask(Claim(one)) for one in shorter]
    assert [client.held for client in (first, *others)] == [(), (), ()]
    for client in running:
        bench.end(client)
        if first.held:
            break
        assert [other.held for other in others] == [(), ()]
    assert first.held
