# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which routes of an instance clients may use, by its key."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from syshaxd.core.types import InstanceSpec
from syshaxd.gateway.authentication import Authentication
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.system.api_keys import ApiKeys
from tests.fakes.gateway import MakeStand, Stand

CHANGING = (
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/pause", "/reset_prefix_cache"),
    *("/collective_rpc", "/start_profile", "/update_weights", "/abort_requests", "/scale_elastic_ep", "/v1/unheard_of"),
)


def catalog(spec: InstanceSpec) -> Catalog:
    """All of vLLM's in its development mode."""
    plain = {("POST", path) for path in (*CHANGING, "/v1/embeddings", "/v1/videos")} | {("GET", "/server_info")}
    return Catalog(assumed(spec).models, (), frozenset(plain))


async def ask(stand: Stand, path: str, key: str = "", instance: str = "", method: str = "POST") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"X-Syshax-Instance": instance} if instance else {}
    async with stand.session.request(method, stand.url + path, json={"model": "m"}, headers=headers) as answer:
        body = await answer.json()
        return answer.status, body.get("error", {}).get("code", "")


@pytest.mark.parametrize("path", CHANGING)
async def test_what_changes_an_engine_needs_an_admins_key_and_an_instance(
    make_stand: MakeStand, tmp_path: Path, path: str
) -> None:
    stand = await make_stand(catalog=catalog)
    assert await ask(stand, path) == (403, "route_closed")
    assert await ask(stand, path, instance="gpu") == (403, "route_closed")
    keys = ApiKeys(tmp_path / "api_keys")
    user, admin = [
        (await asyncio.to_thread(lambda name=name: keys.create(name, access=name))).secret for name in ("api", "admin")
    ]
    stand = await make_stand(catalog=catalog, authentication=Authentication(keys))
    assert await ask(stand, path, user, "gpu") == (403, "route_closed")
    assert await ask(stand, path, admin) == (400, "instance_required")
    assert (stand.gpu.requests, stand.cpu.requests) == ([], [])
    assert await ask(stand, path, admin, "cpu") == (200, "")
    assert (len(stand.gpu.requests), len(stand.cpu.requests)) == (0, 1)
    assert await ask(stand, "/nothing", admin, "cpu") == (404, "route_not_found")


async def test_what_exposes_an_engine_is_closed(make_stand: MakeStand) -> None:
    stand = await make_stand(catalog=catalog)
    assert await ask(stand, "/server_info", method="GET") == (403, "route_closed")


async def test_the_list_can_be_longer(make_stand: MakeStand) -> None:
    stand = await make_stand(catalog=catalog)
    assert await ask(stand, "/v1/embeddings") == (200, "")
    assert await ask(stand, "/v1/videos") == (403, "route_closed")
    stand = await make_stand(catalog=catalog, public_routes=["/v1/videos"])
    assert await ask(stand, "/v1/videos") == (200, "")


async def test_a_route_that_no_instance_has_is_told_with_those_of_its_model(make_stand: MakeStand) -> None:
    stand = await make_stand(catalog=catalog)
    form = aiohttp.FormData({"model": "m"}, default_to_multipart=True)
    async with stand.session.post(f"{stand.url}/v1/audio/transcriptions", data=form) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (404, "route_not_found")
    assert "no instance serves POST /v1/audio/transcriptions for the model 'm'; it has /v1/" in error["message"]
