# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon's own requests: servers neither have it keep anything nor send it elsewhere."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from syshaxd.core.errors import InstanceFailedError
from syshaxd.instances.catalog import read_catalog
from syshaxd.observe.monitor import probe_health
from syshaxd.system.connecting import client_session, why_no_answer
from tests.fakes.specs import make_spec


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_faults(status: int) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/elsewhere":
            return web.json_response({"data": [{"id": "m"}]})
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server, client_session() as session:
        spec = make_spec(port=server.port or 1)
        with pytest.raises(InstanceFailedError, match=f"status {status}: it redirects to /elsewhere"):
            await probe_health(session, spec, timeout_s=5.0)
        with pytest.raises(InstanceFailedError, match="it redirects to /elsewhere"):
            await read_catalog(session, spec)
    assert asked == ["/health", "/v1/models"]


async def test_cookies_are_not_kept() -> None:
    cookies = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": f"c{len(cookies)}=1; Max-Age=1000"})

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app, host="localhost") as server, client_session() as session:
        for _ in range(3):
            async with session.get(f"http://localhost:{server.port}/"):
                pass
    assert cookies == [None, None, None]


@pytest.mark.parametrize("error", [TimeoutError(), aiohttp.ConnectionTimeoutError()])
def test_a_time_limit_is_told_in_words(error: Exception) -> None:
    assert why_no_answer(error, "h") == "no answer in time"
