# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The routes that the daemon answers itself. Those that vLLM has, too, take the same methods as there."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.errors import MethodNotAllowedError, NotFoundError
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.gateway.errors import Answer
from syshaxd.instances.registry import InstanceRegistry

MODELS = "/v1/models"
_MODEL_PREFIX = f"{MODELS}/"
_GET = frozenset(("GET",))
_GET_HEAD = frozenset(("GET", "HEAD"))
_GET_POST = frozenset(("GET", "POST"))

Respond = Callable[[str, ApiKey | None], Answer]


class OwnRoutes:
    """Answers them."""

    def __init__(
        self,
        registry: InstanceRegistry,
        metrics: Callable[[], bytes],
        load: Callable[[], int],
        dashboard: Dashboard | None,
    ) -> None:
        """Knows the routes.

        Args:
            registry: The instances whose state they report.
            metrics: Returns all metrics as text.
            load: Returns how many requests run or wait.
            dashboard: The page of states and loads; None: there is none.
        """
        self._registry = registry
        self._metrics = metrics
        # vLLM has /metrics for any method; /live, /ready and the dashboard it does not have.
        self._routes: dict[str, tuple[frozenset[str] | None, Respond]] = {
            MODELS: (_GET, self._models),
            "/health": (_GET, self._health),
            "/ping": (_GET_POST, self._health),
            "/metrics": (None, self._render_metrics),
            "/load": (_GET, lambda *_: _json({"server_load": load()})),
            "/live": (_GET_HEAD, lambda *_: _json({"status": "ok"})),
            "/ready": (_GET_HEAD, self._ready),
        }
        if dashboard is not None:
            self._routes["/dashboard"] = (_GET_HEAD, lambda *_: dashboard.page())
            self._routes["/dashboard/status.json"] = (_GET_HEAD, lambda *_: dashboard.status())

    def knows(self, path: str) -> bool:
        """Whether it is one of these routes."""
        return path in self._routes or (path.startswith(_MODEL_PREFIX) and path != _MODEL_PREFIX)

    def takes(self, method: str, path: str) -> bool:
        """Whether it is one of these routes, and takes the method."""
        methods = self._routes[path][0] if path in self._routes else _GET if self.knows(path) else frozenset()
        return methods is None or method in methods

    def answer(self, method: str, path: str, query: str, key: ApiKey | None = None) -> Answer:
        """Answers a request, which may have a key, for a route that it knows.

        Raises:
            MethodNotAllowedError: The route does not take the method.
            NotFoundError: There is no such model.
        """
        methods, respond = self._routes.get(path) or (_GET, lambda _, key: self._model(path, key))
        if methods is not None and method not in methods:
            names = tuple(sorted(methods))
            raise MethodNotAllowedError(f"{path} takes {' or '.join(names)}, not {method}", allowed=names)
        return respond(query, key)

    def _models(self, query: str, key: ApiKey | None) -> Answer:
        return _json({"object": "list", "data": list(self._permitted(key).values())})

    def _permitted(self, key: ApiKey | None) -> dict[str, dict[str, Any]]:
        """The models that a client with this key may ask for, by name."""
        return {
            model["id"]: dict(model) for model in self._registry.models() if key is None or key.permits(model["id"])
        }

    def _model(self, path: str, key: ApiKey | None) -> Answer:
        name = path.removeprefix(_MODEL_PREFIX)
        known = self._permitted(key)
        if name not in known:
            text = f"the model {name!r} does not exist; available: {', '.join(known) or 'none'}"
            raise NotFoundError(text, param="model", code="model_not_found")
        return _json(known[name])

    def _health(self, query: str, key: ApiKey | None) -> Answer:
        """200 while a request could be served, as vLLM answers: routers in front of the host rely on it."""
        if self._registry.ready or self._registry.startable:
            return _json({"status": "ok"})
        return _json({"status": "no instance is ready"}, status=503)

    def _ready(self, query: str, key: ApiKey | None) -> Answer:
        """200 when a request could be served; with `?all=1` only when every wanted instance is ready."""
        ready = {spec.name for spec in self._registry.ready}
        startable = {spec.name for spec in self._registry.startable}
        instances = [instance.status for instance in self._registry.instances.values()]
        wanted = {status.spec.name for status in instances if status.wanted}
        good = bool(ready | startable) and (wanted <= ready | startable or not any(parse_qs(query).get("all", ())))
        states = {status.spec.name: str(status.state) for status in instances}
        return _json({"ready": good, "instances": states}, status=200 if good else 503)

    def _render_metrics(self, query: str, key: ApiKey | None) -> Answer:
        return Answer(200, self._metrics(), "text/plain; version=0.0.4; charset=utf-8")


def _json(body: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())
