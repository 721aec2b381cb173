# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The endpoint with API keys."""

import asyncio
import base64
import json
import logging
import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from syshaxd.core.config import Config, parse
from syshaxd.core.config.api_keys import Access
from syshaxd.core.errors import ConfigError
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.wire.body import RequestBody
from syshaxd.gateway.authentication import Authentication, check_exposure
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.gateway.fields import class_of
from syshaxd.system.api_keys import ApiKeys
from syshaxd.system.events import EventLog, History
from tests.fakes.gateway import ANSWER, CHAT, MakeStand, Stand
from tests.fakes.instance import Request, json_answer

CHAT_PATH = "/v1/chat/completions"
STATUS = EngineStatus(
    version="1", started_at_s=0.0, endpoint="", queued=0, inflight={}, instances=(), snapshot=Snapshot()
)


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "api_keys")


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def made(keys: ApiKeys, name: str = "alice", **fields: Any) -> str:
    new = await asyncio.to_thread(lambda: keys.create(name, **fields))
    return new.secret


async def status(stand: Stand, path: str = CHAT_PATH, **headers: str) -> int:
    method = "POST" if path.startswith("/v1/chat") else "GET"
    async with stand.session.request(method, stand.url + path, json=CHAT, headers=headers) as response:
        return response.status


async def test_keys_are_needed_from_the_first_one_on(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    assert await status(stand) == 200
    secret = await made(keys)
    assert await status(stand) == 401
    assert await status(stand, **bearer(secret)) == 200
    assert await status(stand, **{"x-api-key": secret}) == 200
    assert await status(stand, **bearer(secret + "x")) == 401
    await asyncio.to_thread(keys.revoke, "alice")
    assert await status(stand, **bearer(secret)) == 401
    assert len(stand.gpu.requests) == 3


async def test_a_refusal_has_the_form_that_clients_expect(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    await made(keys)
    async with stand.post(headers=bearer("sk-wrong")) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="sysHAX"'
        error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert "sk-wrong" not in error["message"]
    async with stand.post(path="/v1/messages") as response:
        assert response.status == 401
        body = await response.json()
        assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
    client = openai.AsyncOpenAI(base_url=f"{stand.url}/v1", api_key="EMPTY", max_retries=0)
    async with client:
        with pytest.raises(openai.AuthenticationError, match="the API key is not valid"):
            await client.models.list()


async def test_the_official_client_works_with_a_key(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    async with openai.AsyncOpenAI(base_url=f"{stand.url}/v1", api_key=await made(keys)) as client:
        assert [model.id async for model in client.models.list()] == ["m"]


@pytest.mark.parametrize("path", ["/health", "/live", "/ping", "/ready"])
async def test_what_routers_ask_stays_open(make_stand: MakeStand, keys: ApiKeys, path: str) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    await made(keys)
    assert await status(stand, path) == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/nothing", "/v1//models", "/%6detrics", "/health/"])
async def test_all_else_needs_a_key(make_stand: MakeStand, keys: ApiKeys, path: str) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    await made(keys)
    assert await status(stand, path) == 401


@pytest.mark.parametrize("path", ["/metrics", "/dashboard", "/dashboard/status.json"])
async def test_what_monitors_has_its_own_keys(make_stand: MakeStand, keys: ApiKeys, path: str) -> None:
    closed, opened = [
        await make_stand(
            authentication=Authentication(keys, metrics_open=is_open, dashboard_open=is_open),
            dashboard=Dashboard(lambda: STATUS, None, EventLog(), History(1)),
        )
        for is_open in (False, True)
    ]
    user, monitor, admin = [await made(keys, access, access=access) for access in Access]
    assert [await status(closed, path, **bearer(each)) for each in (user, monitor, admin)] == [403, 200, 200]
    assert [await status(closed, "/v1/models", **bearer(each)) for each in (user, monitor, admin)] == [200, 403, 200]
    assert [await status(closed, "/load", **bearer(each)) for each in (user, monitor, admin)] == [200, 200, 200]
    assert await status(closed, path) == 401
    assert await status(opened, path) == 200


async def test_a_browser_is_asked_for_the_key_of_the_dashboard(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(
        authentication=Authentication(keys),
        dashboard=Dashboard(lambda: STATUS, None, EventLog(), History(1)),
    )
    monitor = await made(keys, access="monitor")
    async with stand.session.get(f"{stand.url}/dashboard") as response:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Basic realm="sysHAX"')
        assert response.content_type == "text/plain"
        assert "enter an API key as the password" in await response.text()
    basic = "Basic " + base64.b64encode(f"anyone:{monitor}".encode()).decode()
    assert await status(stand, "/dashboard/status.json", Authorization=basic) == 200
    assert await status(stand, "/dashboard", Authorization="Basic %%%") == 401
    user = "Basic " + base64.b64encode(f":{await made(keys, 'bob')}".encode()).decode()
    assert await status(stand, "/dashboard", Authorization=user) == 401, "so that the browser asks for another one"
    assert await status(stand, Authorization=user) == 401  # a page of another site could make a browser send it


async def test_a_key_may_be_for_batch_alone(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    batch = bearer(await made(keys, "night", batch_only=True))
    (key,) = await asyncio.to_thread(keys.list)
    assert class_of({}, RequestBody({}), key) is RequestClass.BATCH
    assert class_of({}, RequestBody({}), None) is RequestClass.INTERACTIVE
    assert await status(stand, **batch, **{"X-Syshax-Class": "batch"}) == 200
    assert await status(stand, **batch, **{"X-Syshax-Class": "interactive"}) == 403


async def test_keys_take_turns_in_the_queue(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(slots=1, authentication=Authentication(keys))  # slots: gpu 1 and a backlog of 1, cpu 1
    alice, bob = bearer(await made(keys, "alice")), bearer(await made(keys, "bob"))
    go = asyncio.Semaphore(0)
    arrived: list[str] = []

    async def answer(request: Request) -> None:
        arrived.append(json.loads(request.body)["user"])
        await go.acquire()
        await request.send(json_answer(ANSWER))

    async def ask(user: str, headers: dict[str, str]) -> int:
        async with stand.post(CHAT | {"user": user}, headers=headers) as response:
            return response.status

    stand.gpu.answer = stand.cpu.answer = answer
    asked = []
    for number in range(9):
        user, headers = ("bob", bob) if number == 8 else ("alice", alice)
        asked.append(asyncio.create_task(ask(user, headers)))
        while sum(stand.engine.inflight.values()) + stand.engine.queued <= number:
            await asyncio.sleep(0)
    for left in range(4, 10):
        go.release()
        while len(arrived) < min(left, 9):
            await asyncio.sleep(0)
    assert arrived.index("bob") == 4, "3 ran, and one of alice's 5 that waited had its turn"
    for _ in asked:
        go.release()
    assert await asyncio.gather(*asked) == [200] * 9


async def test_an_instance_gets_its_own_key_and_never_the_clients(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys), instance_key="theirs")
    secret = await made(keys)
    for headers in (bearer(secret), {"x-api-key": secret}, {"authorization": f"bearer {secret}", "x-api-key": "y"}):
        assert await status(stand, **headers) == 200
        head = stand.gpu.requests[-1].head
        assert secret.encode() not in head
        assert b"x-api-key" not in head.lower()
        assert head.lower().count(b"authorization") == 1
        assert b"Authorization: Bearer theirs\r\n" in head


async def test_without_keys_the_clients_credentials_go_to_the_instance(make_stand: MakeStand, keys: ApiKeys) -> None:
    await made(keys)
    for authentication in (None, Authentication(keys, insecure=True)):
        stand = await make_stand(authentication=authentication, instance_key="theirs")
        assert await status(stand, **bearer("mine")) == 200
        assert b"Authorization: Bearer mine\r\n" in stand.gpu.requests[0].head


async def test_a_preflight_needs_no_key(make_stand: MakeStand, keys: ApiKeys) -> None:
    stand = await make_stand(authentication=Authentication(keys))
    await made(keys)
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization"
    async with stand.session.options(stand.url + CHAT_PATH, headers=asked) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Headers"] == "authorization"
    async with stand.post(headers={"Origin": "https://a.example"}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (401, "*")


async def test_a_key_appears_in_no_log_and_no_record(
    make_stand: MakeStand, keys: ApiKeys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stand = await make_stand(authentication=Authentication(keys))
    secret = await made(keys)
    assert await status(stand, **bearer(secret)) == 200
    assert await status(stand, **bearer(f"{secret}\xff")) == 401
    assert await status(stand, "/nothing", **bearer(secret)) == 404
    told = (caplog.text, str(stand.metrics.records), str(stand.engine.requests.decisions.latest(9)))
    assert all(secret not in each for each in told)


async def test_the_daemons_own_key_is_in_no_file(make_stand: MakeStand, keys: ApiKeys) -> None:
    authentication = Authentication(keys)
    stand = await make_stand(authentication=authentication)
    assert authentication.own_secret == ""
    await made(keys)
    assert await status(stand, **bearer(authentication.own_secret)) == 200
    assert [key["name"] for key in json.loads(await asyncio.to_thread(keys.path.read_text))["keys"]] == ["alice"]


# Where it may listen.


def config(host: str, *, insecure: bool = False, key: str = "") -> Config:
    services = {name: {"env": {"VLLM_API_KEY": key} if key else {}} for name in ("gpu", "cpu")}
    return parse({"services": services | {"conductor": {"host": host}}, "gateway": {"insecure": insecure}})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "host.example"])
def test_other_hosts_are_not_served_without_keys(keys: ApiKeys, host: str) -> None:
    with pytest.raises(ConfigError, match=r"services\.conductor\.host: at .*syshaxctl keys create.*gateway\.insecure"):
        check_exposure(config(host), keys)
    check_exposure(config(host, insecure=True), keys)
    check_exposure(config(host, key="theirs"), keys)  # the instances ask for it
    keys.create("alice")
    check_exposure(config(host), keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_host_is_served_without_keys(keys: ApiKeys, host: str) -> None:
    check_exposure(config(host), keys)


def test_a_socket_of_systemd_counts_too(keys: ApiKeys, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as loopback:
        local.bind(str(tmp_path / "s"))
        check_exposure(config("127.0.0.1"), keys, [local, loopback])
    with socket.socket() as wide:
        wide.bind(("0.0.0.0", 0))
        with pytest.raises(ConfigError, match=r"syshaxd\.socket \(ListenStream=\): at 0\.0\.0\.0"):
            check_exposure(config("127.0.0.1"), keys, [wide])
