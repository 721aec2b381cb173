# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""BindingMonitor: periodically verifies running instances against their CPU bindings."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from syshaxd.core.errors import ConflictError, NotFoundError, ProcessGoneError, SyshaxError
from syshaxd.core.launch.bound import Bound
from syshaxd.core.launch.cpu_binding import describe_fault, without_secrets
from syshaxd.core.numa import (
    Binding,
    BindingSettings,
    BindingStatus,
    Dialect,
    Fault,
    NumaTopology,
    NumaUsage,
    Unverified,
    Verification,
    check_binding,
    dialect_of,
    next_status,
    verify_binding,
)
from syshaxd.core.report.engine_status import HostTopology
from syshaxd.core.types import Handle, InstanceStatus, RuntimeKind, State
from syshaxd.system import host
from syshaxd.system.threads import in_thread

_log = logging.getLogger(__name__)
# While the kernel walks an instance's page tables, the instance can't map memory: limits that share of the time.
_MAX_WALKING_RATIO = 0.01

OnDrift = Callable[[str, BindingStatus], None]


class BindingMonitor:
    """Reads where instances run and keeps their binding status. Lives in one event loop."""

    def __init__(
        self,
        bound: Bound,
        statuses: Callable[[], Iterable[InstanceStatus]],
        pid: Callable[[InstanceStatus], Awaitable[int | None]],
        *,
        interval_s: float,
        read_numa_usage: Callable[[int], NumaUsage] = host.placement,
        read_topology: Callable[[], NumaTopology] = host.topology,
    ) -> None:
        """Reads nothing yet.

        Args:
            bound: What instances are bound to.
            statuses: All instances, at any moment.
            pid: Returns the main process of a launched instance; None: unknown, or it has ended.
            interval_s: Seconds between two readings of an instance; longer after a slow one.
            read_numa_usage: Reads a process and its descendants; may block.
            read_topology: Reads the host; may block.
        """
        self._bound = bound
        self._statuses = statuses
        self._pid = pid
        self._interval_s = interval_s
        self._read_placement = read_numa_usage
        self._read_topology = read_topology
        self._known: dict[str, tuple[Handle, BindingStatus]] = {}
        self._said: dict[str, str] = {}
        self._subscribers: list[OnDrift] = []
        self._rebound = asyncio.Event()

    def set_bound(self, bound: Bound) -> None:
        """Sets the bindings to verify."""
        self._bound = bound
        self._rebound.set()

    @property
    def faults(self) -> Mapping[str, tuple[str, ...]]:
        """Faults and advice found at start, by instance, one line each."""
        return {name: tuple(map(describe_fault, faults)) for name, faults in self._bound.faults.items()}

    def latest(self) -> Mapping[str, BindingStatus]:
        """Binding status of the present generations, by instance; unread ones are absent."""
        handles = {status.spec.name: status.handle for status in self._statuses()}
        return {name: known for name, (handle, known) in self._known.items() if handles.get(name) == handle}

    def subscribe(self, on_drift: OnDrift) -> None:
        """Calls `on_drift` with an instance's name when drift is confirmed, changes or ends."""
        self._subscribers.append(on_drift)

    async def run(self) -> None:
        """Reads every READY and bound instance periodically, until cancelled."""
        while True:
            self._rebound.clear()
            async with asyncio.TaskGroup() as group:
                watches = [group.create_task(self._watch(name)) for name in self._bound.bindings]
                await self._rebound.wait()
                for watch in watches:
                    watch.cancel()

    async def topology(self) -> HostTopology:
        """The host at this moment. Raises TopologyError if it can't be read."""
        return HostTopology(
            topology=await in_thread(self._read_topology),
            owners=self._bound.owners(),
            gpu_owners=self._bound.gpu_owners(),
        )

    async def check(self, name: str, settings: BindingSettings | None) -> tuple[Fault, ...]:
        """Returns the faults of settings for an instance; None: of its own.

        Raises:
            NotFoundError: Unknown name.
            ConflictError: syshaxd does not manage its CPUs.
            TopologyError: The host can't be read.
        """
        self._status(name)
        if name not in self._bound.settings:
            raise ConflictError(f"the CPUs of {name} are not checked: syshaxd does not start it (runtime: external)")
        return await in_thread(partial(self._check, name, settings))

    async def verify(self, name: str = "") -> Mapping[str, Verification | Unverified]:
        """Verifies instances now, independent of the periodic readings.

        Args:
            name: Only this one; empty: all.

        Raises:
            NotFoundError: Unknown name.
            TopologyError: The kernel's answer is not valid.
        """
        statuses = [self._status(name)] if name else list(self._statuses())
        return {status.spec.name: await self._verify(status) for status in statuses}

    def _check(self, name: str, settings: BindingSettings | None) -> tuple[Fault, ...]:
        present = self._bound.settings[name]
        if settings is not None:
            on_cpu = present.dialect is not Dialect.PLAIN
            settings = replace(settings, dialect=dialect_of(settings.env, on_cpu=on_cpu))
        faults = check_binding(settings or present, self._read_topology(), self._bound.constraints[name])
        return tuple(replace(fault, proposal=fault.proposal and without_secrets(fault.proposal)) for fault in faults)

    def _status(self, name: str) -> InstanceStatus:
        statuses = {status.spec.name: status for status in self._statuses()}
        if name not in statuses:
            raise NotFoundError(f"no instance {name!r}; available: {', '.join(statuses)}")
        return statuses[name]

    async def _verify(self, status: InstanceStatus) -> Verification | Unverified:
        name = status.spec.name
        if status.spec.runtime is RuntimeKind.EXTERNAL:
            return Unverified("syshaxd does not start it (runtime: external)")
        if name not in self._bound.bindings:
            return Unverified("not bound: it names no CPUs")
        pid = await self._pid(status)
        if pid is None:
            return Unverified(f"not running: {status.state}")
        try:
            return await in_thread(partial(self._read, self._bound.bindings[name], pid))
        except ProcessGoneError:
            return Unverified("it has just ended")

    def _read(self, binding: Binding, pid: int) -> Verification:
        return verify_binding(binding, self._read_placement(pid), self._read_topology())

    async def _watch(self, name: str) -> None:
        while True:
            walked_s = await self._look(name)
            await asyncio.sleep(max(self._interval_s, walked_s / _MAX_WALKING_RATIO))

    async def _look(self, name: str) -> float:
        """Returns the seconds for which the kernel blocked the instance from mapping memory."""
        status = next((status for status in self._statuses() if status.spec.name == name), None)
        if status is None or status.state is not State.READY or status.handle is None:
            return 0.0
        try:
            seen = await self._verify(status)
        except (SyshaxError, OSError) as error:
            self._say(name, f"cannot verify its CPU binding: {error}")
            return 0.0
        except Exception as error:  # noqa: BLE001 - /proc and /sys may be odd; the others are watched on
            self._say(name, f"cannot verify its CPU binding: {type(error).__name__}: {error}")
            return 0.0
        if isinstance(seen, Unverified):
            return 0.0
        now = next((status for status in self._statuses() if status.spec.name == name), None)
        if now is not None and now.state is State.READY and now.handle == status.handle:  # unless it is ending
            self._learn(name, status.handle, seen)
        return seen.walk_s

    def _learn(self, name: str, handle: Handle, seen: Verification) -> None:
        self._say(name, "; ".join(seen.unreadable))
        before = self.latest().get(name)
        known = next_status(before, seen, at_s=time.time())
        self._known[name] = (handle, known)
        self._tell(name, before, known)

    def _say(self, name: str, problem: str) -> None:
        """Logs a reading error once, until it changes."""
        if problem and problem != self._said.get(name):
            _log.warning("%s: %s", name, problem)
        self._said[name] = problem

    def _tell(self, name: str, before: BindingStatus | None, known: BindingStatus) -> None:
        """Logs and reports that drift begins, changes its kind, or ends."""
        old = {drift.kind for drift in before.drifts} if before is not None else set()
        if old == {drift.kind for drift in known.drifts}:
            return
        if known.drifts:
            what = "; ".join(map(str, known.drifts))
            _log.warning("%s: drifted from its CPU binding: %s; restart it to repair this", name, what)
        else:
            _log.info("%s: back on its CPU binding", name)
        for on_drift in self._subscribers:
            try:
                on_drift(name, known)
            except Exception:  # noqa: BLE001 - who listens must not break what it listens to
                _log.exception("%s: a subscriber failed", name)
