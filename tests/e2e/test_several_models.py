# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Two models behind one endpoint, by OpenAI's own client: chat on two instances, vectors on a third, on real vLLM."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.folders import cache_folder
from syshax_embedded.model import prepare_tiny
from tests.e2e.conftest import MODEL, Daemon, beside, free_port, get, service, wait_up

pytestmark = pytest.mark.timeout(600)
SLOTS_EACH = 3
WIDTH = 128
"""Of the tiny model's vectors."""


@pytest.fixture(scope="module")
def endpoint(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a second daemon. It serves the first one's instances as replicas, and starts one for vectors."""
    folder = tmp_path_factory.mktemp("several")
    weights = prepare_tiny(engine_python(), cache_folder() / "models" / "tiny-random-1", seed=1)
    ports = {"vectors": free_port()}
    replica = {"role": "gpu", "device": "cpu", "model": MODEL, "max_num_seqs": SLOTS_EACH}
    config: dict[str, Any] = {
        "services": {
            "chat-0": replica | {"port": daemon.ports["gpu"]},
            "chat-1": replica | {"port": daemon.ports["cpu"]},
            "vectors": service(ports["vectors"], 0) | {"role": "cpu", "model": "minivec"},
            "conductor": {"port": free_port()},
        },
        "models": {
            MODEL: {},
            "minivec": {"path": str(weights), "aliases": ["vec"], "args": {"runner": "pooling", "convert": "embed"}},
        },
    }
    del config["services"]["vectors"]["cores"]
    with beside(config, folder, ports) as another:
        wait_up(another)
        yield another.url


@pytest.fixture
def client(endpoint: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_all_models_are_listed(client: openai.OpenAI) -> None:
    assert {MODEL, "minivec", "vec"} <= {model.id for model in client.models.list()}


def test_both_instances_of_a_model_answer(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        answer = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Chapter {number}"}],
            max_tokens=32,
            extra_body={"ignore_eos": True},
        )
        assert answer.parse().model == MODEL
        return answer.headers["x-syshax-placement"]

    with ThreadPoolExecutor(2 * SLOTS_EACH) as threads:
        assert set(threads.map(ask, range(2 * SLOTS_EACH))) == {"chat-0", "chat-1"}


def test_streams_and_vectors_at_once(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=24, stream=True
    )
    for name in ("minivec", "vec"):
        answer = client.embeddings.create(model=name, input=["one", "two three"], encoding_format="float")
        assert [len(item.embedding) for item in answer.data] == [WIDTH, WIDTH]
    assert [piece.choices[0].finish_reason for piece in stream][-1] == "length"


def test_an_unknown_model_is_told_which_there_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_found"
    assert MODEL in caught.value.message
    assert "minivec" in caught.value.message


def test_a_model_without_the_route_is_told_which_it_has(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="vec", messages=[{"role": "user", "content": "Hi"}])
    assert "/v1/embeddings" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=MODEL, input="Hi")
    assert "/v1/chat/completions" in caught.value.message


THE_DAEMONS_OWN = {"/ping", "/v1/files", "/v1/batches"}
BODY = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 4,
    "prompt": "one",
    "input": "one",
    "query": "one",
    "documents": ["one", "two"],
    "queries": "one",
    "tokens": [1, 2],
}
"""What one route or another needs; an instance that refuses the rest has got the request all the same."""


@pytest.mark.parametrize(("model", "instances"), [(MODEL, ["chat-0", "chat-1"]), ("vec", ["vectors"])])
def test_every_open_route_is_reached_by_the_models_name(endpoint: str, model: str, instances: list[str]) -> None:
    told = post(endpoint, "/openapi.json", headers={"X-Syshax-Instance": instances[0]}, method="GET")
    paths = json.loads(told[2])["paths"]
    routes = {path for path, verbs in paths.items() if "post" in verbs and "{" not in path} - THE_DAEMONS_OWN
    assert routes > ({"/v1/responses", "/v1/messages"} if model == MODEL else {"/v1/rerank", "/v1/score", "/pooling"})
    for path in sorted(routes):
        status, placement, text = post(endpoint, path, json.dumps(BODY | {"model": model}).encode())
        assert set((placement or "none").split("+")) <= set(instances), (path, status, text)


@pytest.mark.parametrize("kind", ["application/vnd.api+json", "text/plain", ""])
def test_the_model_counts_in_json_of_any_media_type(endpoint: str, kind: str) -> None:
    data = json.dumps({"model": "vec", "input": "one"}).encode()
    assert post(endpoint, "/v1/embeddings", data, {"Content-Type": kind})[1] == "vectors"


def test_a_form_and_a_path_name_the_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(model="vec", file=("a.wav", b"RIFF"))
    assert "the model 'vec'; it has /v1/embeddings" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF"))
    assert "'whisper' does not exist; available:" in caught.value.message
    assert client.models.retrieve("vec").id == "vec"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert "minivec" in caught.value.message


def post(
    endpoint: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, str | None, str]:
    """Status, instance, and body of an answer."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    order = urllib.request.Request(endpoint + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(order, timeout=60) as answer:
            return answer.status, answer.headers["X-Syshax-Placement"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["X-Syshax-Placement"], error.read().decode()


def test_metrics_go_by_model(endpoint: str) -> None:
    text = get(f"{endpoint}/metrics")[1].decode()
    assert f'model_name="{MODEL}"' in text
    assert 'model_name="minivec"' in text
    assert "gpt-4o" not in text, "a name that no instance serves makes no label"
