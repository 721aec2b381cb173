# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What an instance serves is asked of the instance, and taken with care."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from syshaxd.core.config import parse
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.launch.spec import instance_specs
from syshaxd.core.types import InstanceSpec, InstanceStatus, State
from syshaxd.instances.capabilities import read_facts
from syshaxd.instances.catalog import Catalog, assumed, read_catalog
from syshaxd.instances.discovery import Discovery
from syshaxd.instances.registry import InstanceRegistry
from tests.fakes.specs import make_spec

MODELS = {"object": "list", "data": [{"id": "m", "max_model_len": 2048}, {"id": "lora"}]}
PATHS = {"paths": {"/v1/responses": {"post": {}}, "/v1/responses/{id}": {"get": {}}, "/f/{name:path}": {"get": {}}}}


async def read(models: Any, openapi: Any) -> Catalog:
    """Reads the catalog of an instance that answers so; None: 404."""
    answers = {"/v1/models": models, "/openapi.json": openapi}

    async def answer(request: web.Request) -> web.Response:
        body = answers.get(request.path)
        return web.Response(status=404) if body is None else web.json_response(body)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as session:
        return await read_catalog(session, _spec(server.port))


def _spec(port: int | None) -> InstanceSpec:
    return make_spec(port=port or 1)


async def test_models_and_routes_are_those_that_the_instance_tells() -> None:
    catalog = await read(MODELS, PATHS)
    assert catalog.models["m"]["max_model_len"] == 2048
    assert catalog.serves_model("lora")
    assert catalog.serves_model("")
    assert not catalog.serves_model("other")
    assert catalog.serves_route("POST", "/v1/responses")
    assert catalog.serves_route("GET", "/v1/responses/resp_1")
    assert catalog.serves_route("GET", "/f/a/b")
    assert not catalog.serves_route("GET", "/v1/responses")
    assert not catalog.serves_route("GET", "/v1/responses/a/b")
    assert not catalog.serves_route("GET", "/v1xresponses/a")


@pytest.mark.parametrize("openapi", [None, {}, [], {"paths": 7}, {"paths": {"/x": 7}}])
async def test_an_instance_that_hides_its_routes_may_be_asked_for_any(openapi: Any) -> None:
    assert (await read(MODELS, openapi)).serves_route("POST", "/v1/anything")


@pytest.mark.parametrize("models", [None, {}, [], {"data": 7}, {"data": [{}]}])
async def test_an_instance_that_does_not_tell_its_models_is_a_failure_that_names_it(models: Any) -> None:
    with pytest.raises(InstanceFailedError, match="does not report its models"):
        await read(models, PATHS)


async def test_what_else_it_does_not_tell_is_said_in_a_line_for_people() -> None:
    async with TestServer(web.Application(), host="127.0.0.1") as server, aiohttp.ClientSession() as session:
        url = server.make_url("/version")
        with pytest.raises(InstanceFailedError) as caught:
            await read_facts(session, _spec(server.port))
    assert str(caught.value) == f"gpu does not report its version and tokens: 404, message='Not Found', url='{url}'"


async def test_nobody_there_is_a_failure_too() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(InstanceFailedError):
            await read_catalog(session, _spec(1))


def test_before_it_was_asked_an_instance_serves_its_configured_model() -> None:
    catalog = assumed(_spec(1))
    assert list(catalog.models) == [_spec(1).served_model]
    assert catalog.serves_route("POST", "/v1/anything")


async def test_a_server_that_serves_another_model_is_told() -> None:
    spec = _spec(1)
    registry = InstanceRegistry((spec,))
    names = ["tiny"]

    async def listed(_: InstanceSpec) -> Catalog:
        return Catalog({name: {"id": name} for name in names})

    async def nothing(_: InstanceSpec) -> None:
        return None

    discovery = Discovery(registry, health=nothing, read_catalog=listed, read_facts=nothing)  # type: ignore[arg-type]
    told: list[tuple[str, str]] = []
    discovery.on_other_models(lambda name, text: told.append((name, text)))
    registry.on_status(InstanceStatus(spec=spec, state=State.READY, generation=1))
    await discovery.probe(spec)
    for names[:] in (["tiny"], ["tiny", "adapter"], ["other"], ["other"]):
        await discovery.refresh()
    assert told == [("gpu", "now serves tiny, adapter"), ("gpu", "now serves other, no longer adapter, tiny")]
    await discovery.close()


@pytest.mark.parametrize(
    ("modules", "adapters"),
    [
        ("poet=/adapters/poet", ["poet"]),
        (["poet=/adapters/poet", '{"name": "coder", "path": "/adapters/coder"}'], ["poet", "coder"]),
        (None, []),
    ],
)
def test_adapters_that_an_instance_is_started_with_are_known_before_it_runs(
    modules: str | list[str] | None, adapters: list[str]
) -> None:
    args = {"enable-lora": True, "lora_modules": modules, "max-model-len": 512}
    service = {"runtime": "process", "python": "p", "args": {key: it for key, it in args.items() if it is not None}}
    (spec,) = instance_specs(parse({"services": {"gpu": service, "cpu": {"enabled": False}}, "models": {"path": "/m"}}))
    assert list(assumed(spec).models) == ["default", *adapters]
