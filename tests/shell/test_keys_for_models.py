# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""API keys that are for some models only, and requests that name none; keys that insist on the full weights."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from syshaxd.core.types import InstanceSpec, QuantisedWeights
from syshaxd.gateway.authentication import Authentication
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.system.api_keys import ApiKeys
from tests.fakes.gateway import CHAT, MakeStand, Stand

STORED = "/v1/responses/resp_1"
NO_MODEL = {"messages": CHAT["messages"]}


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "api_keys")


async def made(keys: ApiKeys, name: str, **fields: Any) -> dict[str, str]:
    """The header of a new key."""
    new = await asyncio.to_thread(lambda: keys.create(name, **fields))
    return {"Authorization": f"Bearer {new.secret}"}


def catalog(spec: InstanceSpec) -> Catalog:
    routes = (("GET", re.compile(r"/v1/responses/[^/]+")),)
    plain = frozenset((("POST", "/v1/chat/completions"), ("POST", "/tokenize"), ("GET", "/version"), ("GET", "/probe")))
    return Catalog(assumed(spec).models, routes, plain)


async def two_models(make_stand: MakeStand, keys: ApiKeys) -> Stand:
    """The GPU serves m, the CPU serves n."""
    authentication = Authentication(keys)
    return await make_stand(catalog=catalog, authentication=authentication, public_routes=("/probe",), cpu_model="n")


async def error_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


async def test_a_key_is_for_its_models(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    mine, others = await made(keys, "mine", models=("m", "n")), await made(keys, "others", models=("n",))
    for body in (CHAT, NO_MODEL, NO_MODEL | {"model": None}):
        async with stand.post(body, headers=mine) as response:
            assert response.status == 200
    for body in (CHAT | {"model": "other"}, NO_MODEL | {"model": 5}, NO_MODEL | {"model": ["m"]}):
        async with stand.post(body, headers=mine) as response:
            assert await error_of(response) == (403, "model_not_permitted")
    for body in (CHAT, NO_MODEL):
        async with stand.post(body, headers=others) as response:
            assert await error_of(response) == (403, "model_not_permitted")
    assert len(stand.gpu.requests) == 3


async def test_a_body_that_cannot_be_read_is_for_no_model(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    headers = await made(keys, "mine", models=("m",)) | {"Content-Type": "text/plain"}
    async with stand.post(b'{"model": "n"', headers=headers) as response:
        assert await error_of(response) == (403, "model_not_permitted")


async def test_a_key_sees_its_models_alone(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await two_models(make_stand, keys)
    names: dict[str, set[str]] = {}
    for name, models in {"all": (), "n": ("n",), "gone": ("gone",)}.items():
        headers = await made(keys, name, models=models)
        async with stand.session.get(f"{stand.url}/v1/models", headers=headers) as response:
            names[name] = {model["id"] for model in (await response.json())["data"]}
        async with stand.session.get(f"{stand.url}/v1/models/m", headers=headers) as response:
            assert response.status == (200 if name == "all" else 404)
            assert name == "all" or "m," not in (await response.json())["error"]["message"]
    assert names == {"all": {"m", "n"}, "n": {"n"}, "gone": set()}


async def test_requests_that_name_no_model(make_stand: MakeStand, keys: ApiKeys) -> None:
    """A key may send those that only its models can answer."""
    stand = await two_models(make_stand, keys)
    headers = {name: await made(keys, name, models=(name,)) for name in "mn"}

    async def status(key: str, method: str, path: str, place: str = "", body: Any = None) -> int:
        pin = {"X-Syshax-Instance": place} if place else {}
        async with stand.session.request(method, stand.url + path, headers=headers[key] | pin, json=body) as response:
            return response.status

    assert [await status(key, "GET", "/version") for key in "mn"] == [200, 200]
    assert [await status(key, "GET", STORED, "cpu") for key in "mn"] == [403, 200]
    assert [await status(key, "GET", STORED, "gpu") for key in "mn"] == [200, 403]
    assert [await status(key, "GET", STORED) for key in "mn"] == [404, 404], "each instance stores its own"
    assert [await status(key, "GET", "/probe") for key in "mn"] == [403, 403], "either may answer"
    assert [await status(key, "GET", "/probe", "cpu") for key in "mn"] == [403, 200]
    # Without a model the first instance's model answers.
    assert [await status(key, "POST", "/tokenize", body={"prompt": "x"}) for key in "mn"] == [200, 403]
    assert [await status(key, "POST", "/tokenize", "cpu", body={"prompt": "x"}) for key in "mn"] == [403, 200]


async def test_a_key_can_insist_on_the_full_weights(make_stand: MakeStand, keys: ApiKeys) -> None:
    weights = QuantisedWeights(quantize="q8_0")
    stand = await make_stand(cpu_weights=weights, authentication=Authentication(keys))
    exact, any_weights = await made(keys, "exact", full_weights=True), await made(keys, "any")
    pin = {"X-Syshax-Instance": "cpu"}
    async with stand.post(headers=any_weights | pin) as response:
        assert (response.status, response.headers["x-syshax-weights"]) == (200, "q8_0")
    async with stand.post(headers=exact | pin) as response:
        assert await error_of(response) == (404, "weights_not_found")
    async with stand.post(headers=exact) as response:
        assert (response.status, response.headers["x-syshax-placement"]) == (200, "gpu")
    (decided,) = stand.engine.requests.decisions.latest(1)
    assert decided.request.full_weights
