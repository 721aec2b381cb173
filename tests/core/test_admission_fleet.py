# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission for any number of instances of several models."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syshaxd.core.errors import NotFoundError
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.decision import InferenceRequest, RunOn
from syshaxd.core.placement.estimate import Estimates
from syshaxd.core.placement.measured import Line
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Policy, View
from syshaxd.core.placement.scheduler import decide
from syshaxd.core.placement.slots import Slot
from syshaxd.core.types import InstanceSpec, Role
from tests.fakes.admission import Client, Clients
from tests.fakes.specs import make_spec


def instance(name: str, model: str, *, slots: int = 2) -> InstanceSpec:
    role = Role.CPU if name.startswith("cpu") else Role.GPU
    return replace(make_spec(role.value), name=name, served_model=model, max_num_seqs=slots)


FLEET = (
    instance("gpu-a0", "a"),
    instance("gpu-a1", "a"),
    instance("cpu-a", "a"),
    instance("gpu-b", "b", slots=1),
    instance("cpu-c0", "c"),
    instance("cpu-c1", "c", slots=1),
)
SHARED = instance("cpu-shared", "d", slots=1)
"""Serves the models d and e, as a server that syshaxd does not start may."""
ALL = (*FLEET, SHARED)
ROOM = {spec.name: spec.max_num_seqs + max(1, int(spec.max_num_seqs * 0.25)) + 1 for spec in ALL}
"""Slots, a backlog, and a prefill more."""


class Bench(Clients):
    """Clients of several models."""

    prefills_end_at_once = True

    def __init__(self, specs: Sequence[InstanceSpec] = FLEET, *, policy: str = "cost", max_queue_size: int = 1000):
        super().__init__(specs, policy=policy, max_queue_size=max_queue_size)

    def candidates(self, request: InferenceRequest, tried: Sequence[str]) -> tuple[InstanceSpec, ...]:
        if request.model not in {"a", "b", "c", "d", "e"}:
            raise NotFoundError("no such model")
        return tuple(spec for spec in self.ready if serves(spec, request.model) and spec.name not in tried)

    def on_grant(self, client: Client) -> None:
        assert all(serves(slot.spec, client.claim.request.model) for slot in client.slots)
        if client.slots[-1].spec.role is Role.GPU:
            mine = [other for other in self.clients if other.claim.request.model == client.claim.request.model]
            self.overtaken += [other.number for other in mine if other.waits and other.number < client.number]

    def on_move(self, client: Client, target: Slot, cause: Cause) -> None:
        assert serves(target.spec, client.claim.request.model)

    def arrive(self, model: str = "a", *, movable: bool = False, conversation: int = 0) -> Client:
        request = InferenceRequest(
            request_id="",
            model=model,
            stream=True,
            prompt_tokens=500,
            whole_because="" if movable else "test",
            movable=movable,
            conversation=conversation,
        )
        return self.ask(Claim(request))

    def where(self, *clients: Client) -> list[str]:
        return ["-" if client.spec is None else client.spec.name for client in clients]


def serves(spec: InstanceSpec, model: str) -> bool:
    return model in {"d", "e"} if spec is SHARED else spec.served_model == model


class Machine(RuleBasedStateMachine):
    """Requests of five models come, end and give up; readings come; instances go and come."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(ALL)
        self.read_at_s = 0.0

    @initialize(policy=st.sampled_from(["cost", "turn", "gpu-only", "cpu-only", "upstream-threshold"]))
    def choose(self, policy: str) -> None:
        self.bench = Bench(ALL, policy=policy)

    @rule(model=st.sampled_from("aaabbcde"), movable=st.booleans(), conversation=st.integers(0, 3))
    def arrive(self, model: str, movable: bool, conversation: int) -> None:
        self.bench.arrive(model, movable=movable, conversation=conversation)

    @precondition(lambda self: self.bench.clients)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.bench.end(data.draw(st.sampled_from(self.bench.clients), label="client"))

    @rule(
        name=st.sampled_from([spec.name for spec in ALL]),
        running=st.integers(0, 2),
        kv_ratio=st.sampled_from([0.1, 0.95]),
        preempted=st.integers(0, 1),
        draining=st.sampled_from([(), ("gpu-a0",), ("cpu-a",)]),
    )
    def reading(self, name: str, running: int, kv_ratio: float, preempted: int, draining: tuple[str, ...]) -> None:
        self.read_at_s += 1
        load = InstanceLoad(read_at_s=self.read_at_s, running=running, kv_usage_ratio=kv_ratio, preempted=preempted)
        self.bench.read(Snapshot(instances={name: load}), draining)

    @rule(gone=st.sets(st.sampled_from([spec.name for spec in ALL]), max_size=3))
    def instances_go_and_come(self, gone: set[str]) -> None:
        self.bench.ready = tuple(spec for spec in ALL if spec.name not in gone)
        self.bench.admit()
        self.bench.settle()

    @invariant()
    def no_slot_is_given_twice_or_lost(self) -> None:
        for name, most in ROOM.items():
            held = sum(slot.spec.name == name for client in self.bench.clients for slot in client.slots)
            assert self.bench.admission.inflight.get(name, 0) == held <= most

    @invariant()
    def nobody_is_overtaken_within_a_model(self) -> None:
        assert not self.bench.overtaken

    @invariant()
    def requests_that_wait_are_counted(self) -> None:
        waiting = [client.claim.request.model for client in self.bench.clients if client.waits]
        assert self.bench.admission.queued == len(waiting)
        counts = {model: waiting.count(model) for model in waiting}
        assert self.bench.admission.queued_models == counts

    @invariant()
    def no_model_waits_for_another(self) -> None:
        for model in {client.claim.request.model for client in self.bench.clients if client.waits}:
            its = [spec.name for spec in self.bench.ready if serves(spec, model)]
            taken = sum(self.bench.admission.inflight.get(name, 0) for name in its)
            if its and not taken:
                pytest.fail(f"a request for {model} waits, and nothing runs on {its}")

    def teardown(self) -> None:
        """In the end all get a slot, as long as others end."""
        bench = self.bench
        bench.ready = ALL
        bench.read(Snapshot())
        bench.end_all()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_gpus_of_a_model_are_filled_evenly() -> None:
    bench = Bench()
    assert bench.where(*(bench.arrive("a") for _ in range(4))) == ["gpu-a0", "gpu-a1", "gpu-a0", "gpu-a1"]


def test_a_full_kv_cache_counts_like_slots() -> None:
    bench = Bench()
    bench.read(Snapshot(instances={"gpu-a0": InstanceLoad(read_at_s=1.0, kv_usage_ratio=0.8)}))
    assert bench.where(bench.arrive("a"), bench.arrive("a")) == ["gpu-a1", "gpu-a1"]


def test_a_quicker_gpu_comes_first_until_it_has_more_to_do() -> None:
    bench = Bench([instance("gpu-a0", "a", slots=8), instance("gpu-a1", "a", slots=8)])
    estimates = Estimates(
        token_s={"gpu-a0": Line.first(1, 0.03), "gpu-a1": Line.first(1, 0.02)},
        prefill_s={"gpu-a0": Line.first(500, 0.3), "gpu-a1": Line.first(500, 0.2)},
    )
    request = bench.arrive("a").claim.request
    for running, best in ((0, "gpu-a1"), (6, "gpu-a0")):
        view = View(policy=Policy(), inflight={"gpu-a1": running}, candidates=bench.ready, estimates=estimates)
        decision = decide(view, request)
        assert isinstance(decision, RunOn)
        assert decision.instance == best, running


def test_the_turns_of_a_conversation_go_where_their_beginning_is_cached() -> None:
    bench = Bench([instance(f"gpu-a{at}", "a", slots=16) for at in range(3)])
    bench.arrive("a")
    first = bench.arrive("a", conversation=7)
    bench.end(first)
    for _ in range(3):
        turn = bench.arrive("a", conversation=7)
        assert bench.where(turn) == ["gpu-a1"]
        assert turn.grant is not None
        assert turn.grant.placement.reasons == ("the GPU has room", "it has answered the previous turn")


def test_a_conversation_leaves_an_instance_that_has_much_more_to_do() -> None:
    bench = Bench([instance(f"gpu-a{at}", "a", slots=16) for at in range(2)])
    turns = [bench.arrive("a", conversation=7) for _ in range(16)]
    assert set(bench.where(*turns)) == {"gpu-a0", "gpu-a1"}


def test_the_same_for_instances_on_cpus() -> None:
    bench = Bench([instance(f"cpu-a{at}", "a", slots=16) for at in range(2)])
    bench.arrive("a", conversation=3)
    assert bench.where(*(bench.arrive("a", conversation=number) for number in (3, 4))) == ["cpu-a0", "cpu-a1"]


def test_a_model_does_not_wait_for_another() -> None:
    bench = Bench()
    first = [bench.arrive("b") for _ in range(4)]
    assert first[-1].waits
    assert bench.where(bench.arrive("a"), bench.arrive("c")) == ["gpu-a0", "cpu-c0"]
    assert not bench.arrive("a").waits


def test_each_model_has_its_own_limit_of_the_queue() -> None:
    bench = Bench(max_queue_size=1)
    for model in "bbbb":
        bench.arrive(model)
    assert bench.clients[-1].refused
    assert not any(bench.arrive("c").refused for _ in range(6))


def test_models_that_share_an_instance_get_slots_in_turns() -> None:
    bench = Bench([instance("gpu-d", "d", slots=1), instance("gpu-e", "e", slots=1), SHARED], policy="turn")
    for model in "dddddeeeee":
        bench.arrive(model)
    got: list[str] = []
    for _ in range(4):
        waited = [client for client in bench.clients if client.waits]
        bench.end(next(client for client in bench.clients if client.spec is SHARED))
        got += [client.claim.request.model for client in waited if not client.waits]
    assert sorted(got[:2]) == sorted(got[2:]) == ["d", "e"]


def test_a_stream_returns_to_whichever_gpu_of_its_model_has_a_slot() -> None:
    bench = Bench([instance("gpu-a0", "a"), instance("gpu-a1", "a"), instance("cpu-a", "a")], policy="turn")
    on_gpus = [bench.arrive("a") for _ in range(4)]
    helped = bench.arrive("a", movable=True)
    assert bench.where(helped) == ["cpu-a"]
    bench.end(on_gpus[1])
    assert bench.where(helped) == ["gpu-a1"]


def test_streams_of_an_instance_that_stops_go_to_the_gpu_with_most_slots_free() -> None:
    bench = Bench([instance(f"gpu-a{at}", "a", slots=4) for at in range(3)] + [instance("cpu-a", "a", slots=4)])
    clients = [bench.arrive("a", movable=True) for _ in range(5)]
    assert bench.where(*clients) == ["gpu-a0", "gpu-a1", "gpu-a2", "gpu-a0", "gpu-a1"]
    bench.read(Snapshot(), draining=("gpu-a0",))
    assert bench.where(clients[0], clients[3]) == ["gpu-a2", "gpu-a2"]


def test_a_stream_leaves_a_gpu_that_preempts_for_another_with_room() -> None:
    bench = Bench([instance(f"gpu-a{at}", "a", slots=4) for at in range(2)])
    clients = [bench.arrive("a", movable=True) for _ in range(2)]
    load = InstanceLoad(read_at_s=1.0, running=4, kv_usage_ratio=0.99, preempted=1)
    bench.read(Snapshot(instances={"gpu-a0": load}))
    assert bench.where(*clients) == ["gpu-a1", "gpu-a1"]
    assert not bench.admission.entries


def test_with_16_instances_and_5_models_nobody_starves() -> None:
    """One model gets more than its instances can do; the others are served as if it were not there."""
    fleet = [instance(f"gpu-{model}{at}", model, slots=4) for model in "abc" for at in range(3)]
    fleet += [instance(f"cpu-{model}", model, slots=4) for model in "abc"]
    fleet += [instance(f"gpu-{model}{at}", model, slots=4) for model in "de" for at in range(2)]
    bench, chance, now_s = Bench(fleet, policy="turn"), random.Random(7), 0.0
    arrivals = [(chance.uniform(0, 60), chance.choice("aaaaaaaaaabcde")) for _ in range(2000)]
    events: list[tuple[float, int, Client | str]] = [(at_s, at, model) for at, (at_s, model) in enumerate(arrivals)]
    heapq.heapify(events)
    came: dict[Client, float] = {}
    waited: dict[str, list[float]] = {model: [] for model in "abcde"}
    running: set[Client] = set()
    while events:
        now_s, _, what = heapq.heappop(events)
        if isinstance(what, str):
            came[bench.arrive(what)] = now_s
        else:
            bench.end(what)
            running.discard(what)
        for client in [client for client in bench.clients if client.slots and client not in running]:
            running.add(client)
            waited[client.claim.request.model].append(now_s - came[client])
            heapq.heappush(events, (now_s + chance.expovariate(1.0), 10_000 + client.number, client))
    assert sum(map(len, waited.values())) == 2000
    assert not bench.overtaken
    assert max(max(waited[model]) for model in "bcde") < 1.0 < max(waited["a"])
    assert bench.admission.is_quiet
