# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which READY instances serve which model and route."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from syshaxd.core.errors import NotFoundError
from syshaxd.core.placement import InferenceRequest
from syshaxd.core.types import InstanceSpec
from syshaxd.runner.catalog import Catalog, assumed

# Kept answers to "who serves this model and route?"; paths with ids in them must not fill memory.
_MAX_KEPT = 1000


class Offers:
    """What the instances offer. Lives in one event loop."""

    def __init__(self, specs: Sequence[InstanceSpec]) -> None:
        self.specs: Mapping[str, InstanceSpec] = {spec.name: spec for spec in specs}
        """All instances, by name."""
        self.ready: tuple[InstanceSpec, ...] = ()
        """Those that requests can go to now."""
        self._catalogs: dict[str, Catalog] = {spec.name: assumed(spec) for spec in specs}
        self._kept: dict[tuple[str, str, str, str | None], tuple[InstanceSpec, ...]] = {}
        self._changed = asyncio.Event()

    def set_instances(self, specs: Sequence[InstanceSpec]) -> None:
        """Offers these from now on; of those that changed nothing is known yet."""
        self._catalogs = {
            spec.name: self._catalogs[spec.name] if spec in self.ready else assumed(spec) for spec in specs
        }
        self.specs = {spec.name: spec for spec in specs}
        self._set_ready(tuple(spec for spec in specs if spec in self.ready))

    def add(self, spec: InstanceSpec, catalog: Catalog | None) -> None:
        """The instance is READY, and serves this by its own account; None: it has not told."""
        if catalog is not None:
            self._catalogs[spec.name] = catalog
        self._set_ready(tuple(other for other in self.specs.values() if other in self.ready or other == spec))

    def remove(self, spec: InstanceSpec) -> None:
        """The instance is not READY any more."""
        self._set_ready(tuple(other for other in self.ready if other.name != spec.name))

    async def changed(self) -> None:
        """Returns when an instance has become READY, or is no longer."""
        await self._changed.wait()

    def candidates(self, request: InferenceRequest, tried: Sequence[str] = ()) -> tuple[InstanceSpec, ...]:
        """The ready instances that serve the request, without those tried, in the order of the configuration.

        Raises:
            NotFoundError: No instance has such a model or route.
        """
        key = (request.model, request.method, request.path, request.pinned)
        found = self._kept.get(key)
        if found is None:
            self._check_known(request)
            found = tuple(
                spec
                for spec in self.ready
                if request.pinned in {None, spec.name}
                and self._catalogs[spec.name].serves_model(request.model)
                and self._catalogs[spec.name].serves_route(request.method, request.path)
            )
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[key] = found
        return tuple(spec for spec in found if spec.name not in tried) if tried else found

    def models(self) -> list[Mapping[str, Any]]:
        """The models of the instances that are ready, as /v1/models lists them; all instances' if none is ready."""
        names = [spec.name for spec in self.ready] or list(self.specs)
        return list({key: model for name in names for key, model in self._catalogs[name].models.items()}.values())

    def methods(self, path: str) -> frozenset[str] | None:
        """The methods that some instance has for a path; None: any, as one of them has not told its routes."""
        found: set[str] = set()
        for catalog in self._catalogs.values():
            methods = catalog.methods(path)
            if methods is None:
                return None
            found |= methods
        return frozenset(found)

    def _check_known(self, request: InferenceRequest) -> None:
        if request.pinned is not None and request.pinned not in self.specs:
            raise NotFoundError(
                f"no instance {request.pinned!r}; there are {', '.join(self.specs)}", code="instance_not_found"
            )
        catalogs = list(self._catalogs.values()) if request.pinned is None else [self._catalogs[request.pinned]]
        if not any(catalog.serves_model(request.model) for catalog in catalogs):
            known = sorted({model for catalog in catalogs for model in catalog.models})
            what = f"the model {request.model!r} does not exist; there is"
            if request.pinned is not None:
                what = f"{request.pinned} does not serve the model {request.model!r}; it serves"
            raise NotFoundError(f"{what} {', '.join(known)}", param="model", code="model_not_found")
        if not any(catalog.serves_route(request.method, request.path) for catalog in catalogs):
            who = request.pinned or "no instance"
            not_served = "does not serve" if request.pinned else "serves"
            raise NotFoundError(f"{who} {not_served} {request.method} {request.path}", code="route_not_found")

    def _set_ready(self, ready: tuple[InstanceSpec, ...]) -> None:
        self.ready = ready
        self._kept.clear()
        self._changed.set()
        self._changed = asyncio.Event()
