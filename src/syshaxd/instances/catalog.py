# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What an instance serves: its models and its routes, asked of the instance itself once it is ready."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import aiohttp

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.types import InstanceSpec
from syshaxd.system.connecting import NO_ANSWER, read_json, why_no_answer

# FastAPI's own, which it leaves out of what it tells.
_UNLISTED = frozenset((("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/redoc")))
_ADAPTERS_FLAG = "--lora-modules"
_TELLING = ("id", "root", "parent", "max_model_len")
_MAX_SHOWN = 20
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models and routes of one instance."""

    models: Mapping[str, Mapping[str, Any]]
    """The objects of its /v1/models, by id."""
    routes: tuple[tuple[str, re.Pattern[str]], ...] | None = None
    """Method and path of each route; None: unknown, so everything may be tried."""
    plain: frozenset[tuple[str, str]] = field(default=frozenset())
    """The routes without parameters in their path, for a quick look."""

    @property
    def listed(self) -> frozenset[tuple[Any, ...]]:
        """The models by what tells them apart: ids that change at each question are left out."""
        return frozenset(tuple(str(model.get(key)) for key in _TELLING) for model in self.models.values())

    @property
    def base_models(self) -> frozenset[tuple[Any, ...]]:
        """As `listed`, without the adapters."""
        return frozenset(model for model in self.listed if model[_TELLING.index("parent")] == "None")

    @property
    def shown_models(self) -> str:
        """The names of its models, for a person; of many, the first ones."""
        return shown_names(list(self.models))

    def only(self, names: Collection[str]) -> "Catalog":
        """The same without other models than these."""
        if self.models.keys() <= set(names):
            return self
        return replace(self, models={name: model for name, model in self.models.items() if name in names})

    def serves_model(self, model: str) -> bool:
        """Whether requests for `model` can go here. No model named: any will do."""
        return not model or model in self.models

    def serves_route(self, method: str, path: str) -> bool:
        """Whether the instance has such a route."""
        if self.routes is None or (method, path) in self.plain or (method, path) in _UNLISTED:
            return True
        return any(verb == method and pattern.fullmatch(path) for verb, pattern in self.routes)

    def methods(self, path: str) -> frozenset[str] | None:
        """The methods that the instance has for a path; None: it has not told its routes."""
        if self.routes is None:
            return None
        plain = {verb for verb, known in self.plain | _UNLISTED if known == path}
        return frozenset(plain | {verb for verb, pattern in self.routes if pattern.fullmatch(path)})


def shown_names(names: Sequence[str]) -> str:
    """Names for a message; of many, the first ones."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more


def assumed(spec: InstanceSpec) -> Catalog:
    """What can be said of an instance before it was asked."""
    names = (spec.served_model, *spec.aliases, *_adapters(spec.argv))
    return Catalog({name: {"id": name, "object": "model", "created": 0, "owned_by": "syshax"} for name in names})


def _adapters(argv: Sequence[str]) -> Iterator[str]:
    """The adapters that vLLM is started with: `NAME=FOLDER`, or JSON with a `name`."""
    if _ADAPTERS_FLAG not in argv:
        return
    for word in takewhile(lambda word: not word.startswith("-"), argv[argv.index(_ADAPTERS_FLAG) + 1 :]):
        name = word.partition("=")[0]
        if word.startswith("{"):
            with suppress(ValueError, KeyError):  # vLLM tells what is wrong with it
                name = str(jsontext.loads(word)["name"])
        yield name


async def read_catalog(session: aiohttp.ClientSession, spec: InstanceSpec) -> Catalog:
    """Asks the instance.

    Raises:
        InstanceFailedError: It doesn't tell its models. An instance that only hides its routes is fine.
    """
    base = spec.address.url()
    try:
        async with session.get(f"{base}/v1/models", headers=own_headers(spec), timeout=_TIMEOUT) as answer:
            answer.raise_for_status()
            listed = (await read_json(answer))["data"]
            models = {str(model["id"]): model for model in listed}
    except NO_ANSWER as error:
        why = why_no_answer(error, spec.host)
        raise InstanceFailedError(f"{spec.name} does not report its models: {why}") from error
    try:
        async with session.get(f"{base}/openapi.json", headers=own_headers(spec), timeout=_TIMEOUT) as answer:
            answer.raise_for_status()
            paths = (await read_json(answer))["paths"]
            routes = [(verb.upper(), path) for path, verbs in paths.items() for verb in verbs]
    except NO_ANSWER:
        return Catalog(models)
    return Catalog(
        models,
        tuple((verb, _pattern(path)) for verb, path in routes if "{" in path),
        frozenset(route for route in routes if "{" not in route[1]),
    )


def _pattern(template: str) -> re.Pattern[str]:
    """`/v1/responses/{id}` as a pattern; `{file:path}` spans slashes, as in FastAPI."""
    parts = re.split(r"(\{[^}]*\})", template)
    return re.compile(
        "".join(
            (".+" if part.endswith(":path}") else "[^/]+") if part[:1] == "{" else re.escape(part) for part in parts
        )
    )
