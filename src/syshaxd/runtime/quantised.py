# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A runtime whose instances get their quantised weights before they are launched."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from syshaxd.core.weights import Quantize, WeightsError, WeightsPlan
from syshaxd.runtime.instance_runtime import InstanceRuntime
from syshaxd.runtime.quantiser import Progress, Worker, make_weights
from syshaxd.system.weights import plan_for


class QuantisedRuntime:
    """An InstanceRuntime over another one. Lives in one event loop."""

    def __init__(
        self,
        inner: InstanceRuntime,
        worker_of: Callable[[InstanceSpec, int], Worker],
        note: Callable[[str, int, str], None],
    ) -> None:
        """Starts nothing yet.

        Args:
            inner: What launches and ends the instances.
            worker_of: Returns what makes the weights for a launch of an instance, by its spec and generation.
            note: Called with an instance's name and generation, and the progress of its launch.
        """
        self._inner = inner
        self._worker_of = worker_of
        self._note = note
        self._making: dict[str, asyncio.Task[Path]] = {}

    async def launch(self, spec: InstanceSpec, generation: int) -> Handle:
        """Makes the weights if they are not there, then launches. See InstanceRuntime."""
        if spec.weights is not None and spec.weights.source:
            await self._make(spec, generation)
        return await self._inner.launch(spec, generation)

    async def _make(self, spec: InstanceSpec, generation: int) -> None:
        assert spec.weights is not None
        folder = Path(spec.model)
        if await asyncio.to_thread(folder.exists):
            return
        plan = await asyncio.to_thread(_planned, spec, folder)
        told = ""

        def report(progress: Progress) -> None:
            nonlocal told
            # Whatever another process makes, to wait for it is no reason to give the launch up.
            if (text := str(progress)) != told or progress.waits:
                told = text
                self._note(spec.name, generation, text)

        worker = self._worker_of(spec, generation)
        making = asyncio.create_task(
            make_weights(plan, folder.parent, worker=worker, cores=spec.cores, report=report),
            name=f"weights of {spec.name}",
        )
        self._making[spec.name] = making
        try:
            await asyncio.wait((making,))
        finally:
            making.cancel()
            await asyncio.wait((making,))
            del self._making[spec.name]
        if making.cancelled():
            raise LaunchFailedError(f"{spec.name}: its weights are no longer wanted", permanent=False)
        making.result()
        self._note(spec.name, generation, "")  # from here on the engine starts

    async def check(self, spec: InstanceSpec, *, needs_port: bool) -> None:
        """Looks for the model that weights are to be made of, if they are not there. See InstanceRuntime."""
        weights = spec.weights
        if weights is not None and weights.source and not await asyncio.to_thread(Path(spec.model).exists):
            await asyncio.to_thread(_planned, spec, Path(spec.model))
            spec = _of_source(spec, weights.source)
        await self._inner.check(spec, needs_port=needs_port)

    def abandon(self, name: str) -> None:
        """Ends the making of weights; what is whole of them stays. See InstanceRuntime."""
        if name in self._making:
            self._making[name].cancel()
        self._inner.abandon(name)

    async def wait(self, handle: Handle) -> ExitStatus:
        """See InstanceRuntime."""
        return await self._inner.wait(handle)

    async def terminate(self, handle: Handle, grace_s: float) -> None:
        """See InstanceRuntime."""
        await self._inner.terminate(handle, grace_s)

    async def adopt(self, spec: InstanceSpec) -> Handle | None:
        """See InstanceRuntime."""
        return await self._inner.adopt(spec)

    async def pid(self, handle: Handle) -> int | None:
        """See InstanceRuntime."""
        return await self._inner.pid(handle)

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        """See InstanceRuntime."""
        return self._inner.logs(name, tail=tail, follow=follow)

    def is_away(self) -> bool:
        """See InstanceRuntime."""
        return self._inner.is_away()

    async def close(self) -> None:
        """See InstanceRuntime."""
        await self._inner.close()


def _of_source(spec: InstanceSpec, source: str) -> InstanceSpec:
    """The instance with the model's own weights, which are there already."""
    container = spec.container
    if container is not None:
        volumes = [volume.replace(f"{spec.model}:", f"{source}:", 1) for volume in container.volumes]
        container = replace(container, volumes=tuple(volumes))
    return replace(spec, model=source, container=container)


def _planned(spec: InstanceSpec, folder: Path) -> WeightsPlan:
    """Raises LaunchFailedError: they can't be made as they were planned at start."""
    assert spec.weights is not None
    try:
        plan = plan_for(Path(spec.weights.source), Quantize(spec.weights.quantize))
    except WeightsError as error:
        raise LaunchFailedError(f"{spec.name}: {error}", permanent=True) from error
    if plan.name != folder.name:
        text = f"{spec.name}: its model {spec.weights.source} has changed since the start: `syshaxctl reload`"
        raise LaunchFailedError(text, permanent=True)
    return plan
