# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""OpenAI's own client against the real daemon and real vLLM."""

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest

from tests.e2e.conftest import BODY_LIMIT_BYTES, MODEL, Daemon, get
from tests.fakes.waiting import until

PROMPTS = ("Hello", "def forward(self, x):", "The quick brown fox jumps over the lazy dog. " * 20)
PLACES = ("gpu", "cpu")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def client(daemon: Daemon) -> Any:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("place", PLACES)
def test_a_chat_is_answered_streamed_and_not_on_both_placements(client: Any, place: str) -> None:
    ask = {
        "model": MODEL,
        "messages": messages("Hello"),
        "max_tokens": 24,
        "temperature": 0,
        "extra_headers": {"X-Syshax-Place": place},
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.with_raw_response.create(**ask)
    assert whole.headers["x-syshax-placement"] == place
    answer = whole.parse()
    assert answer.usage.completion_tokens == 24
    assert answer.choices[0].finish_reason == "length"
    pieces = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == (
        answer.choices[0].message.content
    )
    assert pieces[-1].usage.completion_tokens == 24


@pytest.mark.parametrize("place", PLACES)
def test_a_text_is_completed_streamed_and_not(client: Any, place: str) -> None:
    ask = {
        "model": MODEL,
        "prompt": "def forward(",
        "max_tokens": 16,
        "temperature": 0,
        "extra_headers": {"X-Syshax-Place": place, "X-Request-Id": f"of-{place}"},
        "extra_body": {"ignore_eos": True},
    }
    whole = client.completions.with_raw_response.create(**ask)
    assert whole.headers["x-request-id"] == f"of-{place}"
    pieces = client.completions.create(**ask, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.parse().choices[0].text != ""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_equal_the_instances_own_token_by_token(daemon: Daemon, place: str, prompt: str) -> None:
    greedy = {"model": MODEL, "max_tokens": 32, "temperature": 0, "ignore_eos": True, "return_token_ids": True}

    async def ask(url: str, path: str, body: dict[str, Any]) -> Any:
        async with aiohttp.ClientSession() as session:
            headers = {"X-Syshax-Place": place}
            async with session.post(url + path, json=greedy | body, headers=headers) as response:
                assert response.status == 200, await response.text()
                if not body.get("stream"):
                    return (await response.json())["choices"][0]["token_ids"]
                tokens: list[int] = []
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        for choice in json.loads(line[6:])["choices"]:
                            tokens += choice.get("token_ids") or []
                return tokens

    direct = f"http://127.0.0.1:{daemon.ports[place]}"
    for path, body in (
        ("/v1/completions", {"prompt": prompt}),
        ("/v1/chat/completions", {"messages": messages(prompt)}),
    ):
        own = asyncio.run(ask(direct, path, body))
        assert len(own) == 32
        assert asyncio.run(ask(daemon.url, path, body)) == own
        assert asyncio.run(ask(daemon.url, path, body | {"stream": True})) == own


def test_a_hundred_streams_at_once_are_all_complete(daemon: Daemon) -> None:
    async def stream(client: openai.AsyncOpenAI, number: int) -> tuple[str, int, str]:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=messages(f"request {number}"),  # type: ignore[arg-type]
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        tokens, finish = 0, ""
        async for piece in raw.parse():
            if piece.choices and piece.choices[0].finish_reason:
                finish = piece.choices[0].finish_reason
            if piece.usage:
                tokens = piece.usage.completion_tokens
        return raw.headers["x-syshax-placement"], tokens, finish

    async def all_of_them() -> list[tuple[str, int, str]]:
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(stream(client, number) for number in range(100)))

    results = asyncio.run(all_of_them())
    assert [(tokens, finish) for _, tokens, finish in results] == [(20, "length")] * 100
    assert {place for place, _, _ in results} == {"gpu", "cpu"}  # the GPU's slots are few: the CPU helps


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_slot(daemon: Daemon, stream: bool) -> None:
    def busy() -> float:
        return daemon.metric("cpu", "vllm:num_requests_running") + daemon.metric("cpu", "vllm:num_requests_waiting")

    async def begin_and_leave() -> None:
        body = {"model": MODEL, "messages": messages("Hello"), "max_tokens": 2000, "stream": stream, "ignore_eos": True}
        async with aiohttp.ClientSession(headers={"X-Syshax-Place": "cpu"}) as session:
            asking = asyncio.create_task(session.post(f"{daemon.url}/v1/chat/completions", json=body).__aenter__())
            if stream:
                await (await asking).content.readuntil(b"\n\n")
            await asyncio.to_thread(until, lambda: busy() == 1, 10, "the instance works on it")
            if stream:
                asking.result().close()
            else:
                asking.cancel()

    generated = daemon.metric("cpu", "vllm:generation_tokens_total")
    asyncio.run(begin_and_leave())
    until(lambda: busy() == 0, 10, "the instance has stopped working on it")
    assert daemon.metric("cpu", "vllm:generation_tokens_total") < generated + 2000
    until(lambda: daemon.status()["cpu"]["inflight"] == 0, 10, "the daemon has forgotten it")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model": "tiny", "messages": [', 400),
        (b"\x00\x01", 400),
        ({"model": MODEL}, 400),
        ({"model": MODEL, "messages": "hi"}, 400),
        ({"model": MODEL, "messages": messages("x"), "max_tokens": "many"}, 400),
        ({"model": MODEL, "messages": messages("x"), "temperature": "hot"}, 400),  # vLLM's own judgement
        ({"model": MODEL, "messages": messages("word " * 5000)}, 400),  # longer than the model takes
        ({"model": "gpt-9", "messages": messages("x")}, 404),
        ({"model": MODEL, "messages": messages("x" * BODY_LIMIT_BYTES)}, 413),
    ],
)
def test_bad_requests_get_an_openai_error(daemon: Daemon, body: Any, status: int) -> None:
    async def ask() -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{daemon.url}/v1/chat/completions", data=data, headers=headers) as response,
        ):
            return response.status, await response.json()

    answered, content = asyncio.run(ask())
    assert answered == status
    assert content["error"]["message"]
    assert content["error"]["type"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/elsewhere", None, 404),
        ("POST", "/v1/embeddings", {"model": MODEL, "input": "Hello"}, 404),  # vLLM has no such route for this model
        ("GET", "/v1/chat/completions", None, 405),
        ("POST", "/v1/completions", {"model": MODEL}, 400),
        ("POST", "/v1/completions", {"model": "gpt-9", "prompt": "Hello"}, 404),
        ("POST", "/v1/completions", {"model": MODEL, "prompt": "word " * 5000}, 400),
        ("POST", "/v1/responses", {"model": MODEL}, 400),  # passed through, with vLLM's own judgement
        ("POST", "/v1/responses", {"model": "gpt-9", "input": "Hello"}, 404),
    ],
)
def test_errors_of_all_routes_are_openai_errors(daemon: Daemon, method: str, path: str, body: Any, status: int) -> None:
    async def ask() -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, daemon.url + path, json=body) as response,
        ):
            return response.status, await response.json()

    answered, content = asyncio.run(ask())
    assert answered == status
    assert content["error"]["message"]
    assert content["error"]["type"]


def test_openais_client_understands_the_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.chat.completions.create(model="gpt-9", messages=messages("x"))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=messages("word " * 5000))


def test_models_and_other_routes(daemon: Daemon, client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert model.max_model_len == 2048
    answer = client.responses.create(model=MODEL, input="Hello", max_output_tokens=8)  # passed to an instance
    assert answer.usage.output_tokens == 8
    status, body = get(f"{daemon.url}/v1/nothing")
    assert status == 404
    assert json.loads(body)["error"]["code"] == "route_not_found"


def test_metrics_count_what_was_served(daemon: Daemon, client: Any) -> None:
    def requests() -> float:
        text = get(f"{daemon.url}/metrics")[1].decode()
        lines = [line for line in text.splitlines() if line.startswith("syshax_requests_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    before = requests()
    client.completions.create(model=MODEL, prompt="Hello", max_tokens=2)
    assert requests() == before + 1


def test_status_names_both_instances(daemon: Daemon) -> None:
    status = daemon.status()
    assert set(status) == {"gpu", "cpu"}
    for instance in status.values():
        assert instance["state"] == "READY"
        assert instance["served_model"] == MODEL
        assert instance["device"] == "cpu"
    table = daemon.syshaxctl("status")
    assert table.returncode == 0
    assert "gpu" in table.stdout
    assert "READY" in table.stdout
    assert "CPU" in table.stdout
    logs = daemon.syshaxctl("logs", "gpu", "-n", "5")
    assert len(logs.stdout.splitlines()) == 5


def test_top_and_dashboard_show_both_instances(daemon: Daemon) -> None:
    view = daemon.syshaxctl("top", "--once")
    assert (view.returncode, view.stdout.count("READY")) == (0, 4), view.stdout  # as instances, and as events
    assert get(f"{daemon.url}/dashboard")[0] == 200
    shown = json.loads(get(f"{daemon.url}/dashboard/status.json")[1])
    assert {instance["name"]: instance["state"] for instance in shown["instances"]} == {"gpu": "READY", "cpu": "READY"}
    assert sum(len(node["cores"]) for node in shown["topology"]["nodes"]) > 0
