# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a request has held is freed when it ends, not by the next full run of the garbage collector."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from syshaxd.core.types import State
from syshaxd.serving.request import Request
from tests.fakes.handover import Duo, duo
from tests.shell.test_migration import CHAT, SLOW, Client

STREAM: dict[str, Any] = CHAT
WHOLE: dict[str, Any] = CHAT | {"stream": False}


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def nothing_is_left(*, but_errors: bool = False) -> None:
    """No request is left, and where it ended in an error, whose traceback may keep it, at least not its body."""
    async with asyncio.timeout(20):
        while [
            found
            for found in gc.get_objects()
            if isinstance(found, Request) and (found.body or found.fields or not but_errors)
        ]:
            await asyncio.sleep(0.01)


async def ask(both: Duo, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> None:
    async with both.post(path, body, headers=headers) as answer:
        await answer.read()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/pd_disagg"])
@pytest.mark.parametrize("body", [STREAM, WHOLE, WHOLE | {"model": "nobody"}], ids=["stream", "whole", "refused"])
async def test_after_an_answer(path: str, body: dict[str, Any]) -> None:
    async with duo() as both:
        await ask(both, body, path)
        await nothing_is_left()


async def test_after_a_move_and_a_failure() -> None:
    async with duo(SLOW) as both:
        async with Client(both, "/v1/chat/completions", STREAM) as client:
            await client.read(2)
            both.supervisor.become("gpu", State.DRAINING)
            await client.read(10)
            both.cpu.kill()
            await client.read()
        del client
        await nothing_is_left(but_errors=True)


async def test_after_a_client_has_gone() -> None:
    async with duo(SLOW) as both:
        async with Client(both, "/v1/chat/completions", STREAM) as client:
            await client.read(2)
        del client
        await nothing_is_left(but_errors=True)
