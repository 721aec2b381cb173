# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Offloads and moving streams between two real vLLM instances: the answers are those of one instance.

The instances compute in float32, where greedy answers do not depend on who computes them.
"""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.e2e.conftest import MODEL, Daemon, beside, wait_up
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)
PROMPT = "The quick brown fox jumps over the lazy dog, and then it goes on: " * 12
OFFLOAD = "/v1/chat/pd_disagg"
TOKENS = 40


def body_of(path: str, prompt: str = PROMPT, tokens: int = TOKENS) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODEL, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    if path == "/v1/completions":
        return body | {"prompt": prompt}
    return body | {"messages": [{"role": "user", "content": prompt}]}


class Answer:
    """What a client got."""

    def __init__(self) -> None:
        self.placement = ""
        self.request_id = ""
        self.text = ""
        self.ids: set[str] = set()
        self.roles = 0
        self.finish_reasons: list[str] = []
        self.usage: dict[str, Any] = {}
        self.done = False

    def take(self, event: dict[str, Any]) -> None:
        assert "error" not in event, event
        self.ids.add(event["id"])
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            delta = choice.get("delta") or {"content": choice.get("text")}
            self.roles += "role" in delta
            self.text += delta.get("content") or ""
            if choice["finish_reason"]:
                self.finish_reasons.append(choice["finish_reason"])

    @property
    def tokens(self) -> int:
        return int(self.usage["completion_tokens"])


async def ask(
    session: aiohttp.ClientSession,
    path: str,
    body: dict[str, Any],
    place: str | None = None,
    begun: Callable[[], None] = lambda: None,
) -> Answer:
    """A request to its end; a stream must be one answer, and calls `begun` again and again once it has some text."""
    answer = Answer()
    headers = {"X-Syshax-Place": place} if place else {}
    async with session.post(path, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        answer.placement = response.headers["x-syshax-placement"]
        answer.request_id = response.headers["x-request-id"]
        if not body.get("stream"):
            whole = await response.json()
            (choice,) = whole["choices"]
            answer.text = choice["message"]["content"] if "message" in choice else choice["text"]
            answer.usage = whole["usage"]
            return answer
        async for line in response.content:
            if line == b"data: [DONE]\n":
                answer.done = True
            elif line.startswith(b"data: "):
                answer.take(json.loads(line[6:]))
                if len(answer.text) > 200:
                    begun()
    assert answer.done
    assert len(answer.ids) == 1
    assert answer.finish_reasons == ["length"]
    assert answer.roles == (0 if path == "/v1/completions" else 1)
    return answer


def session_to(daemon: Daemon) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(daemon.url, connector=connector, timeout=aiohttp.ClientTimeout(total=200))


DETAILS = {"prompt_tokens_details"}  # what the prefix cache knew
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("more", [{}, STREAM], ids=["whole", "stream"])
def test_an_offloaded_chat_is_that_of_one_instance(daemon: Daemon, more: dict[str, Any]) -> None:
    daemon.wait_ready()
    name = 'vllm:prompt_tokens_by_source_total{engine="0",model_name="tiny",source="local_compute"}'

    async def run() -> None:
        computed: list[float] = []
        async with session_to(daemon) as session:
            for number in range(4):
                body = body_of(OFFLOAD, f"{number} {PROMPT}") | more
                before = daemon.metric("cpu", name)
                offloaded = await ask(session, OFFLOAD, body)
                computed.append(daemon.metric("cpu", name) - before)
                alone = await ask(session, "/v1/chat/completions", body, "gpu")
                assert (offloaded.placement, alone.placement) == ("gpu+cpu", "gpu")
                assert offloaded.text == alone.text
                for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
                    assert offloaded.usage[count] == alone.usage[count]
        assert min(computed) == 1  # the connectivity test and the comparison of the two may run beside some

    asyncio.run(run())


def test_the_official_client_gets_an_offloaded_chat(daemon: Daemon) -> None:
    daemon.wait_ready()
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        parameters = body_of(OFFLOAD)
        ignore_eos = {"ignore_eos": parameters.pop("ignore_eos")}
        alone = client.chat.completions.create(**parameters, extra_body=ignore_eos)
        got = client.post("/chat/pd_disagg", body=parameters | ignore_eos, cast_to=openai.types.chat.ChatCompletion)
        assert got.choices[0].message.content == alone.choices[0].message.content
        assert got.usage is not None
        assert got.usage.model_dump(exclude=DETAILS) == alone.usage.model_dump(exclude=DETAILS)


def test_an_offloaded_text_is_that_of_one_instance(daemon: Daemon, tmp_path: Path) -> None:
    """Texts are offloaded only by the daemon's own choice. A second one over the same instances takes it: it believes
    that the GPU has one slot, which is taken, and it has measured nothing by which it could be better to wait. When the
    slot comes free, an answer goes on there: it is its turn.
    """
    daemon.wait_ready()
    path = "/v1/completions"
    external = {"runtime": "external", "device": "cpu", "protocol": "connector"}
    config = {
        "services": {
            "gpu": external | {"port": daemon.ports["gpu"], "max_num_seqs": 1},
            "cpu": external | {"port": daemon.ports["cpu"]},
            "conductor": {"port": free_port()},
        },
        "models": {"default": MODEL},
        "parity": {"enabled": False},
        "monitor": {"interval_s": 3600},
    }

    async def run(second: Daemon) -> None:
        async with (
            session_to(second) as session,
            session.post(path, json=body_of(path, "busy", 1900) | {"stream": True}) as busy,
        ):
            assert busy.headers["x-syshax-placement"] == "gpu"
            for number, more in enumerate(({}, STREAM)):
                body = body_of(path, f"{number} text {PROMPT}") | more
                offloaded = await ask(session, path, body)
                alone = await ask(session, path, body, "gpu")
                assert (offloaded.placement, alone.placement) == ("gpu+cpu", "gpu")
                assert offloaded.text == alone.text
                for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
                    assert offloaded.usage[count] == alone.usage[count]
            body = body_of(path, f"its turn {PROMPT}", 600) | STREAM
            helped = await ask(session, path, body, begun=busy.close)
            alone = await ask(session, path, body, "gpu")
            assert (helped.placement, helped.text, helped.tokens) == ("gpu+cpu", alone.text, 600)

    with beside(config, tmp_path, daemon.ports) as second:
        wait_up(second)
        until(lambda: "gpu to cpu: can hand over" in second.syshaxctl("status").stdout, 60, "the pair is known")
        asyncio.run(run(second))
        assert second.handovers(cause="offload", source="gpu", target="cpu", result="loaded") == 2
        assert second.handovers(cause="room", source="cpu", target="gpu", result="loaded") == 1


CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
NUMBERS = {"type": "array", "minItems": 300, "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}
STREAMS: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHATS, {}),
    (TEXTS, {}),
    (CHATS, {"response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": NUMBERS}}}),
    (TEXTS, {"structured_outputs": {"regex": "([a-c]{7}[0-9]{5}-){500}"}}),
)


def test_streams_move_when_their_instance_is_stopped(daemon: Daemon) -> None:
    """Chats and texts, with and without grammars. They lose nothing on the way, and the new instance computes one token
    of what the old knew.
    """
    daemon.wait_ready()
    streams = [(path, body_of(path, tokens=900) | STREAM | more) for path, more in STREAMS]
    before = daemon.handovers(cause="drain", source="gpu", target="cpu", result="loaded")

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with session_to(daemon) as session:
            alone = [await ask(session, *stream, "gpu") for stream in streams]
            begun = [asyncio.Event() for _ in streams]
            async with asyncio.TaskGroup() as group:
                # Without another client on it the GPU is first.
                moving = [
                    group.create_task(ask(session, *stream, begun=event.set))
                    for stream, event in zip(streams, begun, strict=True)
                ]
                for event in begun:
                    await event.wait()
                group.create_task(asyncio.to_thread(daemon.syshaxctl, "stop", "gpu", "--wait"))
            return alone, [task.result() for task in moving]

    try:
        for alone, moving in zip(*asyncio.run(run()), strict=True):
            assert moving.placement == "gpu"
            assert moving.text == alone.text
            assert moving.tokens == alone.tokens == 900
            assert moving.usage["prompt_tokens"] == alone.usage["prompt_tokens"]
            told = daemon.syshaxctl("explain", moving.request_id).stdout
            assert re.search(r"moved: from gpu to cpu \(drain\) with \d+ tokens, KV cache loaded, \d+ ms", told), told
        assert daemon.status()["gpu"]["state"] == "STOPPED"
        assert daemon.handovers(cause="drain", source="gpu", target="cpu", result="loaded") == before + len(streams)
    finally:
        assert daemon.syshaxctl("start", "gpu", "--wait").returncode == 0


def test_two_hundred_offloads_of_which_a_third_is_given_up_lose_nothing(daemon: Daemon) -> None:
    daemon.wait_ready()
    prompts = [f"{number}: {PROMPT}" for number in range(8)]

    async def run() -> None:
        async with session_to(daemon) as session:
            alone = [
                (await ask(session, "/v1/chat/completions", body_of(OFFLOAD, prompt, 12), "gpu")).text
                for prompt in prompts
            ]

            async def one(number: int) -> None:
                prompt = number % len(prompts)
                body = body_of(OFFLOAD, prompts[prompt], 12)
                if number % 10 < 3:
                    async with session.post(OFFLOAD, json=body | {"stream": True}) as response:
                        await asyncio.sleep(0.002 * number)
                        response.close()
                    return
                answer = await ask(session, OFFLOAD, body | (STREAM if number % 2 else {}))
                assert answer.placement == "gpu+cpu"
                assert answer.text == alone[prompt]
                assert answer.tokens == 12

            async with asyncio.TaskGroup() as group:
                for number in range(200):
                    group.create_task(one(number))

    asyncio.run(run())
    for name in daemon.ports:
        until(lambda name=name: daemon.metric(name, "vllm:num_requests_running") == 0, 20, f"{name} is idle")
        assert daemon.metric(name, "vllm:num_requests_waiting") == 0
