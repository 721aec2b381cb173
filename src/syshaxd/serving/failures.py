# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Failures of instances under requests: what they tell of the instance, of the request, and whether to try again."""

import asyncio

from syshaxd.core.errors import InstanceFailedError, SyshaxError
from syshaxd.core.placement.retries import Suspects
from syshaxd.core.types import InstanceStatus, State
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.supervisor import Supervisor
from syshaxd.serving.request import Request


class Failures:
    """Counts the failures of each request. Lives in one event loop."""

    def __init__(self, registry: InstanceRegistry, supervisor: Supervisor) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._suspects = Suspects()
        self._states: dict[str, State] = {}
        self._given_up: set[str] = set()
        """Instances that are being ended as they no longer answer probes; a process that died is none of them."""
        self._loop = asyncio.get_running_loop()
        supervisor.subscribe(self._on_status)

    def begin(self, request: Request) -> None:
        """A request has come.

        Raises:
            InstanceFailedError: Such a request may have ended an instance lately, and only one is healthy.
        """
        if self._suspects.knows(request.path, request.body, self._loop.time()):
            request.tries.remember()
            self._check(request, "")

    def end(self, request: Request, *, failed: bool) -> None:
        """A request has ended: its content is remembered if it may end instances, or forgotten if it was answered."""
        if not request.tries.suspect:
            return
        if failed:
            self._suspects.add(request.path, request.body, self._loop.time())
        else:
            self._suspects.forget(request.path, request.body)

    def note(self, request: Request, instance: str, error: SyshaxError, *, progressed: bool) -> None:
        """An instance has failed a request; `progressed`: it had made some of the answer."""
        self._supervisor.report_failure(instance)
        broke = isinstance(error, InstanceFailedError) and error.broke
        request.tries.failed(error, broke=broke, unresponsive=instance in self._given_up, begun=progressed)

    def check(self, request: Request, instance: str, error: SyshaxError) -> None:
        """Raises InstanceFailedError if a request that an instance has failed must not be tried on another."""
        self._check(request, f"instance {instance}: {error}; ")

    def _check(self, request: Request, why: str) -> None:
        refusal = request.tries.refusal(len(self._registry.ready), len(self._registry.specs))
        if refusal:
            raise InstanceFailedError(f"{why}{refusal}: it is not tried on another")

    def _on_status(self, status: InstanceStatus) -> None:
        name, before = status.spec.name, self._states.get(status.spec.name)
        self._states[name] = status.state
        if status.state is State.STOPPING and before is State.UNHEALTHY and status.wanted:
            self._given_up.add(name)
        elif status.state in {State.STARTING, State.READY}:
            self._given_up.discard(name)
