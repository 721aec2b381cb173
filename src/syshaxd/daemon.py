# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxd: reads the configuration, builds the parts by hand, runs them, and stops them in order.

Exit codes: 0 stopped as it was told, 1 refused or failed, 2 usage.
"""

import asyncio
import faulthandler
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import click

from syshaxd import __version__, startup
from syshaxd.control import ControlServer, Operations, TlsEndpoint
from syshaxd.core.config import Config, TcpConfig, enabled_services
from syshaxd.core.errors import SyshaxError
from syshaxd.core.launch.cpu_binding import Bound
from syshaxd.core.lifecycle import RestartPolicy
from syshaxd.core.parity import Bounds
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.scheduler import Scheduler
from syshaxd.core.types import InstanceStatus, RuntimeKind, State
from syshaxd.gateway import Gateway, Limits
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.instances import binder
from syshaxd.instances.arenas import ArenaSweeper, read_with_arena
from syshaxd.instances.capabilities import read_facts
from syshaxd.instances.catalog import read_catalog
from syshaxd.instances.discovery import Discovery
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.observe.metrics import LAG_S, Histogram, MetricsService
from syshaxd.observe.monitor import SystemMonitor, probe_health
from syshaxd.observe.parity import ParityService, ask
from syshaxd.reconfigure import Reconfigurer
from syshaxd.runtime import InstanceRuntime
from syshaxd.runtime.docker import DockerRuntime
from syshaxd.runtime.external import ExternalRuntime
from syshaxd.runtime.process import ProcessRuntime
from syshaxd.runtime.quantised import QuantisedRuntime
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover, HandoverPolicy
from syshaxd.serving.leases import Leases
from syshaxd.serving.runner import Runner
from syshaxd.system import activation, configfile, descriptors, logs, rundir, sdnotify
from syshaxd.system.looplag import LoopLag
from syshaxd.system.sidetasks import SideTasks, Work
from syshaxd.system.terminal import Program

_log = logging.getLogger(__name__)
_SERVING = frozenset((State.READY, State.UNHEALTHY, State.DRAINING))
# How long connections to sockets kept by systemd wait for instances of the previous daemon.
_ADOPTION_LIMIT_S = 3.0
# For the parts of a shutdown besides draining and grace.
_STOP_MARGIN_S = 30.0
_LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Configuration file. Unset: $SYSHAX_CONFIG, else the system's or your own.",
)
@click.option("--check-config", is_flag=True, help="Check the configuration and exit; exit code 0 if it is valid.")
@click.option(
    "--log-level", type=click.Choice(_LOG_LEVELS), default="info", show_default=True, help="Lowest level to log."
)
@click.version_option(__version__, prog_name="syshaxd")
def main(config_path: Path | None, log_level: str, *, check_config: bool) -> None:
    """Runs sysHAX in the foreground: supervises the instances and serves the OpenAI API.

    SIGINT and SIGTERM stop it after the running requests; a second one stops it at once. SIGUSR1 stops only the daemon:
    instances run on, and the next daemon adopts them. SIGHUP applies the configuration file.

    \b
    Examples:
      syshaxd --check-config
      syshaxd --config ./syshax.yaml --log-level debug
    """  # noqa: D301 - \b keeps click from joining the lines
    logs.open_standard_streams()
    faulthandler.enable()  # on the watchdog's SIGABRT, shows where the daemon hung
    logs.setup(log_level)
    try:
        path = config_path or configfile.default_path()
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None
    try:
        text = configfile.read_text(path)
        config = configfile.parse_file(text)
        bound = binder.bind(config)
    except SyshaxError as error:
        raise click.ClickException(configfile.fault_text(path, error)) from None
    for warning in configfile.warnings(path, config):
        _log.warning("%s", warning)
    if check_config:
        click.echo(f"{path} is valid. Instances: {', '.join(enabled_services(config))}.")
        return
    _log.info("syshaxd %s starts with %s", __version__, path)
    sdnotify.check()
    descriptors.raise_limit()
    # Requests leave no reference cycles, so frequent collections only cost time on the hot path.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(path, text, config, bound))
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uses uvloop if it is installed: about a fifth less CPU time per streamed chunk."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None

    return uvloop.new_event_loop


class _Orders:
    """What signals and operators have requested of this process."""

    def __init__(self) -> None:
        """Installs the signal handlers."""
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.leave_running: bool | None = None
        """Whether to leave instances running; None: as configured."""
        self.restart = False
        """Whether another daemon starts at once."""
        self._reloads: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self.on_stop, number.name)
        self._loop.add_signal_handler(signal.SIGUSR1, self._on_restart)
        self._loop.add_signal_handler(
            signal.SIGHUP, _log.info, "SIGHUP ignored: still starting, with the file as it was"
        )

    def on_stop(self, who: str, *, leave_running: bool | None = None) -> None:
        """A request to stop the daemon; a second one stops it at once."""
        if self.stop.is_set():
            _log.info("%s again: stopping at once", who)
            self.hurry.set()
            return
        self.leave_running = leave_running
        rest = "; instances run on" if leave_running else ""
        _log.info("%s: stopping after the running requests%s; a second one stops at once", who, rest)
        self.stop.set()

    def _on_restart(self) -> None:
        """The service is being restarted (RestartKillSignal=)."""
        self.restart = True
        self.on_stop("SIGUSR1", leave_running=True)

    def reload_with(self, reconfigurer: Reconfigurer) -> None:
        """Makes SIGHUP apply the configuration file."""
        self._loop.add_signal_handler(signal.SIGHUP, self._on_reload, reconfigurer)

    def _on_reload(self, reconfigurer: Reconfigurer) -> None:
        task = self._loop.create_task(_reload(reconfigurer))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


async def serve(path: Path, text: str, config: Config, bound: Bound) -> None:
    """Runs the daemon with the text of a configuration file until it is asked to stop.

    Raises:
        SyshaxError: What the service can't be without could not be had, or failed: instances run on then.
    """
    orders = _Orders()
    async with AsyncExitStack() as stack:
        daemon = await _build(stack, orders, config, bound, path=path, text=text)
        await daemon.start()
        fault = await daemon.run()
        disorder = await daemon.stop(fault)
    if fault is not None:
        raise SyshaxError(f"syshaxd has ended by a fault of its own; instances run on: {fault}") from fault
    if disorder is not None:
        raise SyshaxError(f"syshaxd did not stop cleanly, see its log: {disorder}") from disorder
    _log.info("stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Daemon:
    """The parts to start and stop."""

    orders: _Orders
    config: Config
    bound: Bound
    handed: Mapping[str, Sequence[socket.socket]]
    """Sockets kept open by systemd."""
    processes: ProcessRuntime
    containers: DockerRuntime
    supervisor: Supervisor
    engine: Engine
    gateway: Gateway
    control: ControlServer
    leases: Leases
    reconfigurer: Reconfigurer
    side_tasks: SideTasks
    works: Mapping[str, Work]
    """Tasks besides the service."""

    async def start(self) -> None:
        """Listens and notifies systemd; no side task can prevent that."""
        self.side_tasks.start("watchdog", sdnotify.feed_watchdog)
        await self.control.start()
        conductor = self.config.services.conductor
        self.engine.endpoint = await self.gateway.start(conductor.host, conductor.port, self.handed.get("http", ()))
        _log.info("listening on %s", self.engine.endpoint)
        sdnotify.notify("READY=1", "STATUS=listening; instances are starting")

    async def run(self) -> Exception | None:
        """Serves until asked to stop. Returns the error if the supervision failed instead."""
        await self._end_others()
        supervision = asyncio.create_task(self.supervisor.run(), name="supervisor")
        for name, work in self.works.items():
            self.side_tasks.start(name, work)
        await startup.wait_for_adopted(self.engine, _ADOPTION_LIMIT_S)
        await self.gateway.serve_handed()
        self.orders.reload_with(self.reconfigurer)
        self.side_tasks.start("startup display", partial(_show_start, self.engine, self.config))
        stop = asyncio.create_task(self.orders.stop.wait(), name="stop")
        await asyncio.wait((stop, supervision), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not supervision.done() or supervision.cancelled():
            return None
        fault = supervision.exception()
        if not isinstance(fault, Exception):
            return None
        _log.critical("the supervision of instances has failed: stopping; instances run on", exc_info=fault)
        return fault

    async def _end_others(self) -> None:
        """Stops instances that an earlier daemon left running and that are no longer configured."""
        for runtime, kind in ((self.processes, RuntimeKind.PROCESS), (self.containers, RuntimeKind.DOCKER)):
            try:
                await runtime.end_others([spec.name for spec in self.bound.specs if spec.runtime is kind])
            except Exception:  # noqa: BLE001 - the instances that are there are worth more
                _log.exception("instances (runtime: %s) that are no longer configured may still run", kind)

    async def stop(self, fault: Exception | None) -> Exception | None:
        """Stops the endpoint after its running requests, then the instances unless they stay running.

        Returns the first error; later steps are carried out anyway.
        """
        times, hurry = self.reconfigurer.config.lifecycle, self.orders.hurry
        sdnotify.notify("STOPPING=1")
        sdnotify.extend_timeout(times.drain_timeout_s + times.stop_grace_s + _STOP_MARGIN_S)
        self.reconfigurer.close()
        self.leases.close()
        if not hurry.is_set():
            drained = _first(self.gateway.stop(times.drain_timeout_s), hurry.wait())
            await _closed("requests", drained)
        disorder = await _closed("endpoint", self.gateway.stop(0.0))
        asked = self.orders.leave_running
        leave_running = times.leave_running if asked is None else asked
        end = self.supervisor.shutdown(leave_running=leave_running or fault is not None, drain=False)
        disorder = await _closed("instances", end) or disorder
        await self.side_tasks.close()
        return disorder


async def _closed(what: str, closing: Awaitable[None]) -> Exception | None:
    """Waits for a part to stop. An error is logged and returned, so that it neither hides others nor skips the rest."""
    try:
        await closing
    except Exception as error:  # noqa: BLE001 - see above
        _log.exception("%s: error while stopping", what)
        return error
    return None


def _close_with(stack: AsyncExitStack, what: str, close: Callable[[], Awaitable[None]]) -> None:
    """Makes the stack close a part without raising errors that would hide the reason for closing."""

    async def closed() -> None:
        await _closed(what, close())

    stack.push_async_callback(closed)


async def _build(
    stack: AsyncExitStack, orders: _Orders, config: Config, bound: Bound, *, path: Path, text: str
) -> _Daemon:
    """Builds all parts and registers what must be closed. Nothing runs yet."""
    lifecycle = config.lifecycle
    lags = Histogram(LAG_S)
    loop_lag = LoopLag(lags.observe)
    stack.callback(loop_lag.close)
    side_tasks = SideTasks()
    _close_with(stack, "tasks", side_tasks.close)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    stopped = await asyncio.to_thread(StoppedInstances.load, rundir.state_dir() / "stopped.json")
    _close_with(stack, "stopped instances", stopped.close)

    def note_launch(name: str, generation: int, text: str) -> None:
        supervisor.note_launch(name, generation, text)

    processes = ProcessRuntime(rundir.state_dir())
    containers = DockerRuntime(
        rundir.state_dir() / "containers",
        host=config.docker.host,
        timeout_s=config.docker.timeout_s,
        tasks=side_tasks,
        note=note_launch,
        reconnected=lambda: _start_again(supervisor),
    )
    runtimes: dict[RuntimeKind, InstanceRuntime] = {
        RuntimeKind.PROCESS: QuantisedRuntime(processes, rundir.state_dir(), note_launch),
        RuntimeKind.DOCKER: QuantisedRuntime(containers, rundir.state_dir(), note_launch),
        RuntimeKind.EXTERNAL: ExternalRuntime(),
    }
    for runtime in (processes, containers):
        _close_with(stack, type(runtime).__name__, runtime.close)
    registry = InstanceRegistry(bound.specs)
    discovery = _discovery(registry, session)
    _close_with(stack, "discovery", discovery.close)
    supervisor = Supervisor(
        bound.specs,
        runtimes,
        probe=discovery.probe,
        policy=RestartPolicy.from_config(lifecycle),
        probe_interval_s=lifecycle.probe_interval_s,
        probe_timeout_s=lifecycle.probe_timeout_s,
        stop_grace_s=lifecycle.stop_grace_s,
        was_late_since=loop_lag.was_late_since,
        stays_stopped=stopped,
    )
    supervisor.subscribe(registry.on_status)
    supervisor.subscribe_instances(registry.on_instances)
    _close_with(stack, "arenas", ArenaSweeper(supervisor.statuses, supervisor.subscribe).close)
    monitor = SystemMonitor(
        lambda: [status.spec for status in supervisor.statuses() if status.state in _SERVING],
        interval_s=config.monitor.interval_s,
        timeout_s=lifecycle.probe_timeout_s,
    )
    bindings = BindingMonitor(
        bound, supervisor.statuses, partial(_pid, runtimes), interval_s=config.numa.verify_interval_s
    )
    runner = Runner(silence_limit_s=config.system.request_timeout_s)
    stack.callback(runner.close)
    parity = _parity(config, registry, session)
    handover = Handover(registry, runner, pair_refusal=parity.refusal, policy=_handover_policy(config))
    parity.subscribe(handover.refresh)
    engine = Engine(
        registry,
        supervisor=supervisor,
        scheduler=Scheduler(Policy.from_config(config)),
        handover=handover,
        snapshot=monitor.latest,
        parity=parity,
        look_up=discovery.look_up,
        max_queue_size=config.system.max_queue_size,
        max_queue_wait_s=config.system.max_queue_wait_s,
        bindings=bindings,
        faults=lambda: side_tasks.faults,
        stopped=stopped,
    )
    monitor.subscribe(lambda _: engine.on_snapshot())
    settled = partial(settle, supervisor=supervisor, runner=runner, handover=handover, engine=engine)
    reconfigurer = Reconfigurer(
        path, text, config, bound, bind=binder.bind, settle=settled, supervisor=supervisor, engine=engine
    )
    leases = Leases(engine)
    handed = activation.take_sockets()
    operations = Operations(
        engine=engine,
        reconfigurer=reconfigurer,
        leases=leases,
        stop=lambda leave_running: orders.on_stop("shutdown requested", leave_running=leave_running),
    )
    socket_path = rundir.socket_path(config.control.socket)
    control = ControlServer(operations, socket_path, tls=_tls_endpoint(config.control.tcp))
    _close_with(stack, "control plane", lambda: control.stop(leave_socket=orders.restart))
    metrics = MetricsService(task_failures=side_tasks.failures, loop_lag=lags)
    return _Daemon(
        orders=orders,
        config=config,
        bound=bound,
        handed=handed,
        processes=processes,
        containers=containers,
        supervisor=supervisor,
        engine=engine,
        gateway=_gateway(config, bound, engine, metrics),
        control=control,
        leases=leases,
        reconfigurer=reconfigurer,
        side_tasks=side_tasks,
        works={
            "monitor": monitor.run,
            "bindings": bindings.run,
            "sweeper": runner.sweep,
            "parity": parity.run,
            "discovery": discovery.run,
        },
    )


def _gateway(config: Config, bound: Bound, engine: Engine, metrics: MetricsService) -> Gateway:
    section = config.gateway
    return Gateway(
        engine,
        metrics,
        limits=Limits.from_config(section, descriptors.limit() - descriptors.reserve()),
        cors_origins=section.cors_origins,
        allow_router_fields=section.allow_kv_transfer_params,
        dashboard=Dashboard(engine.status, bound.topology, engine.events, engine.requests.decisions)
        if section.dashboard
        else None,
    )


def _start_again(supervisor: Supervisor) -> None:
    """The container engine answers again: failed launches are retried at once."""
    for status in supervisor.statuses():
        if status.spec.runtime is RuntimeKind.DOCKER and status.state in {State.BACKOFF, State.FAILED}:
            supervisor.start(status.spec.name)


async def _pid(runtimes: Mapping[RuntimeKind, InstanceRuntime], status: InstanceStatus) -> int | None:
    return None if status.handle is None else await runtimes[status.spec.runtime].pid(status.handle)


def _discovery(registry: InstanceRegistry, session: aiohttp.ClientSession) -> Discovery:
    return Discovery(
        registry,
        health=partial(probe_health, session),
        read_catalog=partial(read_catalog, session),
        read_facts=partial(read_with_arena, partial(read_facts, session)),
    )


def _parity(config: Config, registry: InstanceRegistry, session: aiohttp.ClientSession) -> ParityService:
    section = config.parity
    return ParityService(
        registry,
        partial(ask, session, timeout_s=section.timeout_s),
        Bounds(
            noise_distance=section.noise_distance,
            max_distance=section.max_distance,
            max_distance_quantised=section.max_distance_quantised,
        ),
        enabled=section.enabled,
    )


def settle(
    config: Config, bound: Bound, *, supervisor: Supervisor, runner: Runner, handover: Handover, engine: Engine
) -> None:
    """Puts a configuration into effect, except for starting and stopping instances and keys that need a restart."""
    times, system = config.lifecycle, config.system
    supervisor.set_policy(
        RestartPolicy.from_config(times),
        probe_interval_s=times.probe_interval_s,
        probe_timeout_s=times.probe_timeout_s,
        stop_grace_s=times.stop_grace_s,
    )
    runner.silence_limit_s = system.request_timeout_s
    handover.set_policy(_handover_policy(config))
    engine.set_limits(max_queue_size=system.max_queue_size, max_queue_wait_s=system.max_queue_wait_s)
    engine.set_bindings(bound)
    engine.set_policy(Policy.from_config(config))


async def _reload(reconfigurer: Reconfigurer) -> None:
    """Applies the file and notifies systemd; on an error, logs it and keeps the running configuration."""
    sdnotify.reloading()
    try:
        await reconfigurer.apply()
    except SyshaxError as error:
        sdnotify.notify(f"STATUS=the last reload failed: {str(error).splitlines()[0]}")
    except Exception:  # noqa: BLE001 - whatever it is: what runs, runs on
        _log.exception("the reload failed by a fault of syshaxd")
        sdnotify.notify("STATUS=the last reload failed by a fault of syshaxd: see the log")
    finally:
        sdnotify.notify("READY=1")


def _tls_endpoint(tcp: TcpConfig) -> TlsEndpoint | None:
    if tcp.port is None or tcp.cert is None or tcp.key is None or tcp.client_ca is None:
        return None
    return TlsEndpoint(
        host=tcp.host, port=tcp.port, cert=Path(tcp.cert), key=Path(tcp.key), client_ca=Path(tcp.client_ca)
    )


def _handover_policy(config: Config) -> HandoverPolicy:
    section = config.offload
    return HandoverPolicy(enabled=section.enabled, migrate=section.migrate, across_weights=section.across_weights)


async def _show_start(engine: Engine, config: Config) -> None:
    text = await startup.watch_start(
        engine, config.models.default, config.models.params, dashboard=config.gateway.dashboard
    )
    sdnotify.notify(f"STATUS=serving {config.models.default} at {engine.endpoint}")
    if not logs.is_journal(sys.stdout):
        click.echo(text)


async def _first(*works: object) -> None:
    """Runs several awaitables until the first completes, then cancels the others."""
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[call-overload]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
