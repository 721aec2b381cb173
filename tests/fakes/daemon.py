# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The real Supervisor, Engine and Reconfigurer over a fake runtime: a daemon without inference servers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from syshaxd.control import ControlServer, Operations, TlsEndpoint
from syshaxd.core.config import Config
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.launch.bound import Bound
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.lifecycle import RestartPolicy
from syshaxd.core.loads import Snapshot
from syshaxd.core.parity import PROMPTS, Bounds, PromptAnswer, TokenStep
from syshaxd.core.placement.rules import Policy
from syshaxd.core.types import InstanceSpec, RuntimeKind, State
from syshaxd.daemon.reconfiguring import make_reconfigurer
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.instances.discovery import Discovery
from syshaxd.instances.on_demand import OnDemandModels, OnDemandSettings
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.settings import SupervisorSettings
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.liveness import Liveness
from syshaxd.observe.parity import ParityService
from syshaxd.reconfigure import Reconfigurer
from syshaxd.runtime.external import ExternalRuntime
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover, HandoverPolicy
from syshaxd.serving.leases import Leases
from syshaxd.serving.operations import InstanceOperations
from syshaxd.serving.runner import Runner, TimeLimits
from syshaxd.system import configfile
from syshaxd.system.api_keys import ApiKeys
from tests.fakes.bindings import unbound
from tests.fakes.calibrator import no_calibrator
from tests.fakes.quiet import assert_quiet
from tests.fakes.runtime import FakeHost, FakeRuntime

CONFIG = """\
# Kept.
services:
  gpu:
    runtime: process
    python: /engine/python
    port: 8001
  cpu:
    runtime: process
    python: /engine/python
    port: 8002
models:
  default: m
  path: /models/m
lifecycle:
  drain_timeout_s: 5.0
  start_timeout_s: 5.0
  backoff_base_s: 0.01
"""
BROKEN_PORT = 6666
"""Servers that listen there never get well."""


@dataclass
class FakeDaemon:
    path: Path
    runtime: FakeRuntime
    supervisor: Supervisor
    engine: Engine
    instances: InstanceOperations
    reconfigurer: Reconfigurer
    registry: InstanceRegistry
    handover: Handover
    parity: ParityService
    compared_ports: list[int]
    """Where instances were asked for their parity."""

    def states(self) -> dict[str, State]:
        return {status.spec.name: status.state for status in self.supervisor.statuses()}

    def ports(self) -> dict[str, int]:
        """Of the instances that requests can go to."""
        ready = {spec.name for spec in self.registry.ready}
        return {
            status.spec.name: status.spec.port for status in self.supervisor.statuses() if status.spec.name in ready
        }

    async def offered(self, *names: str) -> None:
        """Returns when exactly these instances are offered to requests."""
        while {spec.name for spec in self.registry.ready} != set(names):
            await asyncio.sleep(0.005)

    async def compared(self, *ports: int) -> None:
        """Returns when the instances at these ports have been asked for their parity, and both are compared."""
        while not set(ports) <= set(self.compared_ports) or not self.parity.reports():
            await asyncio.sleep(0.005)

    async def changed(self, **keys: str | None) -> str:
        """The configuration's text with some keys, whose dots are written `__`, changed."""
        return await asyncio.to_thread(
            configfile.edited, self.path.read_text(), {key.replace("__", "."): text for key, text in keys.items()}
        )


def bind(config: Config, *, measure: bool = False) -> Bound:
    return Bound(specs=instance_specs(config))


async def _probe(spec: InstanceSpec) -> None:
    if spec.port == BROKEN_PORT:
        raise InstanceFailedError("it is broken")


async def _no_token(spec: InstanceSpec, timeout_s: float) -> None:
    pass


async def _facts(spec: InstanceSpec) -> InstanceFacts:
    """What it says tells where it was asked."""
    return InstanceFacts(version="0.32.0", max_model_len=spec.port, probe_ids=(1, 2))


async def _catalog(spec: InstanceSpec) -> Catalog:
    models = assumed(spec).models
    return Catalog({name: {**model, "port": spec.port} for name, model in models.items()})


@asynccontextmanager
async def fake_daemon(
    folder: Path,
    *,
    stopped: StoppedInstances | None = None,
    ready: Sequence[str] = ("gpu", "cpu"),
    text: str = CONFIG,
    host: FakeHost | None = None,
) -> AsyncIterator[FakeDaemon]:
    """A daemon with its instances READY.

    Args:
        folder: For its file.
        stopped: Instances that an operator had stopped before.
        ready: Those that get READY.
        text: The file's.
        host: What an earlier daemon has left running.
    """
    stopped = stopped or StoppedInstances()
    path = folder / "config.yaml"
    path.write_text(text)
    config = await asyncio.to_thread(configfile.parse_file, text)
    bound, runtime = bind(config), FakeRuntime(host)
    registry = InstanceRegistry(bound.specs)
    liveness = Liveness(
        _probe, _no_token, registry=registry, snapshot=Snapshot, report=lambda name: None, interval_s=None
    )
    discovery = Discovery(registry, health=liveness.probe, read_catalog=_catalog, read_facts=_facts)
    settings = OnDemandSettings.of(config, bound)
    supervisor = Supervisor(
        bound.specs,
        {RuntimeKind.PROCESS: runtime, RuntimeKind.EXTERNAL: ExternalRuntime()},
        SupervisorSettings(
            policy=RestartPolicy.from_config(config.lifecycle),
            probe_interval_s=0.02,
            probe_timeout_s=1.0,
            stop_grace_s=1.0,
        ),
        probe=discovery.probe,
        stays_stopped=stopped,
        on_demand=settings.instances,
    )
    supervisor.subscribe(registry.on_status)
    supervisor.subscribe_instances(registry.on_instances)
    on_demand = OnDemandModels(settings, registry, supervisor, is_stopped=lambda name: name in stopped)
    asked: list[int] = []

    async def answers(spec: InstanceSpec) -> tuple[PromptAnswer, ...]:
        asked.append(spec.port)
        steps = tuple(TokenStep(1, {1: -0.1}) for _ in range(16))
        return tuple(PromptAnswer(steps, steps) for _ in PROMPTS)

    parity = ParityService(registry, answers, Bounds())
    runner = Runner(TimeLimits(silence_s=30.0))
    handover = Handover(registry, runner, pair_refusal=parity.refusal, policy=HandoverPolicy())
    parity.subscribe(handover.refresh)
    engine = Engine(
        registry,
        supervisor=supervisor,
        policy=Policy(name="turn"),
        handover=handover,
        snapshot=Snapshot,
        look_up=discovery.look_up,
        max_queue_size=10,
        max_queue_wait_s=5.0,
        on_demand=on_demand,
    )
    bindings = unbound(supervisor)
    instances = InstanceOperations(
        engine,
        calibrator=no_calibrator(registry),
        supervisor=supervisor,
        handover=handover,
        parity=parity,
        bindings=bindings,
        snapshot=Snapshot,
        stopped=stopped,
        on_demand=on_demand,
    )
    reconfigurer = make_reconfigurer(
        path,
        text,
        config,
        bound,
        bind=bind,
        instances=instances,
        engine=engine,
        runner=runner,
        handover=handover,
        liveness=liveness,
        on_demand=on_demand,
    )
    running = asyncio.create_task(supervisor.run())
    comparing = asyncio.create_task(parity.run())
    daemon = FakeDaemon(path, runtime, supervisor, engine, instances, reconfigurer, registry, handover, parity, asked)
    try:
        await daemon.offered(*ready)
        yield daemon
        await assert_quiet(engine)
    finally:
        on_demand.close()
        await stopped.close()
        await supervisor.shutdown(leave_running=False, drain=False)
        await running
        comparing.cancel()
        await discovery.close()
        runner.close()


@asynccontextmanager
async def serving_control(
    daemon: FakeDaemon, folder: Path, *, stop: Callable[[bool | None], None], tls: TlsEndpoint | None = None
) -> AsyncIterator[tuple[ControlServer, Path]]:
    """The control plane of a daemon, and its socket."""
    leases, path = Leases(daemon.engine), folder / "run" / "admin.sock"
    operations = Operations(
        engine=daemon.engine,
        instances=daemon.instances,
        reconfigurer=daemon.reconfigurer,
        leases=leases,
        keys=ApiKeys(folder / "api_keys"),
        stop=stop,
    )
    server = ControlServer(operations, path, tls=tls)
    await server.start()
    try:
        yield server, path
    finally:
        leases.close()
        await server.stop()
