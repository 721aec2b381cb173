# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The runtimes of instances, each built when an instance needs it."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from syshaxd.core.config.schema import DockerConfig
from syshaxd.core.types import InstanceSpec, InstanceStatus, RuntimeKind
from syshaxd.runtime import InstanceRuntime
from syshaxd.runtime.external import ExternalRuntime
from syshaxd.runtime.process import ProcessRuntime
from syshaxd.runtime.quantised import QuantisedRuntime
from syshaxd.runtime.quantiser import ProcessWorker, Worker
from syshaxd.system.sidetasks import SideTasks

if TYPE_CHECKING:
    from syshaxd.runtime.docker import DockerRuntime

_log = logging.getLogger(__name__)
_CONTAINERS = "containers"
"""The folder of the containers' logs. Without it, no daemon of this state folder has had any."""


class Runtimes(Mapping[RuntimeKind, InstanceRuntime]):
    """Processes, containers, and servers that others have started. Lives in one event loop."""

    def __init__(
        self,
        state_dir: Path,
        docker: DockerConfig,
        *,
        tasks: SideTasks,
        note: Callable[[str, int, str], None],
        reconnected: Callable[[], None],
    ) -> None:
        """Does no I/O yet.

        Args:
            state_dir: The daemon's folder for what outlives it.
            docker: Where the container engine answers.
            tasks: Runs what listens to the container engine.
            note: Called with an instance, a generation, and what its launch is waiting for.
            reconnected: Called when the container engine answers again after it did not.
        """
        self._state_dir = state_dir
        self._docker = docker
        self._tasks = tasks
        self._note = note
        self._reconnected = reconnected
        self._processes = ProcessRuntime(state_dir)
        self._containers: DockerRuntime | None = None
        self._of_containers: QuantisedRuntime | None = None
        self._others: Mapping[RuntimeKind, InstanceRuntime] = {
            RuntimeKind.PROCESS: QuantisedRuntime(self._processes, self._process_worker, note),
            RuntimeKind.EXTERNAL: ExternalRuntime(),
        }

    def __getitem__(self, kind: RuntimeKind) -> InstanceRuntime:
        if kind is not RuntimeKind.DOCKER:
            return self._others[kind]
        if self._of_containers is None:
            self._of_containers = QuantisedRuntime(self._docker_runtime(), self._container_worker, self._note)
        return self._of_containers

    def __iter__(self) -> Iterator[RuntimeKind]:
        return iter(RuntimeKind)

    def __len__(self) -> int:
        return len(RuntimeKind)

    async def pid(self, status: InstanceStatus) -> int | None:
        """The process ID of an instance's server; None: it has none on this host."""
        return None if status.handle is None else await self[status.spec.runtime].pid(status.handle)

    async def end_others(self, specs: Iterable[InstanceSpec]) -> None:
        """Stops instances that an earlier daemon left running and that are none of these."""
        names = {kind: [spec.name for spec in specs if spec.runtime is kind] for kind in RuntimeKind}
        try:
            await self._processes.end_others(names[RuntimeKind.PROCESS])
        except Exception:  # noqa: BLE001 - the instances that are there are worth more
            _log.exception("processes of instances that are no longer configured may still run")
        try:
            had_some = await asyncio.to_thread((self._state_dir / _CONTAINERS).exists)
            if had_some or names[RuntimeKind.DOCKER]:
                await self._docker_runtime().end_others(names[RuntimeKind.DOCKER])
        except Exception:  # noqa: BLE001 - as above
            _log.exception("containers of instances that are no longer configured may still run")

    async def close(self) -> None:
        """Stops all watching; what was launched keeps running."""
        try:
            await self._processes.close()
        finally:
            if self._containers is not None:
                await self._containers.close()

    def _docker_runtime(self) -> "DockerRuntime":
        if self._containers is None:
            from syshaxd.runtime.docker import DockerRuntime  # noqa: PLC0415 - the SDK takes 7 MiB and 0.1 s

            self._containers = DockerRuntime(
                self._state_dir / _CONTAINERS,
                host=self._docker.host,
                timeout_s=self._docker.timeout_s,
                tasks=self._tasks,
                note=self._note,
                reconnected=self._reconnected,
            )
        return self._containers

    def _process_worker(self, spec: InstanceSpec, _generation: int) -> Worker:
        return ProcessWorker(spec.weights.python if spec.weights else "", self._state_dir)

    def _container_worker(self, spec: InstanceSpec, generation: int) -> Worker:
        """The interpreter of this host that the configuration names, or a container of the instance's image."""
        if spec.weights is not None and spec.weights.python:
            return self._process_worker(spec, generation)
        return self._docker_runtime().weights_worker(spec, generation)
