# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whatever comes and ends when: no request that is known to have been on an ended instance ends the last ready one."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Self

from hypothesis import given, settings
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError, SyshaxError, UnavailableError
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Grant
from syshaxd.core.types import InstanceSpec, State
from syshaxd.instances.catalog import assumed
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.engine import Engine
from syshaxd.serving.request import Request
from tests.fakes.clock import StandingLoop, pass_time, run_in_movable_time
from tests.fakes.specs import make_spec
from tests.fakes.supervisor import FakeSupervisor

RESTART_S = 12.0
PATIENCE_S = 60.0
END_S = 400.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request, as it would go on an instance that does not end."""

    at_s: float
    takes_s: float
    """From its start there to its whole answer; nothing of it comes before."""
    poison: bool = False
    """At its end the instance ends, in place of the answer."""
    body: bytes = b""
    leaves_after_s: float | None = None
    """Its client has the patience for so long only."""


class World:
    """Instances that end and are started again, and an Engine before them."""

    def __init__(self, names: tuple[str, ...], *, proxied: bool = False) -> None:
        self.proxied = proxied
        """Something before the instances takes connections, and cuts them if the instance has ended."""
        specs = tuple(replace(make_spec("gpu"), name=name, port=port) for port, name in enumerate(names, start=1))
        self.supervisor = FakeSupervisor(specs)
        self.registry = InstanceRegistry(specs)
        self.supervisor.subscribe(self.registry.on_status)
        self.engine = Engine(
            self.registry,
            supervisor=self.supervisor,  # type: ignore[arg-type]
            policy=Policy(name="turn"),
            handover=self,  # type: ignore[arg-type]
            snapshot=Snapshot,
            look_up=self._look_up,
            max_queue_size=1000,
            max_queue_wait_s=PATIENCE_S,
        )
        self.running: dict[str, dict[Answer, None]] = {name: {} for name in names}  # in order
        self.ended: Counter[int] = Counter()
        """Instances, by the request that has ended them; 0: none has."""
        self.ended_as_suspect: list[tuple[str, ...]] = []
        """What else was ready when an instance was ended by a request that was known."""
        self.generation: Counter[str] = Counter()
        for spec in specs:
            self._start(spec)

    async def _look_up(self) -> bool:
        return False

    def _start(self, spec: InstanceSpec) -> None:
        self.generation[spec.name] += 1
        self.supervisor.unwell.discard(spec.name)
        self.supervisor.become(spec.name, State.READY)
        self.registry.learn(spec, assumed(spec), InstanceFacts())

    def end(self, name: str, by: "Answer | None" = None) -> None:
        """An instance's process ends."""
        if self.supervisor.status(name).state is not State.READY or name in self.supervisor.unwell:
            return
        if by is not None and by.suspect:
            self.ended_as_suspect.append(tuple({spec.name for spec in self.registry.ready} - {name}))
        self.ended[0 if by is None else int(by.request.id)] += 1
        self.supervisor.unwell.add(name)
        for answer in tuple(self.running[name]):
            if not answer.over_there.done():
                answer.over_there.set_exception(InstanceFailedError("the connection broke"))
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, self.supervisor.become, name, State.BACKOFF)  # it is noticed a little later
        loop.call_later(RESTART_S, self._start, self.registry.specs[name])

    # What the Engine takes for hand-over.

    pairs = frozenset[tuple[str, str]]()

    def examine(self, request: Request) -> InferenceRequest:
        return request.inference

    def answer(self, request: Request, grant: Grant, *, last_try: bool) -> "Answer":
        return Answer(self, request, grant.slots[0].spec.name, last_try=last_try)


@dataclass(eq=False)
class Answer:
    """One that comes as a whole."""

    world: World
    request: Request
    instance: str
    last_try: bool
    over: bool = False
    begun: bool = False
    progressed: bool = False
    outcome: Outcome = Outcome.OK
    usage: tuple[int, int] = (1, 1)
    tokens: int = 0
    suspect: bool = False
    over_there: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    async def run(self) -> None:
        plan: Plan = self.request.client  # type: ignore[assignment]
        if self.instance in self.world.supervisor.unwell:
            raise InstanceFailedError("no connection", reached=self.world.proxied)
        self.suspect = self.request.tries.suspect
        running = self.world.running[self.instance]
        running[self] = None
        timer = asyncio.get_running_loop().call_later(plan.takes_s, self._end, plan)
        try:
            await self.over_there
        finally:
            del running[self]
            timer.cancel()
        self.over = True
        self.request.status = 200
        if self.request.on_answer is not None:
            self.request.on_answer()

    def _end(self, plan: Plan) -> None:
        if self.over_there.done():
            return
        if plan.poison:
            self.world.end(self.instance, self)
        else:
            self.over_there.set_result(None)


async def send(world: World, number: int, plan: Plan) -> str:
    """Returns what the client gets."""
    await asyncio.sleep(plan.at_s)
    request = Request(
        id=str(number),
        route="",
        method="POST",
        path="/v1/chat/completions",
        target="/v1/chat/completions",
        body=plan.body or b"%d" % number,
        inference=InferenceRequest(request_id=str(number), model="tiny", stream=False),
        client=plan,  # type: ignore[arg-type]
        started_at_s=asyncio.get_running_loop().time(),
    )
    try:
        async with asyncio.timeout(plan.leaves_after_s):
            return str(await world.engine.dispatch(request))
    except UnavailableError:
        return "unavailable"
    except (SyshaxError, TimeoutError) as error:
        return type(error).__name__


async def play(
    names: tuple[str, ...], plans: list[Plan], deaths: list[tuple[float, int]], *, proxied: bool = False
) -> tuple[World, list[str]]:
    world = World(names, proxied=proxied)
    loop = asyncio.get_running_loop()
    for at_s, number in deaths:
        loop.call_later(at_s, world.end, names[number % len(names)])
    sent = [asyncio.create_task(send(world, number, plan)) for number, plan in enumerate(plans, start=1)]
    passed_s = 0.0
    while passed_s < END_S and not all(task.done() for task in sent):
        await pass_time(2.0, step_s=0.1)
        passed_s += 2.0
    outcomes = [task.result() for task in sent]
    assert not world.engine.unreleased()
    return world, outcomes


times = st.floats(0, 40).map(lambda value: round(value, 1))
innocents = st.builds(Plan, at_s=times, takes_s=st.floats(0.1, 20))
poisons = st.builds(Plan, at_s=times, takes_s=st.floats(0.1, 30), poison=st.just(True))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([("gpu", "cpu"), ("gpu", "cpu", "third")]),
    st.lists(poisons, min_size=1, max_size=2),
    st.lists(innocents, max_size=10),
    st.lists(st.tuples(times, st.integers(0, 2)), max_size=3),
    st.booleans(),
)
def test_no_known_request_ends_the_last_ready_instance(
    names: tuple[str, ...], killers: list[Plan], others: list[Plan], deaths: list[tuple[float, int]], proxied: bool
) -> None:
    async def body() -> None:
        world, outcomes = await play(names, killers + others, deaths, proxied=proxied)
        assert all(world.ended_as_suspect), "the last ready instance was ended by a suspect"
        assert all(count <= 2 for request, count in world.ended.items() if request), world.ended
        assert set(outcomes[: len(killers)]) <= {"unavailable", "InstanceFailedError"}
        # The others are answered, unless they were there when two instances ended, or had no patience.
        assert set(outcomes[len(killers) :]) <= {"ok", "unavailable", "InstanceFailedError"}

    run_in_movable_time(body(), StandingLoop)


def test_the_others_are_answered_when_a_late_poison_ends_an_instance() -> None:
    async def body() -> None:
        others = [Plan(at_s=1.0 + number / 10, takes_s=9.0) for number in range(40)]
        world, outcomes = await play(("gpu", "cpu"), [Plan(at_s=1.0, takes_s=8.0, poison=True), *others], [])
        assert world.ended == {1: 2}
        assert outcomes[0] == "InstanceFailedError"
        assert Counter(outcomes[1:])["ok"] >= 32, Counter(outcomes)  # the few that were tried beside it are lost

    run_in_movable_time(body(), StandingLoop)


def test_an_end_counts_once() -> None:
    """A container engine's proxy still takes connections when the instance behind it has ended."""

    async def body() -> None:
        plans = [Plan(at_s=number / 10, takes_s=9.0) for number in range(9)]
        _, outcomes = await play(("gpu", "cpu", "third"), plans, [(3.0, 0)], proxied=True)
        assert set(outcomes) == {"ok"}, outcomes

    run_in_movable_time(body(), StandingLoop)


def test_what_a_client_sends_again_is_known() -> None:
    """As clients do that time out: five times the same body, before and after the end of the instance."""

    async def body() -> None:
        again = [
            Plan(at_s=number * 4.0, takes_s=7.0, poison=True, body=b"again", leaves_after_s=3.5) for number in range(20)
        ]
        patient = Plan(at_s=1.0, takes_s=7.0, poison=True, body=b"again")
        world, _ = await play(("gpu", "cpu"), [patient, *again], [])
        assert sum(world.ended.values()) <= 2, world.ended
        assert all(world.ended_as_suspect)

    run_in_movable_time(body(), StandingLoop)


def test_what_has_ended_two_instances_is_refused_for_a_while() -> None:
    async def body() -> None:
        plans = [Plan(at_s=number * 40.0, takes_s=7.0, poison=True, body=b"again") for number in range(7)]
        world, outcomes = await play(("gpu", "cpu"), plans, [])
        assert sum(world.ended.values()) == 2, world.ended
        assert outcomes == ["InstanceFailedError", *["unavailable"] * 6]

    run_in_movable_time(body(), StandingLoop)


def test_a_suspect_is_withdrawn_when_the_second_instance_is_lost() -> None:
    async def body() -> None:
        poison = Plan(at_s=0.0, takes_s=8.0, poison=True)
        # gpu ends at 8 s and is back at 20 s; the trial begins; at 24 s another one is lost for a reason of its own.
        world, outcomes = await play(("gpu", "cpu"), [poison], [(24.0, 1), (24.0, 0)])
        assert all(world.ended_as_suspect)
        assert outcomes == ["InstanceFailedError"]

    run_in_movable_time(body(), StandingLoop)


def test_where_there_is_one_instance_only_nothing_is_guarded() -> None:
    async def body() -> None:
        plan = Plan(at_s=0.0, takes_s=1.0, poison=True, body=b"same")
        world, outcomes = await play(("gpu",), [plan, replace(plan, at_s=20.0), replace(plan, at_s=40.0)], [])
        assert outcomes == ["InstanceFailedError"] * 3
        assert sum(world.ended.values()) == 3

    run_in_movable_time(body(), StandingLoop)
