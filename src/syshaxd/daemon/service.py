# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Service: starts the parts of the daemon, runs them and stops them in order."""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import click

from syshaxd import startup
from syshaxd.control import ControlServer
from syshaxd.core.config import Config
from syshaxd.core.launch.bound import Bound
from syshaxd.daemon.orders import Orders
from syshaxd.daemon.runtimes import Runtimes
from syshaxd.gateway import Gateway
from syshaxd.gateway.authentication import Authentication
from syshaxd.gateway.tls import Tls
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.supervisor import Supervisor
from syshaxd.reconfigure import Reconfigurer
from syshaxd.serving.leases import Leases
from syshaxd.serving.operations import InstanceOperations
from syshaxd.system import logs, sdnotify
from syshaxd.system.sidetasks import SideTasks, Work

_log = logging.getLogger(__name__)
# How long connections to sockets kept by systemd wait for instances of the previous daemon.
_ADOPTION_LIMIT_S = 3.0
# For the parts of a shutdown besides draining and grace.
_STOP_MARGIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts to start and stop."""

    orders: Orders
    config: Config
    bound: Bound
    handed: Mapping[str, Sequence[socket.socket]]
    """Sockets kept open by systemd."""
    runtimes: Runtimes
    supervisor: Supervisor
    registry: InstanceRegistry
    instances: InstanceOperations
    gateway: Gateway
    authentication: Authentication
    tls: Tls | None
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
        self.instances.endpoint = await self.gateway.start(conductor.host, conductor.port, self.handed.get("http", ()))
        _log.info("listening on %s", self.instances.endpoint)
        sdnotify.notify("READY=1", "STATUS=listening; instances are starting")

    async def run(self) -> Exception | None:
        """Serves until asked to stop. Returns the error if the supervision failed instead."""
        await self.runtimes.end_others(self.bound.specs)
        supervision = asyncio.create_task(self.supervisor.run(), name="supervisor")
        for name, work in self.works.items():
            self.side_tasks.start(name, work)
        await startup.wait_for_adopted(self.registry, self.instances, _ADOPTION_LIMIT_S)
        await self.gateway.serve_handed()
        self.orders.reload_with(self.reconfigurer)
        self.side_tasks.start("startup display", partial(_show_start, self))
        stop = asyncio.create_task(self.orders.stop.wait(), name="stop")
        await asyncio.wait((stop, supervision), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not supervision.done() or supervision.cancelled():
            return None
        fault = supervision.exception()
        if not isinstance(fault, Exception):
            return None
        _log.critical("the supervision of instances has failed: stopping; instances keep running", exc_info=fault)
        return fault

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
            await closed("requests", drained)
        disorder = await closed("endpoint", self.gateway.stop(0.0))
        asked = self.orders.leave_running
        leave_running = times.leave_running if asked is None else asked
        end = self.supervisor.shutdown(leave_running=leave_running or fault is not None, drain=False)
        disorder = await closed("instances", end) or disorder
        await self.side_tasks.close()
        return disorder


async def closed(what: str, closing: Awaitable[None]) -> Exception | None:
    """Waits for a part to stop. An error is logged and returned, so that it neither hides others nor skips the rest."""
    try:
        await closing
    except Exception as error:  # noqa: BLE001 - see above
        _log.exception("%s: error while stopping", what)
        return error
    return None


async def _show_start(service: Service) -> None:
    text = await startup.watch_start(
        service.registry,
        service.instances,
        service.config.models.params,
        key=service.authentication.own_secret,
        is_testable=service.tls is None or not service.tls.wants_certificates,
        dashboard=service.config.gateway.dashboard,
    )
    models = dict.fromkeys(spec.served_model for spec in service.registry.specs.values())
    sdnotify.notify(f"STATUS=serving {', '.join(models)} at {service.instances.endpoint}")
    if not logs.is_journal(sys.stdout):
        click.echo(text)


async def _first(*works: object) -> None:
    """Runs several awaitables until the first completes, then cancels the others."""
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[call-overload]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
