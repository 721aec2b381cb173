# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAPI document shows what the client that asks may use, and nothing else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.types import InstanceSpec
from syshaxd.gateway.authentication import Authentication
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.system.api_keys import ApiKeys
from syshaxd.system.events import EventLog, History
from tests.fakes.gateway import MakeStand, Stand
from tests.fakes.instance import Request, json_answer
from tests.shell.test_authentication import STATUS

PATHS: dict[str, Any] = {
    "/v1/chat/completions": {"post": {}},
    "/v1/completions": {"post": {}},
    "/v1/embeddings": {"post": {}, "parameters": []},
    "/v1/load_lora_adapter": {"post": {}},
    "/sleep": {"post": {}},
    "/server_info": {"get": {}},
    "/version": {"get": {}},
    "/metrics": {"get": {}},
    "/health": {"get": {}},
    "/v1/models": {"get": {}, "post": {}},
    "/odd": 7,
}
CLOSED = {"/v1/load_lora_adapter", "/sleep", "/server_info"}
OWN = {"/v1/chat/pd_disagg", "/v1/models/{model}", "/live", "/load", "/metrics", "/ping", "/ready"}
ERROR = {"$ref": "#/components/responses/Error"}


def catalog(spec: InstanceSpec) -> Catalog:
    items = {path: item for path, item in PATHS.items() if isinstance(item, dict)}
    plain = frozenset((name.upper(), path) for path, item in items.items() for name in item)
    return Catalog(assumed(spec).models, (), plain)


async def document(stand: Stand, secret: str = "", paths: dict[str, Any] = PATHS) -> dict[str, Any]:
    async def answer(request: Request) -> None:
        document = {"openapi": "3.1.0", "info": {"title": "vLLM"}, "paths": paths, "components": {"schemas": {}}}
        await request.send(json_answer(json.dumps(document).encode()))

    stand.gpu.answer = stand.cpu.answer = answer
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with stand.session.get(f"{stand.url}/openapi.json", headers=headers) as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def test_without_keys_closed_routes_are_not_shown(make_stand: MakeStand) -> None:
    found = await document(await make_stand(catalog=catalog))
    assert set(found["paths"]) == (set(PATHS) | OWN) - CLOSED - {"/odd"}
    assert set(found["paths"]["/v1/models"]) == {"get"}, "a method that the daemon does not take"
    operation = {"responses": {"default": ERROR}, "security": []}
    assert found["paths"]["/v1/embeddings"] == {"post": operation, "parameters": []}
    assert found["info"] == {"title": "vLLM"}


async def test_an_operation_tells_its_errors_and_keys(make_stand: MakeStand, tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "api_keys")
    secret = (await asyncio.to_thread(lambda: keys.create("k", access="admin"))).secret
    board = Dashboard(lambda: STATUS, None, EventLog(), History(1))
    stand = await make_stand(catalog=catalog, authentication=Authentication(keys), dashboard=board)
    found = await document(stand, secret)
    get = {path: item["get"] for path, item in found["paths"].items() if "get" in item}
    assert get["/health"]["security"] == []
    assert get["/version"]["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert get["/dashboard"]["security"] == [{"bearer": []}, {"x-api-key": []}, {"basic": []}]
    assert set(found["components"]["securitySchemes"]) == {"bearer", "x-api-key", "basic"}
    for path, item in found["paths"].items():
        for name in set(item) - {"parameters"}:
            form = "TextError" if path == "/dashboard" else "Error"
            assert item[name]["responses"]["default"] == {"$ref": f"#/components/responses/{form}"}
            assert form in found["components"]["responses"]


async def test_errors_of_an_instance_are_those_that_clients_get(make_stand: MakeStand) -> None:
    stand = await make_stand(catalog=catalog)
    told = {"200": {"description": "x"}, "400": {"description": "y"}, "422": {"description": "z"}}
    chat = {"post": {"operationId": "chat", "summary": "A chat", "responses": told}}
    found = await document(stand, paths=PATHS | {"/v1/chat/completions": chat})
    for path in ("/v1/chat/completions", "/v1/chat/pd_disagg"):
        operation = found["paths"][path]["post"]
        assert operation["responses"] == {"200": told["200"], "default": ERROR}
    assert "operationId" not in operation, "ids are unique"


async def test_what_is_shown_follows_the_key_that_asks(make_stand: MakeStand, tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "api_keys")
    user, admin = [
        (await asyncio.to_thread(lambda name=name: keys.create(name, access=name))).secret for name in ("api", "admin")
    ]
    stand = await make_stand(catalog=catalog, authentication=Authentication(keys))
    shown = set((await document(stand, user))["paths"])
    assert shown == (set(PATHS) | OWN) - CLOSED - {"/odd", "/metrics"}
    assert set((await document(stand, admin))["paths"]) == (set(PATHS) | OWN) - {"/odd"}
    open_too = await make_stand(
        catalog=catalog, authentication=Authentication(keys, metrics_open=True), public_routes=["/server_info"]
    )
    assert set((await document(open_too, user))["paths"]) - shown == {"/metrics", "/server_info"}


async def test_each_route_that_is_shown_is_open(make_stand: MakeStand) -> None:
    stand = await make_stand(catalog=catalog)
    for path, item in (await document(stand))["paths"].items():
        for method in set(item) - {"parameters"}:
            async with stand.session.request(
                method, stand.url + path.format(model="m"), json={"model": "m"}
            ) as response:
                assert response.status not in {401, 403, 404, 405}, (method, path)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"paths": 7}', b"{" * 100_000])
async def test_what_is_no_document_is_the_instances_fault(make_stand: MakeStand, body: bytes) -> None:
    stand = await make_stand(catalog=catalog)

    async def odd(request: Request) -> None:
        await request.send(json_answer(body))

    stand.gpu.answer = stand.cpu.answer = odd
    async with stand.session.get(f"{stand.url}/openapi.json") as response:
        assert response.status == 502
    assert stand.metrics.records[-1].outcome == "failed"
