# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Offloads and moving streams between two real vLLM instances with a reasoning parser and a tool parser.

The answers are those of one instance, event by event. They are greedy, or seeded, in float32.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import MODEL, Daemon, beside, get, service, wait_up
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)
CHATS, TEXTS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
CALL, END_OF_CALL, THINK, END_OF_THINKING = 4092, 4093, 4094, 4095
"""Tokens that the model's tokenizer gets in place of rare ones."""
TEXTS_OF_TOKENS = {
    CALL: '<tool_call>\n{"name": "weather", "arguments": {"city": "',
    END_OF_CALL: '"}}\n</tool_call>',
    THINK: "<think>",
    END_OF_THINKING: "</think>",
}
PROMPT = "The quick brown fox jumps over the lazy dog, and then it goes on: " * 12
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {"type": "object", "properties": {"rainy": {"type": "boolean"}}, "required": ["rainy"]},
    },
}
SCHEMA = {"name": "answer", "schema": TOOL["function"]["parameters"]}  # type: ignore[index]


def make_thinking(tiny_model: Path, folder: Path) -> Path:
    """Makes a model like DeepSeek-R1: the prompt ends with <think>, and the model ends its reasoning."""
    shutil.copytree(tiny_model, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    for ident, token in TEXTS_OF_TOKENS.items():
        (replaced,) = [each for each, number in vocabulary.items() if number == ident]
        del vocabulary[replaced]
        tokenizer["model"]["merges"] = [
            merge
            for merge in tokenizer["model"]["merges"]
            if "".join(merge if isinstance(merge, list) else merge.split(" ")) != replaced
        ]
        vocabulary[token] = ident
        more = {"id": ident, "content": token}
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | more)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("assistant\n", "assistant\n<think>\n"), "utf-8")
    return folder


@pytest.fixture(scope="module")
def thinking(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that takes its GPU for full while it does anything."""
    folder = tmp_path_factory.mktemp("p")
    cores = sorted(os.sched_getaffinity(0))
    ports = {"gpu": free_port(), "cpu": free_port()}
    services = {"gpu": service(ports["gpu"], cores[0]), "cpu": service(ports["cpu"], cores[-1])}
    for each in services.values():
        each["args"] |= {
            "reasoning-parser": "deepseek_r1",
            "enable-auto-tool-choice": True,
            "tool-call-parser": "hermes",
        }
    config = {
        "services": {**services, "conductor": {"port": free_port()}},
        "models": {"default": MODEL, "path": str(make_thinking(tiny_model, folder / "model"))},
        "offload": {"arena_bytes": 64 * 1024 * 1024},
        "parity": {"enabled": False},
        "scheduler": {"policy": "upstream-threshold", "holdout": 0},
        "decider": {"gpu_cache_threshold": 0},
        "monitor": {"interval_s": 0.5},
    }
    with beside(config, folder, ports) as daemon:
        wait_up(daemon)
        until(lambda: "gpu to cpu: can hand over" in daemon.syshaxctl("status").stdout, 60, "the pair is known")
        yield daemon


@asynccontextmanager
async def busy_gpu(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    """A client's session while the GPU is full."""

    async def keep_busy(session: aiohttp.ClientSession, tokens: int) -> None:
        body = {"model": MODEL, "prompt": "busy", "max_tokens": tokens, "ignore_eos": True}
        while True:
            async with session.post(TEXTS, json=body, headers={"X-Syshax-Instance": "gpu"}) as busy:
                await busy.read()

    async with aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=200)) as session:
        busy = [asyncio.create_task(keep_busy(session, tokens)) for tokens in (1900, 1100)]  # never both between two
        try:
            await asyncio.to_thread(until, lambda: is_used(daemon, "gpu"), 20, "the GPU's load is seen")
            yield session
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)


def is_used(daemon: Daemon, name: str) -> bool:
    """Whether something is in an instance's KV cache, as the daemon has read it."""
    text = get(f"{daemon.url}/metrics")[1].decode()
    found = re.search(rf'^syshax_instance_kv_usage_ratio\{{[^}}]*name="{name}"[^}}]*\}} (\S+)', text, re.MULTILINE)
    return found is not None and float(found[1]) > 0


async def ask(
    session: aiohttp.ClientSession,
    path: str,
    body: dict[str, Any],
    placement: str,
) -> list[dict[str, Any]]:
    """The events of an answer, or the answer alone."""
    headers = {"X-Syshax-Instance": placement} if placement == "gpu" else {}
    async with session.post(path, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["x-syshax-placement"] == placement, body
        if not body.get("stream"):
            return [await response.json()]
        return [json.loads(line[6:]) async for line in response.content if line.startswith(b"data: {")]


OF_THE_MOMENT = frozenset(
    (
        *("id", "item_id", "call_id", "created", "created_at", "completed_at", "request_id", "sequence_number"),
        *("prompt_tokens_details", "input_tokens_details", "cache_read_input_tokens", "cache_creation_input_tokens"),
        *("input_tokens", "signature"),
    )
)
IN_PIECES = frozenset(("content", "reasoning", "text", "delta", "arguments", "thinking", "partial_json"))


def merged(events: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What the events tell, without ids, times and what the prefix cache knew, however they are cut.

    By path: texts joined, of all else each value that differs from the one before.
    """
    found: dict[str, list[Any]] = {}

    def take(path: str, value: Any) -> None:
        match value:
            case dict():
                for name, each in value.items():
                    if name not in OF_THE_MOMENT:
                        take(f"{path}.{name}", each)
            case list():
                for each in value:
                    take(path, each)
            case str() if path.rpartition(".")[2] in IN_PIECES:
                found.setdefault(path, [""])[0] += value
            case float():
                take(path, f"{value:.3f}")
            case _ if value is not None and found.setdefault(path, [])[-1:] != [value]:
                found[path].append(value)

    for event in events:
        take("", event)
    return found


def chat(number: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
    return {"model": MODEL, "messages": messages, "max_tokens": 40, "temperature": 0, **more}


USAGE = {"stream": True, "stream_options": {"include_usage": True}}
ENDS_AT_ONCE = {str(END_OF_THINKING): 100}
ENDS_SOON = {str(END_OF_THINKING): 9}
NAMED = {"type": "function", "function": {"name": "weather"}}
CALLS = {"tools": [TOOL], "logit_bias": ENDS_AT_ONCE, "max_tokens": 80}
TEXT = {"model": MODEL, "temperature": 0, "max_tokens": 20}
RESPONSE = {"model": MODEL, "temperature": 0, "max_output_tokens": 40}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (CHATS, chat(1, ignore_eos=True)),
    "plain stream": (CHATS, chat(2, ignore_eos=True, **USAGE)),
    "reasoning ends": (CHATS, chat(3, ignore_eos=True, logit_bias=ENDS_SOON, **USAGE) | {"max_tokens": 200}),
    "required tool": (CHATS, chat(4, tool_choice="required", **CALLS)),
    "required tool, stream": (CHATS, chat(5, tool_choice="required", **CALLS, **USAGE)),
    "named tool, stream": (CHATS, chat(6, tool_choice=NAMED, **CALLS, **USAGE)),
    "auto tool, stream": (CHATS, chat(7, tools=[TOOL], tool_choice="auto", **USAGE)),
    "schema": (
        CHATS,
        chat(8, response_format={"type": "json_schema", "json_schema": SCHEMA}, logit_bias=ENDS_AT_ONCE),
    ),
    "seed": (CHATS, chat(9, temperature=1.0, seed=7, ignore_eos=True, **USAGE)),
    "stop": (CHATS, chat(10, stop=["e", "zzz"], **USAGE)),
    "logprobs": (CHATS, chat(11, logprobs=True, top_logprobs=2, **USAGE)),
    "penalties": (CHATS, chat(12, presence_penalty=1.0, frequency_penalty=0.5, ignore_eos=True)),
    "text, stop": (TEXTS, {**TEXT, "prompt": f"13 {PROMPT}", "stop": "e"}),
    "text, logprobs": (TEXTS, {**TEXT, "prompt": f"14 {PROMPT}", "logprobs": 2, "stream": True}),
    "response": (RESPONSES, {**RESPONSE, "input": f"15 {PROMPT}"}),
    "response, stream": (RESPONSES, {**RESPONSE, "input": f"16 {PROMPT}", "stream": True}),
    "message": (MESSAGES, chat(17)),
    "message, stream": (MESSAGES, chat(18, stream=True)),
    "message, thinking": (
        MESSAGES,
        chat(19, thinking={"type": "enabled", "budget_tokens": 1024}) | {"max_tokens": 1100, "stop_sequences": ["e"]},
    ),
}


def test_offloaded_answers_are_those_of_one_instance(thinking: Daemon) -> None:
    async def run() -> dict[str, tuple[dict[str, list[Any]], dict[str, list[Any]]]]:
        timeout = aiohttp.ClientTimeout(total=200)
        async with aiohttp.ClientSession(thinking.url, timeout=timeout) as session:
            alone = {name: merged(await ask(session, *case, "gpu")) for name, case in CASES.items()}
        async with busy_gpu(thinking) as session:
            offloaded = {name: merged(await ask(session, *case, "gpu+cpu")) for name, case in CASES.items()}
        return {name: (offloaded[name], alone[name]) for name in CASES}

    got = asyncio.run(run())
    for name, (offloaded, alone) in got.items():
        assert offloaded == alone, name


TOKENS = 400
MOVES_AFTER = 100
"""Events, in each stream."""
LETTERS = [*range(69, 77), *range(300, 330)]
FREE_TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA["schema"]}}


def long_chat(number: int, bias: dict[int, float], **more: Any) -> dict[str, Any]:
    logit_bias = {str(ident): value for ident, value in bias.items()}
    return chat(number, ignore_eos=True, logit_bias=logit_bias, **USAGE) | {"max_tokens": TOKENS} | more


def calling(number: int, end: float, call: float, end_of_call: float, **more: Any) -> dict[str, Any]:
    """A chat of letters and calls; how often reasoning and calls end and begin is by the bias of their tokens."""
    bias = {END_OF_THINKING: end, CALL: call, END_OF_CALL: end_of_call, THINK: -100.0}
    return long_chat(number, bias, tools=[FREE_TOOL], allowed_token_ids=[*LETTERS, *TEXTS_OF_TOKENS], **more)


NUMBERS = {
    "type": "json_schema",
    "json_schema": {"name": "numbers", "schema": {"type": "array", "minItems": 200, "items": {"type": "integer"}}},
}
LONG_TEXT = {**TEXT, **USAGE, "prompt": f"20 {PROMPT}", "max_tokens": TOKENS, "ignore_eos": True}
MOVED: dict[str, tuple[str, dict[str, Any]]] = {
    "stop string": (TEXTS, LONG_TEXT),
    "reasoning": (CHATS, long_chat(22, {END_OF_THINKING: 5, THINK: 4})),
    "calls": (CHATS, calling(23, 2, 2, 2)),
    "grammar": (CHATS, long_chat(24, {END_OF_THINKING: 6}, response_format=NUMBERS)),
    "no call": (CHATS, calling(25, 2, -100, -100)),
    "long arguments": (CHATS, calling(26, 1, 0, -1)),
    "arguments, tokens": (CHATS, calling(27, 1, 0, -1, logprobs=True, return_token_ids=True)),
}


async def follow(
    session: aiohttp.ClientSession, path: str, body: dict[str, Any], *, begun: asyncio.Event | None = None
) -> list[dict[str, Any]]:
    """The events of a stream that begins on the GPU; without `begun`, it also ends there."""
    headers = {"X-Syshax-Instance": "gpu"} if begun is None else {}
    events: list[dict[str, Any]] = []
    async with session.post(path, json=body, headers=headers) as response:
        assert response.headers["x-syshax-placement"] == "gpu"
        async for line in response.content:
            if line.startswith(b"data: {"):
                events.append(json.loads(line[6:]))
            if begun is not None and (len(events) > MOVES_AFTER or line == b"data: [DONE]\n"):
                begun.set()
    return events


def take_gpu_for_free(daemon: Daemon) -> None:
    """From now on the daemon places requests on its GPU."""
    file = Path(daemon.environment["SYSHAX_SOCKET"]).with_name("config.yaml")
    config = json.loads(file.read_text("utf-8"))
    config["decider"]["gpu_cache_threshold"] = 0.9
    file.write_text(json.dumps(config), "utf-8")
    done = daemon.syshaxctl("reload")
    assert done.returncode == 0, done.stderr


# Long, as it depends on pace: on a busy machine the streams end before the GPU is stopped, and vLLM then puts several
# tokens in one event, which its parser of reasoning cuts at another place.
@pytest.mark.long
def test_moved_streams_are_those_of_one_instance(thinking: Daemon) -> None:
    async def run() -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
        timeout = aiohttp.ClientTimeout(total=200)
        async with aiohttp.ClientSession(thinking.url, timeout=timeout) as session:
            ((text,),) = [merged(await follow(session, TEXTS, LONG_TEXT))[".choices.text"]]
            LONG_TEXT["stop"] = ["never told", text[-60:-50]]
            alone = await asyncio.gather(*(follow(session, *case) for case in MOVED.values()))
            begun = [asyncio.Event() for _ in MOVED]
            async with asyncio.TaskGroup() as group:
                each = zip(MOVED.values(), begun, strict=True)
                moved = [group.create_task(follow(session, *case, begun=event)) for case, event in each]
                for event in begun:
                    await event.wait()
                group.create_task(asyncio.to_thread(thinking.syshaxctl, "stop", "gpu", "--wait"))
            return alone, [task.result() for task in moved]

    take_gpu_for_free(thinking)
    before = thinking.handovers(cause="drain", source="gpu", target="cpu", result="loaded")
    for name, alone, moved in zip(MOVED, *asyncio.run(run()), strict=True):
        assert merged(moved) == merged(alone), name
    assert thinking.handovers(cause="drain", source="gpu", target="cpu", result="loaded") == before + len(MOVED)
