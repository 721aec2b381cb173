# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The simulator: vLLM's API as clients see it, the batching model, faults, and its life as a process."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshax_sim import BUILT_IN, Faults, Profile, SimInstance
from syshax_sim.__main__ import mark, slowdown
from syshax_sim.engine import Engine, Generation
from syshax_sim.handover import Arena, KvStore
from syshax_sim.profile import load
from syshax_sim.text import answer, count_tokens, render_chat, tokenize

LIMIT_S = 50.0
HEAD = ["id", "object", "created", "model"]
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 你好!"}]
PROMPT = render_chat(MESSAGES)
SMALL = replace(BUILT_IN["instant"], kv_tokens=64, max_model_len=64, max_num_seqs=4, max_batched_tokens=16)


async def until(sim: SimInstance, state: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        await sim.engine.until(state)


@pytest.fixture
async def sim() -> AsyncIterator[SimInstance]:
    async with SimInstance(BUILT_IN["instant"]) as sim:
        yield sim


@pytest.fixture
async def http(sim: SimInstance) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sim.url, timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
        yield session


@pytest.fixture
def client(sim: SimInstance) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="none", max_retries=0, timeout=LIMIT_S)


async def post(http: aiohttp.ClientSession, path: str, body: object) -> tuple[int, Any]:
    async with http.post(path, json=body) as response:
        return response.status, await response.json()


async def events(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> list[Any]:
    """The JSON of all events of a stream, which must be well-formed and end as vLLM's do."""
    async with http.post(path, json=body | {"stream": True}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        text = await response.text()
    assert text.endswith("\n\ndata: [DONE]\n\n")
    blocks = text.removesuffix("data: [DONE]\n\n").split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


class TestOpenAIClient:
    """The official client is the judge of the shapes."""

    async def test_chat(self, client: openai.AsyncOpenAI) -> None:
        async with client:
            result = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=5)
        assert result.choices[0].message.content == answer(PROMPT, 5)
        assert result.choices[0].finish_reason == "length"
        assert result.usage is not None
        assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (count_tokens(PROMPT), 5)

    async def test_chat_stream(self, client: openai.AsyncOpenAI) -> None:
        async with client:
            stream = await client.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=50, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == answer(PROMPT, 50)
        assert [chunk.choices[0].finish_reason for chunk in chunks[1:-1]][-1] == "length"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 50
        assert len({chunk.id for chunk in chunks}) == 1

    async def test_completions(self, client: openai.AsyncOpenAI) -> None:
        async with client:
            result = await client.completions.create(model="m", prompt=["one", "two"], n=2, max_tokens=3)
            texts = [choice.text for choice in result.choices]
            assert texts == [answer(prompt, 3, choice) for prompt in ("one", "two") for choice in range(2)]
            assert len(set(texts)) == 4
            stream = await client.completions.create(model="m", prompt="one", max_tokens=3, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == answer("one", 3)

    async def test_models_and_errors(self, client: openai.AsyncOpenAI) -> None:
        async with client:
            assert [model.id async for model in client.models.list()] == ["m"]
            with pytest.raises(openai.NotFoundError, match="The model `x` does not exist"):
                await client.completions.create(model="x", prompt="one")
            with pytest.raises(openai.BadRequestError, match="maximum context length is 32768 tokens"):
                await client.completions.create(model="m", prompt=[1] * 40_000)


class TestShapes:
    """Details that the official client does not look at."""

    async def test_chat_stream_events(self, http: aiohttp.ClientSession) -> None:
        body = {"messages": MESSAGES, "max_tokens": 1, "return_token_ids": True}
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        role, token, usage = await events(http, "/v1/chat/completions", body)
        assert list(role) == [*HEAD, "choices", "usage", "prompt_token_ids", "prompt_text"]
        assert role["object"] == "chat.completion.chunk"
        assert role["choices"] == [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ]
        assert role["prompt_token_ids"] == tokenize(PROMPT)
        size = len(tokenize(PROMPT))
        counts = {"prompt_tokens": size, "total_tokens": size, "completion_tokens": 0}
        assert role["usage"] == counts | {"completion_tokens_details": None}
        assert list(token["choices"][0]) == [
            *("index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids"),
        ]
        assert len(token["choices"][0]["token_ids"]) == 1
        assert token["usage"] == usage["usage"] | {"completion_tokens_details": None}
        assert list(usage) == [*HEAD, "choices", "usage", "system_fingerprint"]
        assert usage["choices"] == []

    async def test_completion_stream_events(self, http: aiohttp.ClientSession) -> None:
        body = {"prompt": [7, 8, 9], "max_tokens": 3, "n": 2, "return_token_ids": True}
        chunks = await events(http, "/v1/completions", body)
        for index in range(2):
            mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
            assert mine[0]["prompt_token_ids"] == [7, 8, 9]
            assert [choice["prompt_token_ids"] for choice in mine[1:]] == [None] * (len(mine) - 1)
            assert sum(len(choice["token_ids"]) for choice in mine) == 3
            assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == ["length"]
        assert not any("usage" in chunk for chunk in chunks)
        ends = [chunk for chunk in chunks if "system_fingerprint" in chunk]
        assert ends == [chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]

    async def test_request_id_becomes_the_answers_id(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/v1/completions", json={"prompt": "x"}, headers={"X-Request-Id": "abc"}) as response:
            assert (await response.json())["id"] == "cmpl-abc"

    async def test_answers_end_by_themselves_unless_told_not_to(self, http: aiohttp.ClientSession) -> None:
        _, short = await post(http, "/v1/completions", {"prompt": "x", "max_tokens": 300})
        assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("stop", 256)
        _, whole = await post(http, "/v1/completions", {"prompt": "x", "max_tokens": 300, "ignore_eos": True})
        assert (whole["choices"][0]["finish_reason"], whole["usage"]["completion_tokens"]) == ("length", 300)
        assert whole["choices"][0]["text"].startswith(short["choices"][0]["text"])

    @pytest.mark.parametrize(
        ("body", "status", "param"),
        [
            ({"model": "x", "prompt": "a"}, 404, "model"),
            ({}, 400, "prompt"),
            ({"prompt": [[]]}, 400, "body.prompt"),
            ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
            ({"prompt": "a", "max_tokens": 40_000}, 400, "max_tokens"),
            ({"prompt": "a", "max_tokens": "many"}, 400, "body.max_tokens"),
            ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options"),
            ([], 400, "body"),
        ],
    )
    async def test_errors(self, http: aiohttp.ClientSession, body: object, status: int, param: str | None) -> None:
        answered, error = await post(http, "/v1/completions", body)
        assert answered == status
        assert set(error["error"]) == {"message", "type", "param", "code"}
        assert (error["error"]["param"], error["error"]["code"]) == (param, status)

    @pytest.mark.parametrize(("count", "status"), [(-2, 400), (-1, 200), (0, 200), (1, 200), (20, 200), (21, 400)])
    async def test_any_number_of_logprobs(self, http: aiohttp.ClientSession, count: int, status: int) -> None:
        for key in ("logprobs", "prompt_logprobs"):
            got, body = await post(http, "/v1/completions", {"prompt": "one two", "max_tokens": 2, key: count})
            assert got == status, body

    async def test_only_json_is_taken(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/v1/completions", data=b'{"prompt": "x"}') as response:
            assert response.status == 400

    async def test_an_answer_is_cut_to_what_fits_beside_the_prompt(self, http: aiohttp.ClientSession) -> None:
        body = {"prompt": [1] * 32_760, "max_tokens": 100}
        _, answered = await post(http, "/v1/completions", body)
        assert answered["usage"]["completion_tokens"] == 8
        assert answered["choices"][0]["finish_reason"] == "length"

    async def test_other_routes(self, sim: SimInstance, http: aiohttp.ClientSession) -> None:
        for path in ("/health", "/ping", "/version", "/load", "/v1/models", "/metrics"):
            async with http.get(path) as response:
                assert response.status == 200
        async with http.get("/openapi.json") as response:
            assert (await response.json())["paths"]["/v1/completions"] == {"post": {}}
        async with http.get("/v1/nothing") as response:
            assert (response.status, await response.json()) == (404, {"detail": "Not Found"})
        async with http.get("/v1/completions") as response:
            assert (response.status, await response.json()) == (405, {"detail": "Method Not Allowed"})
        _, tokens = await post(http, "/tokenize", {"messages": MESSAGES})
        assert (tokens["count"], tokens["tokens"]) == (count_tokens(PROMPT), tokenize(PROMPT))
        assert sim.requests == 0

    async def test_a_client_that_leaves_frees_its_place(self, sim: SimInstance, http: aiohttp.ClientSession) -> None:
        sim.set_faults(Faults(stall=True))
        async with asyncio.TaskGroup() as group:
            for stream in (True, False):
                task = group.create_task(post(http, "/v1/completions", {"prompt": "x", "stream": stream}))
                await until(sim, lambda: len(sim.engine.running) == 1)
                task.cancel()
                await until(sim, lambda: not sim.engine.running)
        assert sim.engine.counters.aborted == 2


class TestBatching:
    """The engine, step by step and without a clock."""

    @given(
        requests=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 24)), min_size=1, max_size=12),
        aborted=st.sets(st.integers(0, 11)),
        data=st.data(),
    )
    def test_every_request_gets_its_tokens_within_the_limits(
        self, requests: list[tuple[int, int]], aborted: set[int], data: st.DataObject
    ) -> None:
        engine = Engine(SMALL)
        told: dict[Generation, list[int]] = {}
        for prompt_tokens, max_tokens in requests:
            item = Generation(prompt_tokens, max_tokens, lambda item: told[item].append(item.tokens))
            told[item] = []
            engine.add(item)
        items = list(told)
        for number in aborted:
            items[number % len(items)].max_tokens = 10**9  # it would never end
        for _ in range(1000):
            if not engine.running and not engine.waiting:
                break
            engine.begin_step()
            assert len(engine.running) <= SMALL.max_num_seqs
            assert sum(item.chunk for item in engine.running) <= SMALL.max_batched_tokens
            if data.draw(st.booleans()):
                for number in aborted:
                    engine.abort(items[number % len(items)])
            engine.end_step()
            assert engine.kv_used_tokens == sum(item.kv_tokens for item in engine.running)
            assert engine.kv_used_tokens <= SMALL.kv_tokens or len(engine.running) == 1
        else:
            for number in aborted:
                engine.abort(items[number % len(items)])
        assert engine.kv_used_tokens == 0
        for item in items:
            assert told[item] == list(range(1, len(told[item]) + 1))
            assert item.finished == (item.tokens == item.max_tokens)
        assert engine.counters.finished + engine.counters.aborted == len(items)

    def test_the_duration_of_a_step(self) -> None:
        profile = Profile(
            prefill_tokens_per_s=100, step_base_s=1.0, step_per_request_s=0.1, max_batched_tokens=50, max_num_seqs=2
        )
        engine = Engine(profile)
        for _ in range(3):
            engine.add(Generation(30, 2, lambda _: None))
        durations = []
        while engine.running or engine.waiting:
            durations.append(engine.begin_step())
            engine.end_step()
        assert durations == pytest.approx(
            [
                1.7,  # 30 and 20 prompt tokens; the third request waits
                1.3,  # the other 10; the first request has ended
                1.5,  # 30 of the third; the second has ended
                1.1,
            ]
        )

    def test_a_full_cache_throws_out_the_youngest(self) -> None:
        engine = Engine(SMALL)
        old, young = Generation(20, 40, lambda _: None), Generation(20, 40, lambda _: None)
        engine.add(old)
        engine.add(young)
        while not old.finished:
            engine.begin_step()
            engine.end_step()
        assert engine.counters.preemptions == 1
        assert not young.finished
        while not young.finished:
            engine.begin_step()
            engine.end_step()
        assert (old.tokens, young.tokens) == (40, 40)


class TestProfiles:
    def test_file(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.json"
        file.write_text('{"prefill_tokens_per_s": 5, "step_base_s": 0.1, "step_per_request_s": 0, "max_num_seqs": 3}')
        assert load(str(file)) == Profile(prefill_tokens_per_s=5, step_base_s=0.1, step_per_request_s=0, max_num_seqs=3)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{}", "missing 3 required"),
            ('{"prefill_tokens_per_s": 0, "step_base_s": 0, "step_per_request_s": 0}', "above 0"),
            ('{"prefill_tokens_per_s": 1, "step_base_s": "0", "step_per_request_s": 0}', "step_base_s must be"),
            ('{"prefill_tokens_per_s": 1, "step_base_s": 0, "step_per_request_s": 0, "kv_tokens": 9}', "does not fit"),
        ],
    )
    def test_bad_file(self, tmp_path: Path, text: str, problem: str) -> None:
        file = tmp_path / "mine.json"
        file.write_text(text)
        with pytest.raises(ValueError, match=problem):
            load(str(file))

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match=r"neither gpu, cpu, cpu-q8_0, cpu-q4_0, instant nor a \.json file"):
            load("tpu")


class TestFaults:
    async def test_hang_and_recovery(self, sim: SimInstance, http: aiohttp.ClientSession) -> None:
        await post(http, "/sim/fault", {"hang": True})
        request = asyncio.create_task(post(http, "/v1/completions", {"prompt": "x"}))
        status, stats = await self._stats(http)
        assert (status, stats["requests"]) == (200, 0)
        assert not request.done()
        await post(http, "/sim/fault", {"hang": False})
        assert (await request)[0] == 200

    async def _stats(self, http: aiohttp.ClientSession) -> tuple[int, Any]:
        async with http.get("/sim/stats") as response:
            return response.status, await response.json()

    async def test_api_errors_that_end(self, http: aiohttp.ClientSession) -> None:
        await post(http, "/sim/fault", {"api_status": 500, "api_faults": 2})
        statuses = [(await post(http, "/v1/completions", {"prompt": "x"}))[0] for _ in range(3)]
        assert statuses == [500, 500, 200]

    async def test_health(self, http: aiohttp.ClientSession) -> None:
        await post(http, "/sim/fault", {"health_status": 503})
        async with http.get("/health") as response:
            assert response.status == 503

    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
    async def test_a_stream_breaks(self, sim: SimInstance, http: aiohttp.ClientSession, path: str) -> None:
        await post(http, "/sim/fault", {"break_after_events": 2})
        body = {"prompt": "x", "messages": MESSAGES, "stream": True, "max_tokens": 2000, "ignore_eos": True}
        received = bytearray()

        async def receive() -> None:
            async with http.post(path, json=body) as response:
                async for data in response.content.iter_any():
                    received.extend(data)

        with pytest.raises(aiohttp.ClientError):
            await receive()
        assert received.count(b" 0:") == 1
        assert b" 1999:" not in received
        await until(sim, lambda: not sim.engine.running)

    async def test_a_silent_engine(self, sim: SimInstance, http: aiohttp.ClientSession) -> None:
        await post(http, "/sim/fault", {"stall": True})
        request = asyncio.create_task(post(http, "/v1/completions", {"prompt": "x"}))
        await until(sim, lambda: len(sim.engine.running) == 1)
        async with http.get("/health") as response:
            assert response.status == 200
        assert not request.done()
        await post(http, "/sim/fault", {"stall": False})
        assert (await request)[0] == 200

    async def test_unknown_fault(self, http: aiohttp.ClientSession) -> None:
        assert await post(http, "/sim/fault", {"flood": True}) == (400, {"detail": "no such fault: flood"})

    async def test_death(self, sim: SimInstance, http: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError):
            await post(http, "/sim/fault", {"die": 1})
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get("/health")


class TestProcess:
    """`python -m syshax_sim`."""

    async def test_ends_cleanly_on_sigterm(self) -> None:
        process, url = await self._start()
        async with aiohttp.ClientSession(url) as http:
            async with http.get("/v1/models") as response:
                assert (await response.json())["data"][0]["id"] == "small"
            stream = await http.post("/v1/completions", json={"prompt": "x", "stream": True, "ignore_eos": True})
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(LIMIT_S):
                assert await process.wait() == 0
            stream.close()

    async def test_dies_with_a_code(self) -> None:
        process, url = await self._start()
        async with aiohttp.ClientSession(url) as http:
            with pytest.raises(aiohttp.ClientError):
                await http.post("/sim/fault", json={"die": 7})
        async with asyncio.timeout(LIMIT_S):
            assert await process.wait() == 7

    async def _start(self) -> tuple[asyncio.subprocess.Process, str]:
        arguments = ("--port", "0", "--model", "small", "--profile", "cpu", "--max-num-seqs", "2", "--speed", "10")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "syshax_sim", *arguments), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on http://127.0.0.1:")
        return process, line.split()[-1]


async def test_a_kv_cache_takes_its_room_and_its_time_on_the_way() -> None:
    loop = asyncio.get_running_loop()
    store, arena = KvStore(), Arena(token_bytes=100, size_bytes=1000, bytes_per_s=10_000)
    told = store.save_in(arena, "first", range(8))
    assert (told["state"], told["bytes"]) == ("saving", 700)
    refused = store.save_in(arena, "second", range(8))
    assert (refused["state"], refused["reason"]) == ("refused", "700 bytes are needed, 700 of 1000 are taken")
    began_s = loop.time()
    await store.published("first")
    assert loop.time() - began_s >= 0.06
    assert store.load("first", range(9)) == 7
    assert not arena.kept
    assert store.save_in(arena, "second", range(8))["state"] == "saving"
    await store.published("never saved")


@pytest.mark.parametrize(
    ("profile", "faster"),
    [("cpu-q8_0", {1: 1.81, 4: 1.78, 8: 1.81, 16: 1.88}), ("cpu-q4_0", {1: 2.2, 4: 1.8, 8: 1.16, 16: 1.18})],
)
def test_quantised_profiles_are_as_much_faster_as_was_measured(profile: str, faster: dict[int, float]) -> None:
    def step_s(name: str, requests: int) -> float:
        return BUILT_IN[name].step_base_s + BUILT_IN[name].step_per_request_s * requests

    for requests, times in faster.items():
        assert step_s("cpu", requests) / step_s(profile, requests) == pytest.approx(times, rel=0.2)


async def test_an_instance_slows_another_one_down_while_it_computes(tmp_path: Path) -> None:
    file, busy = tmp_path / "busy", list[bool]()
    async with SimInstance(BUILT_IN["instant"]) as sim, aiohttp.ClientSession(sim.url) as http:
        sim.engine.on_busy = busy.append
        status, _ = await post(http, "/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 3})
        assert status == 200
        await until(sim, lambda: not sim.engine.running)
        while busy[-1:] != [False]:
            await asyncio.sleep(0)
    assert busy[-2:] == [True, False]
    mark(file, busy=True)
    assert slowdown(file, 0.1) == 0.1
    mark(file, busy=False)
    mark(file, busy=False)
    assert slowdown(file, 0.1) == 0.0
