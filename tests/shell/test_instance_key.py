# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""All of the daemon's own requests to an instance carry the instance's key, and read an answer of limited size."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from syshaxd.core.errors import SyshaxError
from syshaxd.core.launch.instance_key import instance_key, own_headers
from syshaxd.core.types import InstanceSpec
from syshaxd.instances.capabilities import read_facts
from syshaxd.instances.catalog import read_catalog
from syshaxd.observe.monitor import probe_health
from syshaxd.observe.parity_ask import ask
from syshaxd.system.connecting import MAX_ANSWER_BYTES
from tests.fakes.specs import make_spec

SPEC = make_spec("gpu")


@pytest.mark.parametrize(
    ("argv", "env", "key"),
    [
        ((), {}, ""),
        (("vllm", "serve", "m", "--api-key", "k1"), {}, "k1"),
        (("python", "--api-key=k=2", "--port", "1"), {}, "k=2"),
        (("python", "--api_key", "k3", "k4"), {}, "k3"),
        (("python", "--api-key"), {}, ""),
        ((), {"VLLM_API_KEY": "k5"}, "k5"),
        (("--api-key", "k6"), {"VLLM_API_KEY": "k5"}, "k6"),
    ],
)
def test_the_key_of_an_instance(argv: tuple[str, ...], env: dict[str, str], key: str) -> None:
    spec = replace(SPEC, argv=argv, env=tuple(env.items()))
    assert instance_key(spec) == key
    assert own_headers(spec) == ({"Authorization": f"Bearer {key}"} if key else {})


async def _parity(session: aiohttp.ClientSession, spec: InstanceSpec) -> object:
    return await ask(session, spec, timeout_s=10.0)


QUESTIONS: list[Callable[[aiohttp.ClientSession, InstanceSpec], Awaitable[object]]] = [
    probe_health,
    read_catalog,
    read_facts,
    _parity,
]


@pytest.mark.parametrize("question", QUESTIONS)
async def test_each_question_carries_it(
    question: Callable[[aiohttp.ClientSession, InstanceSpec], Awaitable[object]],
) -> None:
    asked: list[tuple[str, str | None]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers.get("Authorization")))
        known = {
            "/version": {"version": "1"},
            "/v1/models": {"data": [{"id": SPEC.served_model}]},
            "/tokenize": {"tokens": [1]},
        }
        return web.json_response(known.get(request.path, {}))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    spec = replace(SPEC, host="127.0.0.1", port=port, env=(("VLLM_API_KEY", "secret-key"),))
    try:
        async with aiohttp.ClientSession() as session:
            with suppress(SyshaxError):
                await question(session, spec)
    finally:
        await runner.cleanup()
    assert asked
    assert {key for _, key in asked} == {"Bearer secret-key"}


async def test_a_key_that_no_header_can_have_is_an_error_of_that_instance() -> None:
    spec = replace(SPEC, env=(("VLLM_API_KEY", "a\r\nX: b"),))
    async with aiohttp.ClientSession() as session:
        for question in QUESTIONS:
            with pytest.raises(SyshaxError):
                await question(session, spec)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_no_answer_is_read_without_a_limit(
    question: Callable[[aiohttp.ClientSession, InstanceSpec], Awaitable[object]],
) -> None:
    """Whatever is asked, an instance answers with megabytes that do not end."""
    sent_bytes = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
        with suppress(OSError):
            while True:
                writer.write(b" " * (1 << 20))
                sent_bytes += 1 << 20
                await writer.drain()

    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server, aiohttp.ClientSession() as session:
        spec = replace(SPEC, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        with pytest.raises(SyshaxError, match="longer than"):
            await question(session, spec)
    assert sent_bytes < 2 * MAX_ANSWER_BYTES + (8 << 20)
