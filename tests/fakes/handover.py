# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Gateway, Engine, Handover and Runner over simulated instances that hand over to each other."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp

from syshax_sim import Images, KvStore, Profile, SimInstance
from syshaxd.core.handover.pairs import InstanceFacts, Refusal
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.records import RequestRecord
from syshaxd.core.placement.rules import Policy
from syshaxd.core.types import HandoverProtocol, InstanceSpec, Role, State
from syshaxd.gateway import Gateway, Limits
from syshaxd.instances.capabilities import read_facts
from syshaxd.instances.catalog import read_catalog
from syshaxd.instances.discovery import Discovery
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.observe.metrics import MetricsService
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover, HandoverPolicy
from syshaxd.serving.operations import InstanceOperations
from syshaxd.serving.runner import Runner, TimeLimits
from tests.fakes.bindings import unbound
from tests.fakes.calibrator import no_calibrator
from tests.fakes.parity import no_parity
from tests.fakes.quiet import assert_quiet
from tests.fakes.specs import external_spec
from tests.fakes.supervisor import FakeSupervisor

FAST = Profile(prefill_tokens_per_s=1e9, step_base_s=0.0005, step_per_request_s=0)


async def well(spec: InstanceSpec) -> None:
    """Every instance is."""


async def no_facts(spec: InstanceSpec) -> InstanceFacts:
    return InstanceFacts()


class KeptMetrics(MetricsService):
    """Keeps the records, too."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[RequestRecord] = []

    def record(self, rec: RequestRecord) -> None:
        self.records.append(rec)
        super().record(rec)


@dataclass
class Duo:
    """A gateway in front of two simulated instances, `gpu` and `cpu`."""

    sims: dict[str, SimInstance]
    supervisor: FakeSupervisor
    engine: Engine
    handover: Handover
    metrics: KeptMetrics
    session: aiohttp.ClientSession
    url: str
    loads: dict[str, Any] = field(default_factory=dict)

    @property
    def gpu(self) -> SimInstance:
        return self.sims["gpu"]

    @property
    def cpu(self) -> SimInstance:
        return self.sims["cpu"]

    async def ready(self, *names: str) -> None:
        for name in names:
            self.supervisor.become(name, State.READY)
        while not set(names) <= {spec.name for spec in self.engine.registry.ready}:
            await asyncio.sleep(0.001)

    def post(self, path: str, body: Any, **options: Any) -> Any:
        return self.session.post(self.url + path, json=body, **options)

    async def whole(self, path: str, body: Any, **options: Any) -> tuple[Any, str]:
        """A JSON answer, and where it was made."""
        async with self.post(path, body, **options) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json(), answer.headers["x-syshax-placement"]

    async def events(self, path: str, body: Any, **options: Any) -> tuple[list[Any], str]:
        """The events of a stream, which must be well-formed and complete, and where it was made."""
        async with self.post(path, body | {"stream": True}, **options) as answer:
            assert answer.status == 200, await answer.text()
            text = await answer.text()
            assert text.endswith("\n\ndata: [DONE]\n\n"), text[-300:]
            blocks = text.removesuffix("data: [DONE]\n\n").split("\n\n")
            assert blocks.pop() == ""
            return [json.loads(block.removeprefix("data: ")) for block in blocks], answer.headers["x-syshax-placement"]


@asynccontextmanager
async def duo(
    profile: Profile = FAST,
    *,
    policy: Policy | None = None,
    handover: HandoverPolicy | None = None,
    slots: int = 64,
    max_queue_wait_s: float = 10.0,
    version: str = "0.32.0",
    images: dict[str, Images] | None = None,
    pair_refusal: Callable[[str, str], Refusal] = lambda source, target: Refusal(),
    snapshot: Callable[[], Snapshot] = Snapshot,
    host: str = "127.0.0.1",
    argv: tuple[str, ...] = (),
) -> AsyncIterator[Duo]:
    async with AsyncExitStack() as stack:
        store = KvStore()
        sims: dict[str, SimInstance] = {}
        for role in Role:
            sims[role] = await stack.enter_async_context(
                SimInstance(profile, kv_store=store, version=version, images=(images or {}).get(role), host=host)
            )
        specs = [
            external_spec(
                role,
                host=host,
                port=sims[role].port,
                max_num_seqs=slots,
                argv=argv,
                protocol=HandoverProtocol.SYSHAX if images else HandoverProtocol.CONNECTOR,
            )
            for role in Role
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        supervisor = FakeSupervisor(specs)
        runner = Runner(TimeLimits(silence_s=30.0))
        sweeper = asyncio.create_task(runner.sweep())
        stack.callback(sweeper.cancel)
        stack.callback(runner.close)
        registry = InstanceRegistry(specs)
        supervisor.subscribe(registry.on_status)
        discovery = Discovery(
            registry,
            health=well,
            read_catalog=partial(read_catalog, session),
            read_facts=partial(read_facts, session),
        )
        stack.push_async_callback(discovery.close)
        hands = Handover(
            registry,
            runner,
            policy=handover or HandoverPolicy(),
            pair_refusal=pair_refusal,
        )
        engine = Engine(
            registry,
            supervisor=supervisor,
            policy=policy or Policy(name="turn"),
            handover=hands,
            snapshot=snapshot,
            look_up=discovery.look_up,
            max_queue_size=1000,
            max_queue_wait_s=max_queue_wait_s,
        )
        metrics = KeptMetrics()
        instances = InstanceOperations(
            engine,
            calibrator=no_calibrator(registry),
            supervisor=supervisor,
            handover=hands,
            parity=no_parity(registry),
            bindings=unbound(supervisor),
            snapshot=snapshot,
        )
        gateway = Gateway(engine, metrics, instances.status, limits=Limits(max_body_bytes=1_000_000))
        url = await gateway.start(host, 0)
        stack.push_async_callback(assert_quiet, engine)
        stack.push_async_callback(gateway.stop, 0.0)
        both = Duo(sims, supervisor, engine, hands, metrics, session, url)
        await both.ready("gpu", "cpu")
        yield both
