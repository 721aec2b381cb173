# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The circuit breakers of all instances: takes those that fail requests out of placement, and probes them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from syshaxd.core.errors import SyshaxError
from syshaxd.core.placement.breaker import Breaker, may_open
from syshaxd.core.types import InstanceSpec, State
from syshaxd.instances.registry import InstanceRegistry

_log = logging.getLogger(__name__)

Ask = Callable[[InstanceSpec], Awaitable[None]]
"""Returns if the instance has generated a token; raises SyshaxError, OSError or TimeoutError with the reason."""


class Breakers:
    """One breaker for each instance. Lives in one event loop."""

    def __init__(
        self, registry: InstanceRegistry, ask: Ask, *, failures: int, tell: Callable[[str, str], None]
    ) -> None:
        """All are closed.

        Args:
            registry: Leaves instances with open breakers out of those that are ready.
            ask: Probes an instance with one token.
            failures: So many failed requests within the window open a breaker; 0: none do.
            tell: Called with an instance's name and a message when its breaker opens or closes.
        """
        self._registry = registry
        self._ask = ask
        self._failures = failures
        self._tell = tell
        self._breakers: dict[str, Breaker] = {}
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        registry.subscribe(self._on_instances)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why breakers are open, by instance."""
        return {name: breaker.reason for name, breaker in self._breakers.items() if breaker.is_open}

    def set_failures(self, failures: int) -> None:
        """Opens breakers after another number of failures from now on."""
        self._failures = failures
        for breaker in self._breakers.values():
            breaker.failures = failures

    def succeeded(self, name: str) -> None:
        """An instance has answered a request, be it with an error of the client's."""
        breaker = self._breakers.get(name)
        if breaker is not None:
            breaker.succeeded()

    def failed(self, name: str, why: str) -> None:
        """An instance has failed a request."""
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = Breaker(self._failures)
        now_s = self._loop.time()
        if breaker.failed(now_s) and may_open(name, self._models(), self.reasons.keys()):
            breaker.open(why, now_s)
            self._publish(name, f"gets no requests: {breaker.reason}")

    async def run(self) -> None:
        """Probes instances whose breakers are open, for ever."""
        while True:
            self._news.clear()
            times = [breaker.probe_at_s for breaker in self._breakers.values() if breaker.is_open]
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(times, default=None)):
                    await self._news.wait()
            now_s = self._loop.time()
            due = [name for name, breaker in self._breakers.items() if breaker.is_open and breaker.probe_at_s <= now_s]
            await asyncio.gather(*map(self._probe, due))

    async def _probe(self, name: str) -> None:
        breaker = self._breakers.get(name)
        if breaker is None:
            return
        try:
            await self._ask(self._registry.specs[name])
        except (SyshaxError, OSError) as error:
            if breaker.is_open:
                breaker.probe_failed(str(error) or type(error).__name__, self._loop.time())
            return
        if breaker.is_open and self._breakers.get(name) is breaker:  # else it was restarted meanwhile
            self._close(name, "gets requests again: it has generated a token")

    def _close(self, name: str, text: str) -> None:
        self._breakers[name].close(self._loop.time())
        self._publish(name, text)

    def _publish(self, name: str, text: str) -> None:
        _log.warning("%s %s", name, text, extra={"instance": name})
        self._tell(name, text)
        self._news.set()
        self._registry.set_open(frozenset(self.reasons))

    def _models(self) -> dict[str, frozenset[str]]:
        """What the instances that can take requests serve."""
        instances = self._registry.instances
        return {
            name: frozenset(instance.catalog.models) for name, instance in instances.items() if instance.takes_requests
        }

    def _on_instances(self) -> None:
        """A new generation has a new breaker; one that cannot be spared any more gets requests again."""
        instances = self._registry.instances
        for name in list(self._breakers):
            instance = instances.get(name)
            if instance is None or instance.status.state in {State.STARTING, State.STOPPED, State.FAILED}:
                was_open = self._breakers.pop(name).is_open
                if was_open:
                    self._registry.set_open(frozenset(self.reasons))
                    return  # which has called this again
        models = self._models()
        for name in self.reasons:
            if name in models and not may_open(name, models, self.reasons.keys()):
                self._close(name, "gets requests again, as no other instance serves its models")
                return
