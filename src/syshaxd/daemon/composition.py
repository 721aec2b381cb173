# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes the parts of the daemon by hand, each with what it calls."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from syshaxd.control import ControlServer, Operations, TlsEndpoint
from syshaxd.core.config import Config, TracingConfig
from syshaxd.core.errors import SyshaxError
from syshaxd.core.events import EventKind
from syshaxd.core.launch.bound import Bound
from syshaxd.core.parity import Bounds
from syshaxd.core.placement.rules import Policy
from syshaxd.core.types import RuntimeKind, State
from syshaxd.daemon.orders import Orders
from syshaxd.daemon.reconfiguring import handover_policy, make_reconfigurer
from syshaxd.daemon.runtimes import Runtimes
from syshaxd.daemon.service import Service, closed
from syshaxd.gateway import Gateway, Limits
from syshaxd.gateway.authentication import Authentication, check_exposure
from syshaxd.gateway.batches import BatchOptions
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.gateway.tls import Tls
from syshaxd.instances import binder
from syshaxd.instances.arenas import ArenaSweeper, read_with_arena
from syshaxd.instances.capabilities import read_facts
from syshaxd.instances.catalog import read_catalog
from syshaxd.instances.discovery import Discovery, Health
from syshaxd.instances.on_demand import OnDemandModels, OnDemandSettings
from syshaxd.instances.prober import Probe
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.settings import SupervisorSettings
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.access_log import AccessLog
from syshaxd.observe.calibrator import Calibrator
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.observe.first_calibration import FirstCalibration
from syshaxd.observe.liveness import Liveness, generate_token
from syshaxd.observe.metric_sums import LAG_S, Histogram
from syshaxd.observe.metrics import MetricsService
from syshaxd.observe.monitor import SystemMonitor, probe_health
from syshaxd.observe.parity import ParityService
from syshaxd.observe.parity_ask import ask
from syshaxd.runtime import InstanceRuntime
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover
from syshaxd.serving.leases import Leases
from syshaxd.serving.operations import InstanceOperations
from syshaxd.serving.runner import Runner, TimeLimits
from syshaxd.system import activation, api_keys, descriptors, rundir
from syshaxd.system.api_keys import ApiKeys
from syshaxd.system.batch_store import BatchStore
from syshaxd.system.connecting import client_session
from syshaxd.system.looplag import LoopLag
from syshaxd.system.sidetasks import SideTasks

if TYPE_CHECKING:
    from syshaxd.observe.tracing import Tracing  # which needs OpenTelemetry

_SERVING = frozenset((State.READY, State.UNHEALTHY, State.DRAINING))


def _close_with(stack: AsyncExitStack, what: str, close: Callable[[], Awaitable[None]]) -> None:
    """Makes the stack close a part without raising errors that would hide the reason for closing."""

    async def close_quietly() -> None:
        await closed(what, close())

    stack.push_async_callback(close_quietly)


async def build(
    stack: AsyncExitStack, orders: Orders, config: Config, bound: Bound, *, path: Path, text: str
) -> Service:
    """Builds all parts and registers what must be closed. Nothing runs yet."""
    lifecycle = config.lifecycle
    lags = Histogram(LAG_S)
    loop_lag = LoopLag(lags.observe)
    stack.callback(loop_lag.close)
    side_tasks = SideTasks()
    _close_with(stack, "tasks", side_tasks.close)
    session = await stack.enter_async_context(client_session())
    keys = await asyncio.to_thread(ApiKeys, api_keys.default_path())
    authentication = Authentication.from_config(config, keys)
    tls = await asyncio.to_thread(Tls.from_config, config.gateway.tls)
    stopped = await asyncio.to_thread(StoppedInstances.load, rundir.state_dir() / "stopped.json")
    _close_with(stack, "stopped instances", stopped.close)

    def note_launch(name: str, generation: int, text: str) -> None:
        supervisor.note_launch(name, generation, text)

    def note_failure(name: str) -> None:
        supervisor.report_failure(name)

    runtimes = Runtimes(
        rundir.state_dir(),
        config.docker,
        tasks=side_tasks,
        note=note_launch,
        reconnected=lambda: _start_again(supervisor),
    )
    _close_with(stack, "runtimes", runtimes.close)
    registry = InstanceRegistry(bound.specs)
    monitor = SystemMonitor(
        lambda: [status.spec for status in supervisor.statuses() if status.state in _SERVING],
        interval_s=config.monitor.interval_s,
        timeout_s=lifecycle.probe_timeout_s,
    )
    liveness = Liveness(
        partial(probe_health, session),
        partial(generate_token, session),
        registry=registry,
        snapshot=monitor.latest,
        report=note_failure,
        interval_s=lifecycle.liveness_interval_s,
    )
    discovery = _discovery(registry, session, liveness.probe)
    _close_with(stack, "discovery", discovery.close)
    supervisor, on_demand = _supervision(
        stack,
        config,
        bound,
        runtimes=runtimes,
        registry=registry,
        stopped=stopped,
        probe=discovery.probe,
        loop_lag=loop_lag,
    )
    _close_with(stack, "arenas", ArenaSweeper(supervisor.statuses, supervisor.subscribe).close)
    bindings = BindingMonitor(bound, supervisor.statuses, runtimes.pid, interval_s=config.numa.verify_interval_s)
    runner = Runner(TimeLimits.from_config(config.system))
    stack.callback(runner.close)
    parity = _parity(config, registry, session)
    handover = Handover(registry, runner, pair_refusal=parity.refusal, policy=handover_policy(config))
    parity.subscribe(handover.refresh)
    engine = Engine(
        registry,
        supervisor=supervisor,
        policy=Policy.from_config(config),
        handover=handover,
        snapshot=monitor.latest,
        look_up=discovery.look_up,
        max_queue_size=config.system.max_queue_size,
        max_queue_wait_s=config.system.max_queue_wait_s,
        breaker_failures=config.system.breaker_failures,
        retry_ratio=config.system.retry_ratio,
        ask_token=partial(generate_token, session),
        on_demand=on_demand,
    )
    discovery.on_other_models(lambda name, text: engine.events.add(EventKind.MODEL, text, instance=name))
    instances = InstanceOperations(
        engine,
        calibrator=_calibrator(engine, registry, monitor),
        supervisor=supervisor,
        handover=handover,
        parity=parity,
        bindings=bindings,
        snapshot=monitor.latest,
        stopped=stopped,
        faults=lambda: side_tasks.faults,
        on_demand=on_demand,
    )
    monitor.subscribe(lambda _: engine.on_snapshot())
    reconfigurer = make_reconfigurer(
        path,
        text,
        config,
        bound,
        bind=binder.bind,
        instances=instances,
        engine=engine,
        runner=runner,
        handover=handover,
        liveness=liveness,
        on_demand=on_demand,
    )
    first_calibration = FirstCalibration(
        instances.calibrator,
        registry,
        is_asked_for=lambda: reconfigurer.config.scheduler.calibrate == "first-start",
        busy=engine.requests.busy,
        snapshot=monitor.latest,
        events=engine.events,
    )
    leases = Leases(engine)
    handed = activation.take_sockets()
    check_exposure(config, keys, handed.get("http", ()))
    operations = Operations(
        engine=engine,
        instances=instances,
        reconfigurer=reconfigurer,
        leases=leases,
        keys=keys,
        batches=lambda: gateway.batch_worker,
        stop=lambda leave_running: orders.on_stop("shutdown requested", leave_running=leave_running),
    )
    socket_path = rundir.socket_path(config.control.socket)
    control = ControlServer(operations, socket_path, tls=TlsEndpoint.from_config(config.control.tcp))
    _close_with(stack, "control plane", lambda: control.stop(leave_socket=orders.restart))
    metrics = MetricsService(task_failures=side_tasks.failures, loop_lag=lags)
    gateway = _gateway(
        stack,
        config,
        engine,
        bound=bound,
        metrics=metrics,
        instances=instances,
        authentication=authentication,
        tls=tls,
    )
    return Service(
        orders=orders,
        config=config,
        bound=bound,
        handed=handed,
        runtimes=runtimes,
        supervisor=supervisor,
        registry=registry,
        instances=instances,
        gateway=gateway,
        authentication=authentication,
        tls=tls,
        control=control,
        leases=leases,
        reconfigurer=reconfigurer,
        side_tasks=side_tasks,
        works={
            "monitor": monitor.run,
            "bindings": bindings.run,
            "sweeper": runner.sweep,
            **gateway.works,
            "breakers": engine.breakers.run,
            "liveness": liveness.run,
            "parity": parity.run,
            "calibration": instances.calibrator.run,
            "first calibration": first_calibration.run,
            "discovery": discovery.run,
            **({} if tls is None else {"certificate": tls.run}),
        },
    )


def _supervision(
    stack: AsyncExitStack,
    config: Config,
    bound: Bound,
    *,
    runtimes: Mapping[RuntimeKind, InstanceRuntime],
    registry: InstanceRegistry,
    stopped: StoppedInstances,
    probe: Probe,
    loop_lag: LoopLag,
) -> tuple[Supervisor, OnDemandModels]:
    settings = OnDemandSettings.of(config, bound)
    supervisor = Supervisor(
        bound.specs,
        runtimes,
        SupervisorSettings.from_config(config.lifecycle),
        probe=probe,
        was_late_since=loop_lag.was_late_since,
        stays_stopped=stopped,
        on_demand=settings.instances,
    )
    supervisor.subscribe(registry.on_status)
    supervisor.subscribe_instances(registry.on_instances)
    on_demand = OnDemandModels(settings, registry, supervisor, is_stopped=stopped.__contains__)
    stack.callback(on_demand.close)
    return supervisor, on_demand


def _batches(config: Config) -> BatchOptions | None:
    settings = config.batches
    if not settings.enabled:
        return None
    store = partial(
        BatchStore, rundir.state_dir() / "batches", max_bytes=settings.max_bytes, file_ttl_s=settings.file_ttl_s
    )
    return BatchOptions(store=store, max_concurrency=settings.max_concurrency)


def _tracing(stack: AsyncExitStack, config: TracingConfig) -> "Tracing | None":
    """Imports OpenTelemetry only if it is needed. Raises SyshaxError: it is missing."""
    if config.endpoint is None:
        return None
    try:
        from syshaxd.observe.tracing import Tracing, provider_of  # noqa: PLC0415
    except ImportError as error:
        raise SyshaxError(
            f"tracing.endpoint needs OpenTelemetry: {error}; install opentelemetry-sdk and "
            "opentelemetry-exporter-otlp-proto-http for syshaxd's Python, or unset it"
        ) from error
    tracing = Tracing(provider_of(config), asyncio.get_running_loop().time)
    _close_with(stack, "tracing", tracing.close)
    return tracing


def _gateway(
    stack: AsyncExitStack,
    config: Config,
    engine: Engine,
    *,
    bound: Bound,
    metrics: MetricsService,
    instances: InstanceOperations,
    authentication: Authentication,
    tls: Tls | None,
) -> Gateway:
    settings = config.gateway
    gateway = Gateway(
        engine,
        metrics,
        instances.status,
        limits=Limits.from_config(settings, descriptors.limit() - descriptors.reserve()),
        cors_origins=settings.cors_origins,
        allow_router_fields=settings.allow_kv_transfer_params,
        authentication=authentication,
        tls=tls,
        public_routes=settings.public_routes,
        access_log=None if settings.access_log is None else AccessLog(settings.access_log),
        tracing=_tracing(stack, config.tracing),
        batches=_batches(config),
        dashboard=Dashboard(instances.status, bound.topology, engine.events, engine.requests.decisions)
        if settings.dashboard
        else None,
    )
    if gateway.batch_worker is not None:
        _close_with(stack, "batches", gateway.batch_worker.close)
    return gateway


def _start_again(supervisor: Supervisor) -> None:
    """The container engine answers again: failed launches are retried at once."""
    for status in supervisor.statuses():
        if status.spec.runtime is RuntimeKind.DOCKER and status.state in {State.BACKOFF, State.FAILED}:
            supervisor.start(status.spec.name)


def _discovery(registry: InstanceRegistry, session: aiohttp.ClientSession, health: Health) -> Discovery:
    return Discovery(
        registry,
        health=health,
        read_catalog=partial(read_catalog, session),
        read_facts=partial(read_with_arena, partial(read_facts, session)),
    )


def _calibrator(engine: Engine, registry: InstanceRegistry, monitor: SystemMonitor) -> Calibrator:
    return Calibrator(
        registry,
        path=rundir.state_dir() / "calibration.json",
        running=lambda: len(engine.requests.running),
        snapshot=monitor.latest,
        seed=engine.seed_estimates,
        drift=engine.drift,
    )


def _parity(config: Config, registry: InstanceRegistry, session: aiohttp.ClientSession) -> ParityService:
    settings = config.parity
    return ParityService(
        registry,
        partial(ask, session, timeout_s=settings.timeout_s),
        Bounds(
            noise_distance=settings.noise_distance,
            max_distance=settings.max_distance,
            max_distance_quantised=settings.max_distance_quantised,
        ),
        enabled=settings.enabled,
    )
