# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Starts and stops on-demand models: core/lifecycle/on_demand decides, the supervisor carries out."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from syshaxd.core.config import Config, named_models, on_demand_instances
from syshaxd.core.launch.bound import Bound
from syshaxd.core.launch.needs import on_demand_needs
from syshaxd.core.lifecycle.on_demand import OnDemand
from syshaxd.core.lifecycle.on_demand_models import (
    Cause,
    OnDemandModel,
    OnDemandPlan,
    Phase,
    RefuseWaiting,
    Seen,
    StartModel,
    StopModel,
    phase_of,
)
from syshaxd.core.report.engine_status import OnDemandStatus
from syshaxd.core.types import InstanceStatus
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.supervisor import Supervisor

_log = logging.getLogger(__name__)


class Demand(Protocol):
    """The requests for models."""

    def queued_for(self, model: str) -> int:
        """Requests that wait for a model."""

    @property
    def inflight(self) -> Mapping[str, int]:
        """Requests that run, by instance."""

    def refuse_waiting(self, model: str, text: str, retry_after_s: float) -> None:
        """Refuses the requests that wait for a model."""

    def tell_model(self, model: str, text: str) -> None:
        """Records an event."""


@dataclass(frozen=True, slots=True)
class OnDemandSettings:
    """What a configuration says of on-demand models."""

    plan: OnDemandPlan
    start_wait_s: Mapping[str, float]
    """How long a request may wait, by model."""

    @classmethod
    def of(cls, config: Config, bound: Bound) -> "OnDemandSettings":
        """The settings of a configuration whose instances are bound."""
        needs, capacity = on_demand_needs(config, bound)
        instances: dict[str, list[str]] = {}
        for name, model in on_demand_instances(config).items():
            instances.setdefault(model, []).append(name)
        configured = named_models(config)
        models = tuple(
            OnDemandModel(
                name=model,
                instances=tuple(names),
                needs=needs[model],
                idle_ttl_s=configured[model].idle_ttl_s,
                min_up_s=configured[model].min_up_s,
            )
            for model, names in instances.items()
        )
        times = config.lifecycle
        plan = OnDemandPlan(
            models=models,
            capacity=capacity,
            backoff_base_s=times.backoff_base_s,
            backoff_cap_s=times.backoff_cap_s,
        )
        return cls(plan, {model: configured[model].start_wait_s for model in instances})

    @property
    def instances(self) -> frozenset[str]:
        """The instances of all on-demand models."""
        return frozenset(name for model in self.plan.models for name in model.instances)


class OnDemandModels:
    """Lives in one event loop. Does nothing if no model is on-demand."""

    def __init__(
        self,
        settings: OnDemandSettings,
        registry: InstanceRegistry,
        supervisor: Supervisor,
        *,
        is_stopped: Callable[[str], bool],
    ) -> None:
        """Acts once `serve` is called.

        Args:
            settings: The models.
            registry: Learns which instances requests start, and which get none.
            supervisor: Starts and stops them.
            is_stopped: Whether an operator has stopped an instance.
        """
        self._settings = settings
        self._rule = OnDemand(settings.plan)
        self._registry = registry
        self._supervisor = supervisor
        self._is_stopped = is_stopped
        self._demand: Demand | None = None
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._starts, self._failures = Counter[str](), Counter[str]()
        self._stops: dict[str, Counter[str]] = {}
        self._phases: dict[str, Phase] = {}
        self._exchanged: frozenset[str] = frozenset()
        supervisor.subscribe(self._on_status)
        self._tell_registry()

    def serve(self, demand: Demand) -> None:
        """Starts and stops models by these requests from now on."""
        self._demand = demand
        self.poke()

    def set_settings(self, settings: OnDemandSettings) -> None:
        """Other models or settings hold from now on."""
        self._settings = settings
        self._rule.replace(settings.plan)
        self._tell_registry()
        self.poke()

    @contextmanager
    def exchanging(self, names: Iterable[str]) -> Iterator[None]:
        """While these instances get other settings, no request starts them."""
        self._exchanged = frozenset(names)
        try:
            yield
        finally:
            self._exchanged = frozenset()
            self.poke()

    def close(self) -> None:
        """Stops acting."""
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._demand = None

    # Questions.

    def wait_s(self, model: str) -> float | None:
        """How long a request may wait for a model; None: it is not on-demand."""
        return self._settings.start_wait_s.get(model)

    def explain(self, model: str) -> str:
        """Where a model stands, for a person; empty: it is not on-demand."""
        return self._rule.explain(model) if model in self._settings.start_wait_s else ""

    def statuses(self) -> dict[str, OnDemandStatus]:
        """Of all on-demand models, by name."""
        demand = self._demand
        return {
            model: OnDemandStatus(
                text=self._rule.explain(model),
                queued=0 if demand is None else demand.queued_for(model),
                starts=self._starts[model],
                failures=self._failures[model],
                stops={cause: self._stops.get(model, Counter())[cause] for cause in Cause},
            )
            for model in self._settings.start_wait_s
        }

    # Acting.

    def poke(self) -> None:
        """Something may have changed: looks soon what is to be done."""
        if self._soon is None and self._demand is not None and self._settings.plan.models:
            self._soon = self._loop.call_soon(self._step)

    def _on_status(self, status: InstanceStatus) -> None:
        self.poke()

    def _step(self) -> None:
        self._soon = None
        demand = self._demand
        if demand is None:
            return
        seen = {model.name: self._see(model, demand) for model in self._settings.plan.models}
        self._count_failures(seen)
        effects = self._rule.step(seen, self._loop.time())
        self._tell_registry()  # what is to be stopped must not get a request any more
        for effect in effects:
            self._carry_out(effect, demand)
        self._set_timer()

    def _see(self, model: OnDemandModel, demand: Demand) -> Seen:
        statuses = [self._supervisor.status(name) for name in model.instances]
        inflight = demand.inflight
        phase = phase_of([(status.state, status.wanted) for status in statuses])
        if phase in {Phase.DOWN, Phase.FAILED} and not self._exchanged.isdisjoint(model.instances):
            phase = Phase.ENDING
        return Seen(
            phase=phase,
            launches=sum(status.generation for status in statuses),
            queued=demand.queued_for(model.name),
            inflight=sum(inflight.get(name, 0) for name in model.instances),
            available=not all(map(self._is_stopped, model.instances)),
            reason="; ".join(f"{status.spec.name}: {status.reason}" for status in statuses if status.reason),
        )

    def _count_failures(self, seen: Mapping[str, Seen]) -> None:
        for model, now in seen.items():
            if now.phase in {Phase.RETRYING, Phase.FAILED} and self._phases.get(model) is not now.phase:
                self._failures[model] += 1
            self._phases[model] = now.phase

    def _carry_out(self, effect: StartModel | StopModel | RefuseWaiting, demand: Demand) -> None:
        match effect:
            case StartModel():
                self._starts[effect.model] += 1
                plural = "" if effect.queued == 1 else "s"
                demand.tell_model(effect.model, f"starting for {effect.queued} request{plural}")
                for name in self._names(effect.model):
                    if not self._is_stopped(name):
                        self._supervisor.start(name)
            case StopModel():
                self._stops.setdefault(effect.model, Counter())[effect.cause] += 1
                demand.tell_model(effect.model, effect.text)
                for name in self._names(effect.model):
                    if not self._is_stopped(name):
                        self._supervisor.stop(name, drain=True, reason=effect.text)
            case RefuseWaiting():
                _log.warning("%s", effect.text)
                demand.refuse_waiting(effect.model, effect.text, effect.retry_after_s)

    def _names(self, model: str) -> tuple[str, ...]:
        return next(each.instances for each in self._settings.plan.models if each.name == model)

    def _tell_registry(self) -> None:
        held = self._rule.held
        models = self._settings.plan.models
        self._registry.set_on_demand(
            startable=frozenset(name for model in models for name in model.instances if not self._is_stopped(name)),
            held=frozenset(name for model in models if model.name in held for name in model.instances),
        )

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rule.wake_at_s < math.inf:
            self._timer = self._loop.call_at(self._rule.wake_at_s, self.poke)
