# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""InstanceRegistry: all instances, their states, what they serve, and which take requests."""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syshaxd.core.errors import NotFoundError
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.lifecycle import ENDED
from syshaxd.core.lifecycle.carried import carried_models
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.report.engine_status import CarriedModel
from syshaxd.core.types import InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.instances.catalog import Catalog, assumed, shown_names

_log = logging.getLogger(__name__)
# Cached answers to "which instances serve this model and route?"; paths with IDs must not fill memory.
_MAX_KEPT = 1000
_MAX_SHOWN_ROUTES = 20
# A prompt is known by its bytes: it may have so many times the tokens that are expected of them.
_TOKENS_MARGIN = 2


@dataclass(frozen=True, slots=True)
class RegisteredInstance:
    """All facts about one instance."""

    status: InstanceStatus
    catalog: Catalog
    """What it serves: as discovered, or until then as configured."""
    facts: InstanceFacts | None = None
    """Its hand-over capabilities; None: unknown or none."""
    discovered: bool = False
    """It was asked what it serves, whether or not it answered."""
    losses: int = 0
    """How often it was lost: what is found at its address then may be another server. Only of external ones."""

    @property
    def spec(self) -> InstanceSpec:
        """What it is."""
        return self.status.spec

    def length(self, model: str) -> float:
        """Tokens of prompt and answer that it holds; infinity: it does not tell."""
        length = self.catalog.models.get(model or self.spec.served_model, {}).get("max_model_len")
        return length if isinstance(length, int) and length > 0 else math.inf

    @property
    def takes_requests(self) -> bool:
        """Whether requests can go to it now."""
        return self.discovered and self.status.state is State.READY


class InstanceRegistry:
    """The one list of instances. Publishes a new immutable value at each change. Lives in one event loop.

    The supervisor writes states, discovery what instances serve; all other parts read it or subscribe.
    """

    def __init__(self, specs: Sequence[InstanceSpec]) -> None:
        """Starts with instances without any known facts."""
        self.instances: Mapping[str, RegisteredInstance] = {
            spec.name: RegisteredInstance(InstanceStatus(spec=spec), assumed(spec)) for spec in specs
        }
        """All instances, by name, in the order of the configuration."""
        self.open_circuits: frozenset[str] = frozenset()
        """Instances that fail requests and get none, although they are READY."""
        self._on_demand: frozenset[str] = frozenset()
        self._held: frozenset[str] = frozenset()
        self._subscribers: list[Callable[[], None]] = []
        self._derive()

    def _derive(self) -> None:
        self.specs: Mapping[str, InstanceSpec] = {name: instance.spec for name, instance in self.instances.items()}
        """The settings of all instances, by name."""
        self.ready: tuple[InstanceSpec, ...] = tuple(
            instance.spec
            for name, instance in self.instances.items()
            if instance.takes_requests and name not in self.open_circuits and name not in self._held
        )
        """Those that requests can go to now."""
        self.startable: tuple[InstanceSpec, ...] = tuple(
            spec for name, spec in self.specs.items() if name in self._on_demand
        )
        """Those that requests start."""
        self.carried: Mapping[str, CarriedModel] = carried_models(self.specs.values(), self.ready)
        """The models that CPUs answer alone, as none of their GPUs takes requests."""
        self._kept: dict[tuple[str, str, str, str | None, bool], tuple[tuple[InstanceSpec, ...], float]] = {}
        """Candidates; and the tokens that all of them hold, or infinity if they hold equally many."""
        self._changed = asyncio.Event()

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` after each change."""
        self._subscribers.append(on_change)

    async def changed(self) -> None:
        """Returns at the next change."""
        await self._changed.wait()

    # Writers.

    def on_instances(self, statuses: Sequence[InstanceStatus]) -> None:
        """Replaces the list of instances (called by the supervisor)."""
        self._publish({status.spec.name: self._with_status(status) for status in statuses})

    def on_status(self, status: InstanceStatus) -> None:
        """Updates an instance's status (called by the supervisor)."""
        if status.spec.name in self.instances:
            self._publish({**self.instances, status.spec.name: self._with_status(status)})

    def _with_status(self, status: InstanceStatus) -> RegisteredInstance:
        known = self.instances.get(status.spec.name)
        if known is None or known.spec != status.spec:
            return RegisteredInstance(status, assumed(status.spec))
        is_lost = status.state is State.UNHEALTHY and known.status.state is not State.UNHEALTHY
        if is_lost and status.spec.runtime is RuntimeKind.EXTERNAL:
            return replace(known, status=status, facts=None, discovered=False, losses=known.losses + 1)
        if status.state in ENDED and status.spec.runtime is not RuntimeKind.EXTERNAL:
            # What was loaded while it ran, such as adapters, is gone.
            return replace(known, status=status, catalog=known.catalog.only(assumed(status.spec).models))
        return replace(known, status=status)

    def learn(self, spec: InstanceSpec, catalog: Catalog | None, facts: InstanceFacts | None) -> None:
        """An instance was asked what it serves (discovery).

        Args:
            spec: The instance as it was asked; if it has other settings meanwhile, this changes nothing.
            catalog: What it serves; None: it does not tell.
            facts: What decides about hand-overs; None: it does not tell, or hands nothing over.
        """
        known = self.instances.get(spec.name)
        if known is not None and known.spec == spec:
            news = replace(known, catalog=catalog or known.catalog, facts=facts, discovered=True)
            self._publish({**self.instances, spec.name: news})

    def set_open(self, names: frozenset[str]) -> None:
        """Replaces the list of instances that get no requests, as they fail them."""
        if names != self.open_circuits:
            self.open_circuits = names
            self._publish(self.instances)

    def set_on_demand(self, startable: frozenset[str], held: frozenset[str]) -> None:
        """Replaces the lists of instances that requests start, and of those of them that are about to stop."""
        if (startable, held) != (self._on_demand, self._held):
            self._on_demand, self._held = startable, held
            self._publish(self.instances)

    def _publish(self, instances: Mapping[str, RegisteredInstance]) -> None:
        self.instances = instances
        changed = self._changed
        self._derive()
        changed.set()
        for on_change in tuple(self._subscribers):
            try:
                on_change()
            except Exception:  # noqa: BLE001 - a subscriber that fails must not keep the news from the others
                _log.exception("a subscriber to the registry of instances failed")

    # Readers.

    def candidates(self, request: InferenceRequest, tried: Sequence[str] = ()) -> tuple[InstanceSpec, ...]:
        """The ready instances that serve the request, without those tried, in the order of the configuration.

        One for whose context the request may be too long is among them only if no other holds more.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        key = (request.model, request.method, request.path, request.pinned, request.full_weights)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            kept = self._kept[key] = self._find(request)
        found, held_by_all = kept
        needed: float = request.prompt_tokens * _TOKENS_MARGIN + (request.max_tokens or 0)
        if needed > held_by_all:
            lengths = {spec.name: self.instances[spec.name].length(request.model) for spec in found}
            needed = min(needed, max(lengths.values()))
            found = tuple(spec for spec in found if lengths[spec.name] >= needed)
        return tuple(spec for spec in found if spec.name not in tried) if tried else found

    def _find(self, request: InferenceRequest) -> tuple[tuple[InstanceSpec, ...], float]:
        self._check_known(request)
        found = self._able(self.ready, request)
        lengths = {self.instances[spec.name].length(request.model) for spec in found}
        return found, min(lengths) if len(lengths) > 1 else math.inf

    def carried_for(self, spec: InstanceSpec) -> tuple[str, ...]:
        """The GPU instances in whose place a CPU answers, as none of them takes requests."""
        carried = self.carried.get(spec.served_model)
        return carried.instead_of if carried is not None and spec.name in carried.by else ()

    def peers(self, request: InferenceRequest) -> tuple[RegisteredInstance, ...]:
        """All instances of the request's model and route, ready or not, whichever of them it insists on."""
        found = [instance for instance in self.instances.values() if self._serves(instance.spec, request)]
        if not request.model and found:
            model = self.specs.get(request.pinned or "", found[0].spec).served_model
            found = [instance for instance in found if instance.spec.served_model == model]
        return tuple(found)

    def waited_for(self, request: InferenceRequest, tried: Sequence[str] = ()) -> tuple[InstanceSpec, ...]:
        """The instances that serve the request once it has started them, without those tried."""
        serving = self._able(self.startable, request) if self.startable else ()
        return tuple(spec for spec in serving if spec.name not in tried)

    def _able(self, specs: Sequence[InstanceSpec], request: InferenceRequest) -> tuple[InstanceSpec, ...]:
        found = tuple(
            spec
            for spec in specs
            if request.pinned in {None, spec.name}
            and not (request.full_weights and spec.weights)
            and self._serves(spec, request)
        )
        if found and not request.model and request.method == "POST":
            default = self.models_without_name(request.method, request.path, request.pinned)[0]
            found = tuple(spec for spec in found if spec.served_model == default)
        return found

    def _serves(self, spec: InstanceSpec, request: InferenceRequest) -> bool:
        catalog = self.instances[spec.name].catalog
        return catalog.serves_model(request.model) and catalog.serves_route(request.method, request.path)

    def models_without_name(self, method: str, path: str, pinned: str | None) -> tuple[str, ...]:
        """The models that may answer a request which names none.

        A POST gets the first one of the configuration that has its route; all else may go to any of them.
        """
        found = dict.fromkeys(
            spec.served_model
            for name, spec in self.specs.items()
            if pinned in {None, name} and self.instances[name].catalog.serves_route(method, path)
        )
        return tuple(found)[:1] if method == "POST" else tuple(found)

    def models(self) -> list[Mapping[str, Any]]:
        """The models of the instances that are ready or started on demand; all instances' if there is none.

        Of several instances that serve a name, the one that holds most tokens describes it: long requests go there.
        """
        listed = {spec.name for spec in (*self.ready, *self.startable)}
        found: dict[str, tuple[float, Mapping[str, Any]]] = {}
        for name in [name for name in self.instances if name in listed] or list(self.instances):
            instance = self.instances[name]
            for key, model in instance.catalog.models.items():
                length = instance.length(key)
                if key not in found or found[key][0] < length < math.inf:
                    found[key] = length, model
        return [model for _, model in found.values()]

    def methods(self, path: str) -> frozenset[str] | None:
        """The methods that some instance has for a path; None: any, as one of them has not told its routes."""
        found: set[str] = set()
        for instance in self.instances.values():
            methods = instance.catalog.methods(path)
            if methods is None:
                return None
            found |= methods
        return frozenset(found)

    def _check_known(self, request: InferenceRequest) -> None:
        if request.pinned is not None and request.pinned not in self.specs:
            raise NotFoundError(
                f"no instance {request.pinned!r}; available: {', '.join(self.specs)}", code="instance_not_found"
            )
        asked = list(self.instances.values()) if request.pinned is None else [self.instances[request.pinned]]
        catalogs = [instance.catalog for instance in asked]
        if not any(catalog.serves_model(request.model) for catalog in catalogs):
            known = sorted({model for catalog in catalogs for model in catalog.models})
            what = f"the model {request.model!r} does not exist; available:"
            if request.pinned is not None:
                what = f"{request.pinned} does not serve the model {request.model!r}; it serves"
            raise NotFoundError(f"{what} {shown_names(known)}", param="model", code="model_not_found")
        if request.full_weights and all(instance.spec.weights for instance in asked):
            who = f"{request.pinned} has" if request.pinned else "all instances have"
            raise NotFoundError(
                f"{who} quantised weights, and the request asks for full ones", code="weights_not_found"
            )
        serving = [catalog for catalog in catalogs if catalog.serves_model(request.model)]
        if not any(catalog.serves_route(request.method, request.path) for catalog in serving):
            who = request.pinned or "no instance"
            not_served = "does not serve" if request.pinned else "serves"
            text = f"{who} {not_served} {request.method} {request.path}"
            if request.model:
                routes = sorted({path for catalog in serving for verb, path in catalog.plain if verb == "POST"})
                shown = [path for path in routes if path.startswith("/v1/")] or routes
                text = f"{text} for the model {request.model!r}; it has {', '.join(shown[:_MAX_SHOWN_ROUTES])}"
            raise NotFoundError(text, code="route_not_found")
