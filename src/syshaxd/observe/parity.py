# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""ParityService: sends the same prompts to each generation of each instance once, and compares the answers."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from syshaxd.core.backoff import backoff_s
from syshaxd.core.errors import BadRequestError, ConflictError, NotFoundError, SyshaxError
from syshaxd.core.handover.pairs import Refusal
from syshaxd.core.parity import PROMPTS, Agreement, Bounds, ParityReport, PromptAnswer, compare, unknown
from syshaxd.core.types import InstanceSpec
from syshaxd.instances.registry import InstanceRegistry, RegisteredInstance
from syshaxd.observe.parity_ask import PATH

Ask = Callable[[InstanceSpec], Awaitable[tuple[PromptAnswer, ...]]]
"""Sends the prompts to an instance; raises SyshaxError if that fails."""

_log = logging.getLogger(__name__)
_FIRST_RETRY_S = 30.0
_LAST_RETRY_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Identity:
    """Identity of what computes: equal identities give equal answers."""

    spec: InstanceSpec
    generation: int
    losses: int
    models: frozenset[tuple[Any, ...]]

    @classmethod
    def of(cls, instance: RegisteredInstance) -> Self:
        """The identity of an instance at this moment; includes its models once they are known."""
        models = instance.catalog.base_models if instance.discovered else frozenset()
        return cls(instance.spec, instance.status.generation, instance.losses, models)


@dataclass(slots=True, eq=False)
class _Known:
    """The state of one instance's comparison."""

    identity: _Identity
    ready: bool = False
    answers: tuple[PromptAnswer, ...] = ()
    """Empty: not asked yet, or it failed."""
    fault: str = ""
    """Why the last attempt failed."""
    failures: int = 0
    ask_at_s: float = 0.0
    """Event loop time of the next attempt."""

    @property
    def spec(self) -> InstanceSpec:
        """The instance."""
        return self.identity.spec


class ParityService:
    """Keeps a report for each pair of instances. Lives in one event loop."""

    def __init__(self, registry: InstanceRegistry, ask_instance: Ask, bounds: Bounds, *, enabled: bool = True) -> None:
        """Asks no instance yet.

        Args:
            registry: The instances; pairs are those that serve the same model.
            ask_instance: Asks one of them.
            bounds: Limits of noise and of allowed differences.
            enabled: Whether to compare in the background, and to refuse pairs that were not compared.
        """
        self._registry = registry
        self._known: dict[str, _Known] = {}
        self._ask = ask_instance
        self._bounds = bounds
        self._enabled = enabled
        self._loop = asyncio.get_running_loop()
        self._reports: dict[tuple[str, str], ParityReport] = {}
        self._subscribers: list[Callable[[], None]] = []
        self._asking = asyncio.Lock()
        self._woken = asyncio.Event()
        self.on_instances()
        registry.subscribe(self.on_instances)

    def reports(self) -> tuple[ParityReport, ...]:
        """The latest report on the present generations of each pair."""
        return tuple(self._reports.values())

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` when a report is added or dropped."""
        self._subscribers.append(on_change)

    def refusal(self, first: str, second: str) -> Refusal:
        """Why no request may move between the two."""
        if not self._enabled:
            return Refusal()
        report = next((report for pair, report in self._reports.items() if {*pair} == {first, second}), None)
        if report is None:
            return Refusal(f"{first} and {second} have not been compared yet", lasting=False)
        verdict = report.verdict
        if verdict.allowed:
            return Refusal()
        reason = f"{first} and {second} do not compute the same: {verdict.reasons[-1]}"
        return Refusal(reason, lasting=verdict.agreement is not Agreement.UNKNOWN)

    def on_instances(self) -> None:
        """Handles a change of the registry: new generations, and instances with other models, are asked again.

        What was known of removed and changed instances is dropped.
        """
        before, self._known = self._known, {}
        for name, instance in self._registry.instances.items():
            known, identity = before.get(name), _Identity.of(instance)
            self._known[name] = known if known is not None and known.identity == identity else _Known(identity)
            self._known[name].ready = instance.takes_requests
        gone = {name for name, known in before.items() if self._known.get(name) is not known}
        if gone_pairs := [pair for pair in self._reports if gone.intersection(pair)]:
            for pair in gone_pairs:
                del self._reports[pair]
            self._tell()
        if any(known.ready and not known.answers for known in self._known.values()):
            self._woken.set()

    async def run(self) -> None:
        """Asks instances that became ready, one at a time, until cancelled."""
        while True:
            self._woken.clear()
            waiting = [
                known
                for known in self._known.values()
                if self._enabled and known.ready and not known.answers and self._is_compared(known)
            ]
            due = [known for known in waiting if known.ask_at_s <= self._loop.time()]
            if due:
                await self._learn(due[0])
                continue
            try:
                async with asyncio.timeout_at(min((known.ask_at_s for known in waiting), default=None)):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def _is_compared(self, known: _Known) -> bool:
        """Whether another instance serves its model, and it generates text."""
        spec = known.spec
        return any(
            other is not known and other.spec.served_model == spec.served_model for other in self._known.values()
        ) and self._registry.instances[spec.name].catalog.serves_route("POST", PATH)

    async def compare(self, first: str, second: str) -> ParityReport:
        """Asks both now, even if reports exist.

        Raises:
            NotFoundError: No such instance.
            BadRequestError: Twice the same instance.
            ConflictError: One of them is not ready, or they serve different models.
        """
        if first == second:
            raise BadRequestError(f"{first} can only be compared with another instance")
        pair = tuple(name for name in self._known if name in {first, second})
        for name in (first, second):
            if name not in pair:
                raise NotFoundError(f"no instance {name!r}; available: {', '.join(self._known)}")
            if not self._known[name].ready:
                raise ConflictError(f"{name} is not ready: wait for it, or start it with `syshaxctl start {name}`")
        for known in [self._known[name] for name in pair]:
            await self._learn(known)
        report = self._reports.get((pair[0], pair[1]))
        if report is None:
            raise ConflictError(f"{first} and {second} serve different models, or one of them has just been restarted")
        return report

    async def _learn(self, known: _Known) -> None:
        """Asks an instance and compares it with those already asked. Stops if its generation ends."""
        name = known.spec.name
        answers: tuple[PromptAnswer, ...] = ()
        fault = ""
        async with self._asking:
            if known is not self._known.get(name):
                return
            try:
                answers = await self._ask(known.spec)
            except SyshaxError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 - one instance's odd answer must not end the comparing
                _log.exception("parity: could not ask %s: internal error", name)
                fault = f"{type(error).__name__}: {error}"
        if known is not self._known.get(name):
            return
        known.answers, known.fault = answers, fault
        if fault:
            known.failures += 1
            pause_s = backoff_s(known.failures, first_s=_FIRST_RETRY_S, cap_s=_LAST_RETRY_S)
            known.ask_at_s = self._loop.time() + pause_s
        else:
            known.failures = 0
        for one, other in itertools.combinations(self._known.values(), 2):
            if known in (one, other) and one.spec.served_model == other.spec.served_model:
                await self._compare(one, other)

    async def _compare(self, first: _Known, second: _Known) -> None:
        names = (first.spec.name, second.spec.name)
        faults = [known.fault for known in (first, second) if known.fault]
        if faults:
            report = ParityReport(first=names[0], second=names[1], verdict=unknown("; ".join(faults)))
        elif first.answers and second.answers:
            # Some milliseconds of arithmetic: in a thread, so that streams are not delayed.
            weights = (first.spec.weights_text, second.spec.weights_text)
            report = await asyncio.to_thread(
                compare, names, PROMPTS, first.answers, second.answers, self._bounds, weights=weights
            )
        else:
            return
        if first is self._known.get(names[0]) and second is self._known.get(names[1]):
            before = self._reports.get(names)
            self._reports[names] = replace(report, compared_at_s=time.time())
            if before is None or before.verdict != report.verdict:
                _log_verdict(report)
            self._tell()

    def _tell(self) -> None:
        for on_change in self._subscribers:
            try:
                on_change()
            except Exception:  # noqa: BLE001 - who listens must not break what it listens to
                _log.exception("a subscriber to comparisons failed")


def _log_verdict(report: ParityReport) -> None:
    verdict = report.verdict
    level = logging.INFO if verdict.allowed else logging.WARNING
    text = "; ".join(verdict.reasons)
    _log.log(level, "parity of %s and %s: %s: %s", report.first, report.second, verdict.agreement, text)
