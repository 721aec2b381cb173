# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Gateway, Engine and Runner together, over real sockets, in front of two fake instances."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.records import RequestRecord
from syshaxd.core.placement.rules import Policy
from syshaxd.core.types import HandoverProtocol, InstanceSpec, QuantisedWeights, Role, State
from syshaxd.gateway import Gateway, Limits
from syshaxd.instances.breakers import Ask
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.instances.discovery import Discovery
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover, HandoverPolicy
from syshaxd.serving.operations import InstanceOperations
from syshaxd.serving.runner import Runner, TimeLimits
from tests.fakes.bindings import unbound
from tests.fakes.calibrator import no_calibrator
from tests.fakes.handover import no_facts, well
from tests.fakes.instance import FakeInstance, Request, json_answer
from tests.fakes.parity import no_parity
from tests.fakes.quiet import assert_quiet
from tests.fakes.supervisor import FakeSupervisor

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
LIMITS = Limits(max_body_bytes=100_000)
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":3,"total_tokens":8,"completion_tokens":5}}'


class RecordingMetrics:
    """A MetricsService that keeps the records."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def record(self, rec: RequestRecord) -> None:
        self.records.append(rec)

    def render(self, *args: Any) -> bytes:
        return b"# nothing\n"


@dataclass
class Stand:
    """A gateway in front of two fake instances."""

    gpu: FakeInstance
    cpu: FakeInstance
    supervisor: FakeSupervisor
    engine: Engine
    instances: InstanceOperations
    gateway: Gateway
    metrics: RecordingMetrics
    session: aiohttp.ClientSession
    url: str

    def post(self, body: Any = CHAT, path: str = "/v1/chat/completions", **options: Any) -> Any:
        if isinstance(body, bytes):
            return self.session.post(self.url + path, data=body, **options)
        return self.session.post(self.url + path, json=body, **options)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.url.removeprefix("http://").split(":")
        return await asyncio.open_connection(host, int(port))

    async def ready(self, *names: str) -> None:
        for name in names:
            self.supervisor.become(name, State.READY)
        while not set(names) <= {spec.name for spec in self.engine.registry.ready}:
            await asyncio.sleep(0)


MakeStand = Callable[..., Awaitable[Stand]]


async def equal_facts(spec: InstanceSpec) -> InstanceFacts:
    return InstanceFacts(version="0.32.0", max_model_len=8192, probe_ids=(1, 2))


async def _ok(request: Request) -> None:
    await request.send(json_answer(ANSWER))


def answer_after(go: asyncio.Event) -> Callable[[Request], Awaitable[None]]:
    """Holds each request until `go` is set, then answers it."""

    async def answer(request: Request) -> None:
        await go.wait()
        await request.send(json_answer(ANSWER))

    return answer


@asynccontextmanager
async def stands() -> AsyncIterator[MakeStand]:
    """Makes gateways, each with instances of its own, and ends them."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            slots: int = 4,
            max_queue_size: int = 10,
            max_queue_wait_s: float = 5.0,
            silence_limit_s: float = 30.0,
            time_limits: TimeLimits | None = None,
            breaker_failures: int = 0,
            retry_ratio: float = 0.2,
            ask_token: Ask = well,
            catalog: Callable[[InstanceSpec], Catalog] = assumed,
            limits: Limits = LIMITS,
            movable: bool = False,
            instance_key: str = "",
            cpu_weights: QuantisedWeights | None = None,
            cpu_model: str = "m",
            **options: Any,
        ) -> Stand:
            gpu = await stack.enter_async_context(FakeInstance("gpu", Role.GPU, _ok))
            cpu = await stack.enter_async_context(FakeInstance("cpu", Role.CPU, _ok))
            protocol = HandoverProtocol.CONNECTOR if movable else HandoverProtocol.NONE
            env = (("VLLM_API_KEY", instance_key),) if instance_key else ()
            specs = (
                replace(gpu.spec(slots), protocol=protocol, env=env),
                replace(cpu.spec(slots), protocol=protocol, env=env, weights=cpu_weights, served_model=cpu_model),
            )
            supervisor = FakeSupervisor(specs)
            runner = Runner(time_limits or TimeLimits(silence_s=silence_limit_s))
            sweeper = asyncio.create_task(runner.sweep())
            stack.callback(sweeper.cancel)
            stack.callback(runner.close)

            async def read_catalog(spec: InstanceSpec) -> Catalog:
                return catalog(spec)

            registry = InstanceRegistry(specs)
            supervisor.subscribe(registry.on_status)
            discovery = Discovery(
                registry, health=well, read_catalog=read_catalog, read_facts=equal_facts if movable else no_facts
            )
            stack.push_async_callback(discovery.close)
            handover = Handover(registry, runner, policy=HandoverPolicy(enabled=movable))
            engine = Engine(
                registry,
                supervisor=supervisor,
                policy=Policy(name="turn"),
                handover=handover,
                snapshot=Snapshot,
                look_up=discovery.look_up,
                max_queue_size=max_queue_size,
                max_queue_wait_s=max_queue_wait_s,
                breaker_failures=breaker_failures,
                retry_ratio=retry_ratio,
                ask_token=ask_token,
            )
            metrics = RecordingMetrics()
            instances = InstanceOperations(
                engine,
                calibrator=no_calibrator(registry),
                supervisor=supervisor,
                handover=handover,
                parity=no_parity(registry),
                bindings=unbound(supervisor),
                snapshot=Snapshot,
            )
            gateway = Gateway(engine, metrics, instances.status, limits=limits, **options)
            url = await gateway.start("127.0.0.1", 0)
            stack.push_async_callback(assert_quiet, engine)
            stack.push_async_callback(gateway.stop, 0.0)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            stand = Stand(gpu, cpu, supervisor, engine, instances, gateway, metrics, session, url)
            await stand.ready("gpu", "cpu")
            return stand

        yield make
