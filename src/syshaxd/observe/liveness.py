# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Finds instances that answer /health and generate nothing: a probe with one token, where no other progress shows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, SyshaxError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.loads import Snapshot
from syshaxd.core.report.describe import excerpt
from syshaxd.core.types import InstanceSpec, State
from syshaxd.instances.registry import InstanceRegistry, RegisteredInstance
from syshaxd.system.connecting import NO_ANSWER, why_no_answer

_log = logging.getLogger(__name__)
_ROUTE = "/v1/completions"
_MAX_ANSWER_BYTES = 64 * 1024
_TICK_S = 1.0
TOKEN_TIMEOUT_S = 30.0
"""Within which an instance must generate a token, if it has nothing else to do."""
# Otherwise: vLLM begins with no other request while it computes a long prompt.
_BUSY_TIMEOUT_S = 120.0


async def generate_token(
    session: aiohttp.ClientSession, spec: InstanceSpec, timeout_s: float = TOKEN_TIMEOUT_S
) -> None:
    """Returns when an instance has generated one token.

    Raises:
        InstanceFailedError: It could not be reached, or answered with an error.
        InstanceTimeoutError: It did not answer in time.
    """
    url = spec.address.url(_ROUTE)
    body = {"model": spec.served_model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.post(url, json=body, headers=own_headers(spec), timeout=timeout) as answer:
            said = await answer.content.read(_MAX_ANSWER_BYTES)
    except TimeoutError:
        raise InstanceTimeoutError(f"POST {url}: no token within {timeout_s:g} s") from None
    except NO_ANSWER as error:
        raise InstanceFailedError(f"POST {url}: {why_no_answer(error, spec.host)}") from error
    if answer.status >= 500:
        raise InstanceFailedError(f"POST {url}: status {answer.status} {excerpt(said)}".rstrip())


@dataclass(slots=True)
class _Seen:
    """What is known of one generation of an instance."""

    generation: int
    tokens: int
    """Of prompts and answers, by its own count."""
    at_s: float
    """When it made progress last: monotonic."""
    asking: "asyncio.Task[None] | None" = None
    fault: SyshaxError | None = None


class Liveness:
    """Probes instances that show no progress. Lives in one event loop.

    An instance that generates tokens needs no probe; an idle one gets a request for one token each `interval_s`. While
    its answer is a fault, `probe` fails, and the supervisor does what it does with other failed probes: it takes the
    instance out of service, and ends it unless it computes.
    """

    def __init__(
        self,
        health: Callable[[InstanceSpec], Awaitable[None]],
        ask: Callable[[InstanceSpec, float], Awaitable[None]],
        *,
        registry: InstanceRegistry,
        snapshot: Callable[[], Snapshot],
        report: Callable[[str], None],
        interval_s: float | None,
    ) -> None:
        """Has probed nothing.

        Args:
            health: Probes an instance's health.
            ask: Has an instance generate one token within so many seconds; raises SyshaxError.
            registry: All instances.
            snapshot: The latest readings.
            report: Called with the name of an instance that generates nothing: it is to be probed at once.
            interval_s: Seconds without progress after which an instance is asked; None: never.
        """
        self._health = health
        self._ask = ask
        self._registry = registry
        self._snapshot = snapshot
        self._report = report
        self.interval_s = interval_s
        """May be changed at any time."""
        self._seen: dict[str, _Seen] = {}
        self._loop = asyncio.get_running_loop()

    async def probe(self, spec: InstanceSpec) -> None:
        """Returns if the instance is healthy, and generates tokens as far as is known.

        Raises:
            SyshaxError: It is not, or does not.
        """
        await self._health(spec)
        seen = self._seen.get(spec.name)
        if seen is None or seen.fault is None or self.interval_s is None:
            return
        text = f"it answers /health but generates nothing: {seen.fault}"
        raise type(seen.fault)(text) if isinstance(seen.fault, InstanceTimeoutError) else InstanceFailedError(text)

    async def run(self) -> None:
        """Looks for progress periodically, until cancelled."""
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                if self.interval_s is not None:
                    self._look(self.interval_s)
        finally:
            for seen in self._seen.values():
                if seen.asking is not None:
                    seen.asking.cancel()

    def _look(self, interval_s: float) -> None:
        now_s = self._loop.time()
        running = {
            instance.spec.name: instance
            for instance in self._registry.instances.values()
            if instance.discovered and _is_up(instance)
        }
        for name in self._seen.keys() - running.keys():
            self._forget(name)
        for name, instance in running.items():
            seen = self._seen.get(name)
            tokens = self._tokens(name)
            if seen is not None and seen.generation != instance.status.generation:
                self._forget(name)
                seen = None
            if seen is None:
                self._seen[name] = _Seen(instance.status.generation, tokens, now_s)
            elif tokens != seen.tokens:
                seen.tokens, seen.at_s, seen.fault = tokens, now_s, None
            elif now_s - seen.at_s >= interval_s and seen.asking is None and _generates(instance):
                seen.asking = self._loop.create_task(self._ask_token(instance.spec, seen), name=f"token of {name}")

    def _forget(self, name: str) -> None:
        seen = self._seen.pop(name)
        if seen.asking is not None:
            seen.asking.cancel()

    async def _ask_token(self, spec: InstanceSpec, seen: _Seen) -> None:
        tokens = seen.tokens
        load = self._snapshot().load(spec.name)
        try:
            await self._ask(spec, _BUSY_TIMEOUT_S if load.running or load.waiting else TOKEN_TIMEOUT_S)
        except SyshaxError as error:
            if self._tokens(spec.name) == tokens:
                known, seen.fault = seen.fault, error
                if known is None:
                    _log.warning("%s generates nothing: %s", spec.name, error, extra={"instance": spec.name})
                    self._report(spec.name)
        else:
            seen.at_s, seen.fault = self._loop.time(), None
        finally:
            seen.asking = None

    def _tokens(self, name: str) -> int:
        load = self._snapshot().instances.get(name)
        return 0 if load is None else (load.prompt_tokens or 0) + (load.generation_tokens or 0)


def _is_up(instance: RegisteredInstance) -> bool:
    return instance.status.state in {State.READY, State.UNHEALTHY}


def _generates(instance: RegisteredInstance) -> bool:
    """Whether it has the route: models that compute vectors do not."""
    return instance.catalog.serves_route("POST", _ROUTE) and instance.catalog.serves_model(instance.spec.served_model)
