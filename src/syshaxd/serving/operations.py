# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The status of the daemon, and the commands on instances, for operators."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Set
from contextlib import AbstractContextManager, nullcontext

from syshaxd import __version__
from syshaxd.core.errors import ConflictError
from syshaxd.core.events import EventKind
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingStatus
from syshaxd.core.report.engine_status import CarriedModel, EngineStatus
from syshaxd.core.types import InstanceSpec, InstanceStatus, Role, State
from syshaxd.instances.on_demand import OnDemandModels
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.calibrator import Calibrator
from syshaxd.observe.cpu_bindings import BindingMonitor
from syshaxd.observe.parity import ParityService
from syshaxd.serving.engine import Engine
from syshaxd.serving.handover import Handover


class InstanceOperations:
    """Operators' commands on instances, and the status of everything. Lives in one event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        supervisor: Supervisor,
        handover: Handover,
        parity: ParityService,
        bindings: BindingMonitor,
        calibrator: Calibrator,
        snapshot: Callable[[], Snapshot],
        stopped: StoppedInstances | None = None,
        faults: Callable[[], tuple[str, ...]] = tuple,
        on_demand: OnDemandModels | None = None,
    ) -> None:
        """Records changes of instances as events from now on.

        Args:
            engine: Has the requests.
            supervisor: Has the instances.
            handover: Knows which of them can hand over.
            parity: Compares them.
            bindings: Knows the CPUs on which they run.
            calibrator: Measures them.
            snapshot: The latest readings.
            stopped: Remembers which instances an operator has stopped.
            faults: Of the daemon itself, for people.
            on_demand: Starts models by requests; None: none are.
        """
        self.supervisor = supervisor
        self.parity = parity
        self.bindings = bindings
        self.calibrator = calibrator
        self.endpoint = ""
        """The URL at which clients are served."""
        self._engine = engine
        self._handover = handover
        self._snapshot = snapshot
        self._stopped = StoppedInstances() if stopped is None else stopped
        self._faults = faults
        self._on_demand = on_demand
        self._states: dict[str, State] = {}
        self._started_at_s = time.time()
        supervisor.subscribe(self._on_status)
        bindings.subscribe(self._on_drift)
        self._carried: Mapping[str, CarriedModel] = {}
        engine.registry.subscribe(self._on_carried)

    def status(self) -> EngineStatus:
        """The status of everything at this moment."""
        return EngineStatus(
            version=__version__,
            started_at_s=self._started_at_s,
            endpoint=self.endpoint,
            queued=self._engine.queued,
            queued_models=self._engine.queued_models,
            inflight=self._engine.inflight,
            instances=self.supervisor.statuses(),
            snapshot=self._snapshot(),
            binding_faults=self.bindings.faults,
            bindings=self.bindings.latest(),
            handover_refusals=self._handover.report(),
            parity=self.parity.reports(),
            open_circuits=self._engine.breakers.reasons,
            faults=self._faults(),
            offload=self._engine.offload,
            on_demand={} if self._on_demand is None else self._on_demand.statuses(),
            calibration=self.calibrator.status,
            carried=self._engine.registry.carried,
        )

    def start(self, name: str) -> None:
        """Starts the instance. Raises NotFoundError for an unknown name."""
        self.supervisor.start(name)
        self._set_stopped(name, stopped=False)

    def stop(self, name: str, *, drain: bool) -> None:
        """Stops the instance, after its running requests if `drain`. It stays stopped when the daemon restarts."""
        self.supervisor.stop(name, drain=drain)
        self._set_stopped(name, stopped=True)

    async def check_restart(self, name: str) -> None:
        """Raises ConflictError if the instance is healthy but certainly could not start again."""
        await self.supervisor.check_launch(self.supervisor.status(name).spec)

    def restart(self, name: str, *, drain: bool) -> None:
        """Stops the instance and starts a new generation."""
        self.supervisor.restart(name, drain=drain)
        self._set_stopped(name, stopped=False)

    def _set_stopped(self, name: str, *, stopped: bool) -> None:
        if stopped:
            self._stopped.add(name)
        else:
            self._stopped.discard(name)
        if self._on_demand is not None:
            self._on_demand.poke()

    def exchanging(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """While these instances get other settings, no request starts them."""
        return nullcontext() if self._on_demand is None else self._on_demand.exchanging(names)

    def carried_by(self, spec: InstanceSpec) -> tuple[str, ...]:
        """The instances that take requests for the model of this one while it does not: GPUs, or else CPUs."""
        ready = [other for other in self._engine.registry.ready if other.served_model == spec.served_model]
        others = [other for other in ready if other.name != spec.name]
        return tuple(other.name for other in others if other.role is Role.GPU) or tuple(other.name for other in others)

    def allowed_pairs(self) -> frozenset[frozenset[str]]:
        """The pairs of instances that were compared, and between which requests may move."""
        return frozenset(
            frozenset((report.first, report.second)) for report in self.parity.reports() if report.verdict.allowed
        )

    async def check_parity(self, names: Iterable[str], peers: Iterable[str], was_allowed: Set[frozenset[str]]) -> None:
        """Compares instances that have just been started again with peers, where requests could move before.

        Raises:
            ConflictError: Requests may no longer move between two of them.
        """
        ready = {spec.name for spec in self._engine.registry.ready}
        for name, peer in itertools.product(names, peers):
            if name == peer or frozenset((name, peer)) not in was_allowed or not {name, peer} <= ready:
                continue
            verdict = (await self.parity.compare(name, peer)).verdict
            if not verdict.allowed:
                why = verdict.reasons[-1] if verdict.reasons else verdict.agreement
                raise ConflictError(f"{name} and {peer} no longer compute the same: {why}")

    def is_stopped(self, name: str) -> bool:
        """Whether an operator has stopped the instance, even before the daemon started."""
        return name in self._stopped

    async def watch(self, name: str) -> AsyncGenerator[InstanceStatus, None]:
        """The instance's present status, then every change of it, until the caller closes the iterator."""
        changes: asyncio.Queue[InstanceStatus] = asyncio.Queue()
        changes.put_nowait(self.supervisor.status(name))
        unsubscribe = self.supervisor.subscribe(
            lambda status: changes.put_nowait(status) if status.spec.name == name else None
        )
        try:
            while True:
                yield await changes.get()
        finally:
            unsubscribe()

    def _on_status(self, status: InstanceStatus) -> None:
        name = status.spec.name
        if self._states.get(name) is status.state:
            return
        self._states[name] = status.state
        text = f"{status.state}: {status.reason}" if status.reason else str(status.state)
        self._engine.events.add(
            EventKind.STATE, text, instance=name, state=status.state, generation=str(status.generation)
        )

    def _on_carried(self) -> None:
        before, self._carried = self._carried, self._engine.registry.carried
        for model in before.keys() | self._carried.keys():
            its = self._carried.get(model)
            if before.get(model) != its:
                self._engine.tell_model(model, f"answered by {its}" if its else "no longer answered by CPUs alone")

    def _on_drift(self, name: str, status: BindingStatus) -> None:
        drifts = "; ".join(drift.detail for drift in status.drifts)
        self._engine.events.add(EventKind.DRIFT, drifts or "keeps to its binding again", instance=name)
