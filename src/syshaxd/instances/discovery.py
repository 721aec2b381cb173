# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Discovery: asks instances what they serve, before they become READY and while they run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from syshaxd.core.errors import InstanceFailedError, SyshaxError
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.types import HandoverProtocol, InstanceSpec, State
from syshaxd.instances.catalog import Catalog, shown_names
from syshaxd.instances.registry import InstanceRegistry

_log = logging.getLogger(__name__)
# How long a probe waits for the first answer; the question continues meanwhile.
_PATIENCE_S = 2.0
INTERVAL_S = 10.0
"""Between two questions to an instance that runs: adapters are loaded, and other servers start behind a port."""
# Least time between two lookups that requests for unknown models cause.
_LOOK_UP_INTERVAL_S = 1.0

Health = Callable[[InstanceSpec], Awaitable[None]]
"""Returns if the instance is healthy; raises SyshaxError, OSError or TimeoutError with the reason otherwise."""


class Discovery:
    """Fills the registry with what instances serve. Lives in one event loop."""

    def __init__(
        self,
        registry: InstanceRegistry,
        *,
        health: Health,
        read_catalog: Callable[[InstanceSpec], Awaitable[Catalog]],
        read_facts: Callable[[InstanceSpec], Awaitable[InstanceFacts]],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Asks no instance yet.

        Args:
            registry: Gets the answers.
            health: Probes an instance's health.
            read_catalog: Asks an instance for its models and routes.
            read_facts: Reads an instance's capabilities.
            interval_s: Between two questions to a running instance.
        """
        self._registry = registry
        self._health = health
        self._read_catalog = read_catalog
        self._read_facts = read_facts
        self._interval_s = interval_s
        self._told: Callable[[str, str], None] = lambda _name, _text: None
        self._asking: dict[str, tuple[InstanceSpec, asyncio.Task[None]]] = {}
        self._looked_up_at_s = -_LOOK_UP_INTERVAL_S
        self._loop = asyncio.get_running_loop()
        registry.subscribe(self._on_change)

    def on_other_models(self, callback: Callable[[str, str], None]) -> None:
        """Has `callback` called with an instance's name and a sentence when it begins to serve other models."""
        self._told = callback

    async def probe(self, spec: InstanceSpec) -> None:
        """Returns if the instance is healthy and has reported what it serves: it takes requests.

        Raises:
            SyshaxError: It is not healthy, or has not answered yet.
        """
        await self._health(spec)
        known = self._registry.instances.get(spec.name)
        if known is None or known.spec != spec or known.discovered:
            return
        task = self._ask(spec)
        await asyncio.wait((task,), timeout=_PATIENCE_S)
        if not task.done():
            raise InstanceFailedError("it is healthy but has not reported yet what it serves")

    async def run(self) -> None:
        """Asks instances periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.refresh()

    async def look_up(self) -> bool:
        """Asks all instances again unless just done; returns whether it did."""
        now_s = self._loop.time()
        if now_s - self._looked_up_at_s < _LOOK_UP_INTERVAL_S:
            return False
        self._looked_up_at_s = now_s
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self.refresh()
        return True

    async def refresh(self) -> None:
        """Asks every instance that takes requests, and records changes."""
        await asyncio.gather(*(self._refresh(spec) for spec in self._registry.ready))

    async def _refresh(self, spec: InstanceSpec) -> None:
        try:
            catalog = await self._read_catalog(spec)
        except SyshaxError as error:
            _log.debug("%s", error)  # its health is the supervisor's business; its earlier answer stays valid
            return
        known = self._registry.instances.get(spec.name)
        if known is None or known.spec != spec or not known.takes_requests:
            return
        if catalog.listed == known.catalog.listed and catalog.plain == known.catalog.plain:
            return
        if set(catalog.models) != set(known.catalog.models):
            text = f"now serves {catalog.shown_models}"
            if gone := set(known.catalog.models) - set(catalog.models):
                text += f", no longer {shown_names(sorted(gone))}"
            _log.info("%s %s", spec.name, text, extra={"instance": spec.name})
            self._told(spec.name, text)
        same_base = catalog.base_models == known.catalog.base_models
        facts = known.facts if same_base else await self._facts(spec)
        self._registry.learn(spec, catalog, facts)

    def _on_change(self) -> None:
        """Asks an instance that is READY but was never asked, because no probe went through here."""
        for instance in self._registry.instances.values():
            if instance.status.state is State.READY and not instance.discovered:
                self._ask(instance.spec)

    def _ask(self, spec: InstanceSpec) -> "asyncio.Task[None]":
        asked, task = self._asking.get(spec.name, (None, None))
        if task is None or task.done() or asked != spec:
            task = self._loop.create_task(self._discover(spec), name=f"discover {spec.name}")
            self._asking[spec.name] = (spec, task)
        return task

    async def _discover(self, spec: InstanceSpec) -> None:
        catalog: Catalog | None = None
        facts: InstanceFacts | None = None
        try:
            catalog = await self._read_catalog(spec)
        except SyshaxError as error:
            _log.warning("%s; assuming what the configuration says", error, extra={"instance": spec.name})
        try:
            facts = await self._facts(spec)
        finally:
            self._registry.learn(spec, catalog, facts)

    async def _facts(self, spec: InstanceSpec) -> InstanceFacts | None:
        if spec.protocol is HandoverProtocol.NONE:
            return None
        try:
            return await self._read_facts(spec)
        except SyshaxError as error:
            _log.warning("%s: it cannot hand over: %s", spec.name, error, extra={"instance": spec.name})
            return None

    async def close(self) -> None:
        """Stops asking."""
        tasks = [task for _, task in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
