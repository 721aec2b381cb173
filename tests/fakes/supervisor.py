# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A supervisor whose instances are in the state that the test says."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from syshaxd.core.errors import NotFoundError
from syshaxd.core.types import InstanceSpec, InstanceStatus, State


class FakeSupervisor:
    def __init__(self, specs: Sequence[InstanceSpec]) -> None:
        self._statuses = {spec.name: InstanceStatus(spec=spec, wanted=True) for spec in specs}
        self._callbacks: list[Callable[[InstanceStatus], None]] = []
        self.suspected: list[str] = []
        self.unwell: set[str] = set()
        """They do not answer a probe as a healthy one does."""
        self.asked: list[str] = []
        """Whether they are well."""
        self.drained_names: list[str] = []
        self.commands: list[tuple[str, ...]] = []

    def become(self, name: str, state: State) -> None:
        self._statuses[name] = replace(self._statuses[name], state=state)
        for callback in list(self._callbacks):
            callback(self._statuses[name])

    def status(self, name: str) -> InstanceStatus:
        if name not in self._statuses:
            raise NotFoundError(f"no instance {name!r}")
        return self._statuses[name]

    def statuses(self) -> tuple[InstanceStatus, ...]:
        return tuple(self._statuses.values())

    def subscribe(self, callback: Callable[[InstanceStatus], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def subscribe_instances(self, on_instances: Callable[[Sequence[InstanceStatus]], None]) -> None:
        """Its instances never change."""

    def report_failure(self, name: str) -> None:
        self.suspected.append(name)

    async def is_well(self, name: str) -> bool:
        self.asked.append(name)
        return name not in self.unwell

    def drained(self, name: str) -> None:
        self.drained_names.append(name)

    def start(self, name: str) -> None:
        self.commands.append(("start", name))

    def stop(self, name: str, *, drain: bool = True) -> None:
        self.commands.append(("stop", name, str(drain)))

    async def check_launch(self, spec: InstanceSpec) -> None:
        """It could be launched."""

    def restart(self, name: str, *, drain: bool = True) -> None:
        self.commands.append(("restart", name, str(drain)))

    async def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        yield f"{name} {tail} {follow}"
