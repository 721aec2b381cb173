# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""ParityService: whom it asks and when, what it keeps, and what it allows."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import aiohttp
import pytest

from syshax_sim import BUILT_IN, Faults, SimInstance
from syshaxd.core.errors import BadRequestError, ConflictError, InstanceFailedError, InstanceTimeoutError, NotFoundError
from syshaxd.core.handover.pairs import Refusal
from syshaxd.core.parity import PROMPTS, Agreement, Bounds, ParityCause, ParityReport, PromptAnswer
from syshaxd.core.types import InstanceSpec, InstanceStatus, Role, State
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.parity import ParityService
from syshaxd.observe.parity_ask import ask
from tests.fakes.specs import external_spec

IN_TIME_S = 50.0
INSTANT = BUILT_IN["instant"]
BOUNDS = Bounds()
NOT_COMPARED = Refusal("gpu and cpu have not been compared yet", lasting=False)


def spec(role: Role, port: int, model: str = "m") -> InstanceSpec:
    return external_spec(role, served_model=model, port=port)


@dataclass
class Stand:
    """A service that asks simulated instances."""

    session: aiohttp.ClientSession
    sims: dict[str, SimInstance]
    specs: dict[str, InstanceSpec]
    registry: InstanceRegistry
    service: ParityService
    generations: dict[str, int] = field(default_factory=lambda: {"gpu": 1, "cpu": 1})

    def become(self, name: str, state: State = State.READY) -> None:
        self.registry.on_status(
            InstanceStatus(spec=self.specs[name], state=state, generation=self.generations[name], wanted=True)
        )
        if state is State.READY:
            self.registry.learn(self.specs[name], None, None)

    def restart(self, name: str) -> None:
        self.become(name, State.STOPPING)
        self.generations[name] += 1
        self.become(name, State.STARTING)

    async def report(self, condition: Callable[[ParityReport], bool] = lambda _: True) -> ParityReport:
        async with asyncio.timeout(IN_TIME_S):
            while not (reports := [report for report in self.service.reports() if condition(report)]):
                await asyncio.sleep(0.001)
        return reports[0]

    def asked(self) -> tuple[int, int]:
        return self.sims["gpu"].requests, self.sims["cpu"].requests


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def stand(
    stack: AsyncExitStack, *, enabled: bool = True, bounds: Bounds = BOUNDS, timeout_s: float = 5.0, **model: float
) -> Stand:
    """`model`: how the CPU's model is not the GPU's."""
    session = await stack.enter_async_context(aiohttp.ClientSession())
    sims = {
        "gpu": await stack.enter_async_context(SimInstance(INSTANT)),
        "cpu": await stack.enter_async_context(SimInstance(replace(INSTANT, **model))),  # type: ignore[arg-type]
    }
    specs = {role: spec(role, sims[role].port) for role in Role}
    registry = InstanceRegistry(tuple(specs.values()))
    service = ParityService(registry, partial(ask, session, timeout_s=timeout_s), bounds, enabled=enabled)
    running = asyncio.create_task(service.run())
    stack.callback(running.cancel)
    return Stand(session, sims, specs, registry, service)


async def test_a_pair_is_compared_once_when_both_are_ready(stack: AsyncExitStack) -> None:
    it = await stand(stack)
    it.become("gpu")
    assert it.service.refusal("gpu", "cpu") == NOT_COMPARED
    it.become("cpu")
    report = await it.report()
    assert (report.first, report.second) == ("gpu", "cpu")
    assert report.verdict.agreement is Agreement.AGREES
    assert [prompt.prompt for prompt in report.prompts] == list(PROMPTS)
    assert not it.service.refusal("gpu", "cpu")
    assert not it.service.refusal("cpu", "gpu")
    it.become("cpu")
    for _ in range(100):  # of turns of the loop, which a request would not survive unseen
        await asyncio.sleep(0)
    assert it.asked() == (len(PROMPTS), len(PROMPTS))


async def test_an_external_server_that_was_lost_is_asked_again(stack: AsyncExitStack) -> None:
    it = await stand(stack)
    it.become("gpu")
    it.become("cpu")
    await it.report()
    it.become("cpu", State.UNHEALTHY)
    it.become("cpu")
    assert it.service.refusal("gpu", "cpu") == NOT_COMPARED
    await it.report()
    assert it.asked() == (len(PROMPTS), 2 * len(PROMPTS))


async def test_a_new_generation_is_asked_again_and_the_other_instance_is_not(stack: AsyncExitStack) -> None:
    it = await stand(stack)
    it.become("gpu")
    it.become("cpu")
    await it.report()
    it.restart("cpu")
    assert it.service.reports() == ()
    assert it.service.refusal("gpu", "cpu") == NOT_COMPARED
    it.become("cpu")
    await it.report()
    assert it.asked() == (len(PROMPTS), 2 * len(PROMPTS))


async def test_rounding_is_noise(stack: AsyncExitStack) -> None:
    it = await stand(stack, rounding_nats=0.1)
    it.become("gpu")
    it.become("cpu")
    verdict = (await it.report()).verdict
    assert (verdict.agreement, verdict.cause, verdict.allowed) == (Agreement.NOISE, ParityCause.ROUNDING, True)


async def test_other_weights_are_refused_and_said(stack: AsyncExitStack, caplog: pytest.LogCaptureFixture) -> None:
    it = await stand(stack, weights=1)
    it.become("gpu")
    with caplog.at_level(logging.INFO):
        it.become("cpu")
        report = await it.report()
    assert (report.verdict.agreement, report.verdict.cause) == (Agreement.DIFFERS, ParityCause.WEIGHTS)
    refusal = it.service.refusal("gpu", "cpu")
    assert "do not compute the same" in refusal.reason
    assert refusal.lasting
    (said,) = [record for record in caplog.records if "parity of gpu and cpu" in record.message]
    assert said.levelno == logging.WARNING


async def test_who_listens_is_told_that_a_pair_may_or_may_not(stack: AsyncExitStack) -> None:
    it = await stand(stack)
    told: list[Refusal] = []
    it.service.subscribe(lambda: told.append(it.service.refusal("gpu", "cpu")))
    it.become("gpu")
    it.become("cpu")
    await it.report()
    it.restart("cpu")
    assert told == [Refusal(), NOT_COMPARED]


async def test_the_bound_is_the_operators(stack: AsyncExitStack) -> None:
    it = await stand(stack, weights=1, bounds=Bounds(max_distance=1.0))
    it.become("gpu")
    it.become("cpu")
    report = await it.report()
    assert report.verdict.agreement is Agreement.DIFFERS
    assert not it.service.refusal("gpu", "cpu")


async def test_an_instance_that_does_not_answer_leaves_the_pair_unknown_and_refused(stack: AsyncExitStack) -> None:
    it = await stand(stack)
    it.sims["cpu"].set_faults(Faults(api_status=500))
    it.become("gpu")
    it.become("cpu")
    report = await it.report()
    assert report.verdict.agreement is Agreement.UNKNOWN
    assert "status 500" in report.verdict.reasons[0]
    assert it.service.refusal("gpu", "cpu")


async def test_what_failed_is_tried_again_on_demand(stack: AsyncExitStack) -> None:
    it = await stand(stack)
    it.sims["cpu"].set_faults(Faults(api_status=500, api_faults=1))
    it.become("gpu")
    it.become("cpu")
    await it.report()
    report = await it.service.compare("gpu", "cpu")
    assert report.verdict.agreement is Agreement.AGREES
    assert it.service.reports() == (report,)


async def test_without_it_nobody_is_asked_and_every_pair_is_allowed(stack: AsyncExitStack) -> None:
    it = await stand(stack, enabled=False, weights=1)
    it.become("gpu")
    it.become("cpu")
    assert not it.service.refusal("gpu", "cpu")
    report = await it.service.compare("cpu", "gpu")
    assert report.verdict.agreement is Agreement.DIFFERS
    assert it.asked() == (len(PROMPTS), len(PROMPTS))


async def test_what_cannot_be_compared_is_refused(stack: AsyncExitStack) -> None:
    it = await stand(stack, enabled=False)
    it.become("gpu")
    with pytest.raises(NotFoundError, match="npu"):
        await it.service.compare("gpu", "npu")
    with pytest.raises(BadRequestError, match="another instance"):
        await it.service.compare("gpu", "gpu")
    with pytest.raises(ConflictError, match="cpu is not ready"):
        await it.service.compare("gpu", "cpu")


async def test_instances_of_different_models_are_no_pair(stack: AsyncExitStack) -> None:
    async def nothing(spec: InstanceSpec) -> tuple[PromptAnswer, ...]:
        return ()

    instances = (spec(Role.GPU, 1), spec(Role.CPU, 2, "other"))
    registry = InstanceRegistry(instances)
    service = ParityService(registry, nothing, Bounds(), enabled=False)
    for instance in instances:
        registry.on_status(InstanceStatus(spec=instance, state=State.READY, generation=1))
        registry.learn(instance, None, None)
    with pytest.raises(ConflictError, match="different models"):
        await service.compare("gpu", "cpu")


async def test_answers_of_a_generation_that_has_ended_meanwhile_are_not_kept(stack: AsyncExitStack) -> None:
    it = await stand(stack, enabled=False)
    it.become("gpu")
    it.become("cpu")
    it.sims["cpu"].set_faults(Faults(hang=True))
    comparing = asyncio.create_task(it.service.compare("gpu", "cpu"))
    async with asyncio.timeout(IN_TIME_S):
        while it.asked()[0] < len(PROMPTS):
            await asyncio.sleep(0.001)
    it.restart("cpu")
    it.sims["cpu"].set_faults(Faults())
    with pytest.raises(ConflictError, match="restarted"):
        await comparing
    assert it.service.reports() == ()


async def test_an_instance_gets_so_long_for_all_prompts(stack: AsyncExitStack) -> None:
    it = await stand(stack, enabled=False)
    it.sims["gpu"].set_faults(Faults(hang=True))
    with pytest.raises(InstanceTimeoutError, match="0 of 12 prompts"):
        await ask(it.session, it.specs["gpu"], timeout_s=0.05)
    it.sims["gpu"].set_faults(Faults())


async def test_an_instance_that_is_gone_is_named(stack: AsyncExitStack) -> None:
    it = await stand(stack, enabled=False)
    it.sims["gpu"].kill()
    with pytest.raises(InstanceFailedError, match=r"gpu: POST /v1/completions: Connection refused"):
        await ask(it.session, it.specs["gpu"], timeout_s=5.0)
