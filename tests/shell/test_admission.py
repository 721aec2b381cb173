# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Admission over all orders of events: nobody is overtaken at the GPU, no place is lost, nobody waits for nothing."""

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syshaxd.core.errors import OverloadedError, UnavailableError
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.decision import InferenceRequest, Offload, Placement
from syshaxd.core.placement.scheduler import Policy, Scheduler
from syshaxd.core.types import InstanceSpec, InstanceStatus, State
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.admission import Admission
from syshaxd.serving.slots import Grant, Slot
from tests.fakes.specs import make_spec

GPU, CPU = replace(make_spec("gpu"), max_num_seqs=2), replace(make_spec("cpu"), max_num_seqs=2)
BOTH = frozenset({("gpu", "cpu"), ("cpu", "gpu")})
MOST = {"gpu": 2 + 1 + 1, "cpu": 2 + 1}
"""Slots, a backlog, and at the GPU a prefill more."""


@dataclass(eq=False)
class Client:
    """A request, and how far it has come."""

    number: int
    request: InferenceRequest
    task: "asyncio.Task[None]"
    grant: Grant | None = None
    slots: tuple[Slot, ...] = ()
    """Those that it holds."""
    turned: bool = False
    """It has gone on at the GPU."""
    refused: bool = False

    @property
    def placement(self) -> Placement | None:
        return None if self.grant is None else self.grant.placement

    @property
    def held(self) -> tuple[str, ...]:
        """Instances on which it holds a slot."""
        return tuple(slot.spec.name for slot in self.slots)


class Bench:
    """Clients of one Admission, in one event loop."""

    def __init__(self, snapshot: Snapshot | None = None, *, max_queue_size: int = 1000) -> None:
        self.snapshot = snapshot or Snapshot()
        self.can_move = True
        self.clients: list[Client] = []
        self.overtaken: list[int] = []
        self.registry = InstanceRegistry([GPU, CPU])
        for spec in (GPU, CPU):
            self.become(spec, State.READY)
        self.admission = Admission(
            Scheduler(Policy()),
            self.registry,
            snapshot=lambda: self.snapshot,
            pairs=lambda: BOTH,
            decided=lambda decided: None,
            take_turn=self._take_turn,
            max_queue_size=max_queue_size,
            max_queue_wait_s=3600.0,
        )
        self._numbers = itertools.count()

    def _take_turn(self, request: InferenceRequest, gpu: InstanceSpec) -> bool:
        client = next(client for client in self.clients if client.request is request)
        if not self.can_move or "gpu" in client.held or client.grant is None:
            return False
        slot = self.admission.reserve(gpu)
        if slot is None:
            return False
        self.overtaken += [other.number for other in self.clients if self._has_turn_before(other, client)]
        client.grant.add(slot)
        client.slots += (slot,)
        client.turned = True
        asyncio.get_running_loop().call_soon(self._leave_cpu, client)
        return True

    def _leave_cpu(self, client: Client) -> None:
        if "cpu" in client.held:
            self.give_back(client, "cpu")

    def give_back(self, client: Client, name: str) -> None:
        (slot,) = (slot for slot in client.slots if slot.spec.name == name)
        client.slots = tuple(other for other in client.slots if other is not slot)
        slot.release()
        slot.release()  # once more changes nothing

    def become(self, spec: InstanceSpec, state: State) -> None:
        self.registry.on_status(InstanceStatus(spec=spec, state=state))
        if state is State.READY:
            self.registry.learn(spec, None, None)

    def take(self, spec: InstanceSpec) -> tuple[Slot]:
        """A slot on an instance, even on a full one."""
        slot = self.admission.reserve(replace(spec, max_num_seqs=1000))
        assert slot is not None
        return (slot,)

    def arrive(self, *, movable: bool = False, pinned: str | None = None) -> Client:
        number = next(self._numbers)
        request = InferenceRequest(
            request_id=str(number),
            model="",
            stream=True,
            pinned=pinned,
            prompt_tokens=500,
            whole_because="" if movable else "seed",
            movable=movable,
        )
        client = Client(number, request, asyncio.get_running_loop().create_task(asyncio.sleep(0)))
        self.clients.append(client)
        client.task = asyncio.get_running_loop().create_task(self._ask(client))
        return client

    async def _ask(self, client: Client) -> None:
        try:
            grant = self.admission.at_once(client.request) or await self.admission.wait(client.request)
        except (OverloadedError, UnavailableError):
            client.refused = True
            return
        client.grant, client.slots = grant, grant.slots
        if client.held == ("gpu",) and client.request.pinned is None:
            waiting = [other for other in self.waiting() if other.request.pinned is None]
            self.overtaken += [other.number for other in waiting if other.number < client.number]
            self.overtaken += [other.number for other in self.clients if self._has_turn_before(other, client)]

    def _has_turn_before(self, other: Client, client: Client) -> bool:
        """Whether `other`, whom the CPU helps, should have had the place at the GPU that `client` has got."""
        helped = other.placement is not None and bool(other.placement.turn_at) and other.held == ("cpu",)
        return helped and self.can_move and other.number < client.number

    def end(self, client: Client) -> None:
        client.task.cancel()
        client.slots = ()
        if client.grant is not None:
            client.grant.release()
        self.clients.remove(client)

    def waiting(self) -> list[Client]:
        return [client for client in self.clients if not client.held and not client.refused]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Machine(RuleBasedStateMachine):
    """Requests come, end and give up, readings come, and the GPU goes and comes."""

    def __init__(self) -> None:
        super().__init__()
        self.read_at_s = 0.0
        self.loop = asyncio.new_event_loop()
        self.bench = self.loop.run_until_complete(self._begin())

    async def _begin(self) -> Bench:
        return Bench()

    def settle(self) -> None:
        self.loop.run_until_complete(settle())

    @rule(movable=st.booleans(), pinned=st.sampled_from([None, None, None, "gpu", "cpu"]))
    def arrive(self, movable: bool, pinned: str | None) -> None:
        async def run() -> None:
            self.bench.arrive(movable=movable and pinned is None, pinned=pinned)
            await settle()

        self.loop.run_until_complete(run())

    @precondition(lambda self: self.bench.clients)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.bench.clients), label="client")
        self.loop.call_soon(self.bench.end, client)
        self.settle()

    @precondition(lambda self: any(isinstance(client.placement, Offload) for client in self.bench.clients))
    @rule(data=st.data())
    def prefill_ends(self, data: st.DataObject) -> None:
        able = [
            client
            for client in self.bench.clients
            if isinstance(client.placement, Offload) and not client.turned and "gpu" in client.held
        ]
        if able:
            client = data.draw(st.sampled_from(able), label="client")
            self.loop.call_soon(self.bench.give_back, client, "gpu")
            self.settle()

    @rule(
        running=st.integers(0, 2),
        waiting=st.integers(0, 2),
        kv_ratio=st.sampled_from([0.1, 0.8, 0.95]),
        preempted=st.integers(0, 1),
    )
    def reading(self, running: int, waiting: int, kv_ratio: float, preempted: int) -> None:
        self.read_at_s += 1
        load = InstanceLoad(
            read_at_s=self.read_at_s, running=running, waiting=waiting, kv_usage_ratio=kv_ratio, preempted=preempted
        )
        self.bench.snapshot = Snapshot(instances={"gpu": load})
        self.loop.call_soon(self.bench.admission.observe_loads)
        self.settle()

    @rule(can=st.booleans())
    def streams_can_move(self, can: bool) -> None:
        self.bench.can_move = can
        self.loop.call_soon(self.bench.admission.admit)
        self.settle()

    @rule()
    def gpu_goes_and_comes(self) -> None:
        self.bench.become(GPU, State.STOPPED if GPU in self.bench.registry.ready else State.READY)
        self.loop.call_soon(self.bench.admission.admit)
        self.settle()

    @invariant()
    def places_are_those_held(self) -> None:
        for name, most in MOST.items():
            held = sum(client.held.count(name) for client in self.bench.clients)
            assert self.bench.admission.inflight.get(name, 0) == held <= most

    @invariant()
    def nobody_is_overtaken_at_the_gpu(self) -> None:
        assert not self.bench.overtaken

    @invariant()
    def who_waits_is_counted(self) -> None:
        assert self.bench.admission.queued == len(self.bench.waiting())
        assert self.bench.admission.is_quiet() == (not any(not client.refused for client in self.bench.clients))

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        free = [client for client in self.bench.waiting() if client.request.pinned is None]
        if free and not self.bench.admission.inflight.get("gpu") and GPU in self.bench.registry.ready:
            pytest.fail(f"request {free[0].number} waits, and nothing runs on the GPU")
        if free and GPU not in self.bench.registry.ready:
            assert self.bench.admission.inflight["cpu"] == MOST["cpu"]

    def teardown(self) -> None:
        """In the end all get a place, as long as others end."""
        bench = self.bench
        bench.can_move = True
        bench.snapshot = Snapshot()
        if GPU not in bench.registry.ready:
            bench.become(GPU, State.READY)
        self.loop.call_soon(bench.admission.observe_loads)
        self.settle()
        while bench.clients:
            client = next((client for client in bench.clients if client.held or client.refused), None)
            assert client is not None, "all wait, and nobody holds a place"
            self.loop.call_soon(bench.end, client)
            self.settle()
        assert bench.admission.is_quiet()
        assert not any(bench.admission.inflight.values())
        self.loop.close()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


async def test_a_request_that_the_cpu_helps_goes_on_at_the_gpu_in_the_order_of_arrival() -> None:
    bench = Bench()
    first = [bench.arrive() for _ in range(2)]
    await settle()
    helped = [bench.arrive(movable=True) for _ in range(2)]
    await settle()
    for client in helped:
        assert isinstance(client.placement, Offload)
        bench.give_back(client, "gpu")  # its first token is made
    later = bench.arrive()
    await settle()
    assert [client.held for client in (*helped, later)] == [("cpu",), ("cpu",), ()]
    assert bench.admission.queued == 1
    for ended, expected in zip(first, (("gpu",), ("gpu",)), strict=True):
        bench.end(ended)
        await settle()
        assert helped[0].held == expected
    assert [client.turned for client in helped] == [True, True]
    assert later.held, "only now it is its turn"


async def test_a_turn_that_cannot_be_taken_right_now_keeps_nobody_waiting() -> None:
    bench = Bench()
    bench.can_move = False
    first = [bench.arrive() for _ in range(2)]
    await settle()
    helped = [bench.arrive(movable=True) for _ in range(2)]
    await settle()
    for client in helped:
        bench.give_back(client, "gpu")
    for client in first:
        bench.end(client)
    later = [bench.arrive() for _ in range(2)]
    await settle()
    assert [client.held for client in later] == [("gpu",), ("gpu",)]
    assert [client.held for client in helped] == [("cpu",), ("cpu",)]
    bench.end(later[0])
    bench.can_move = True
    bench.admission.admit()
    await settle()
    assert [client.held for client in helped] == [("gpu",), ("cpu",)], "their turns were kept, in order"


async def test_the_last_in_the_queue_gets_what_room_the_cpu_has_and_the_first_its_place_at_the_gpu() -> None:
    bench = Bench()
    running = [bench.arrive(pinned=name) for name in ("gpu", "gpu", "gpu", "cpu", "cpu")]
    await settle()
    assert all(client.held for client in running)
    queue = [bench.arrive() for _ in range(3)]
    await settle()
    assert [client.held for client in queue] == [(), (), ()]
    bench.end(running[-1])
    await settle()
    assert [client.held for client in queue] == [("cpu",), (), ()], "nothing is known yet: the first is helped"
    bench.end(running[0])
    await settle()
    assert [client.held for client in queue] == [("cpu",), ("gpu",), ()]


async def test_an_answer_that_leaves_a_gpu_for_a_while_goes_back_before_all_others() -> None:
    bench = Bench()
    first, second = bench.arrive(movable=True), bench.arrive()
    await settle()
    waiting = [bench.arrive(pinned="cpu") for _ in range(3)] + [bench.arrive() for _ in range(3)]
    await settle()
    for _ in range(2):
        bench.admission.keep_turn(first.request, "gpu")
    bench.give_back(first, "gpu")
    assert first.grant is not None
    first.slots = bench.take(CPU)
    first.grant.add(first.slots[0])
    held = [client.held for client in waiting]
    bench.end(second)
    await settle()
    assert first.held == ("gpu",)
    assert [client.held for client in waiting] == held
    for client in (first, *waiting):
        bench.end(client)
    await settle()
    assert bench.admission.is_quiet()
    assert bench.admission.queued == 0


async def test_those_whom_the_cpu_answers_do_not_fill_the_queue() -> None:
    bench = Bench(max_queue_size=1)
    for _ in range(2):
        bench.arrive()
    await settle()
    helped = [bench.arrive(movable=True) for _ in range(2)]
    await settle()
    for client in helped:
        bench.give_back(client, "gpu")
    waits, refused = bench.arrive(), bench.arrive()
    await settle()
    assert bench.admission.queued == 1
    assert not waits.refused
    assert refused.refused
    with suppress(asyncio.CancelledError):
        await refused.task
