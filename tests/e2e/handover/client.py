# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Requests with hand-overs, by token ids."""

import http.client
import itertools
import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_keys = itertools.count(1)


def new_key() -> str:
    return f"test-{next(_keys)}"


def prompt(length: int, seed: int = 0) -> list[int]:
    """Some token ids of the tiny model, always the same for the same arguments."""
    return random.Random(f"{seed} {length}").choices(range(10, 4000), k=length)


def saving(key: str, on: str = "finish") -> dict[str, Any]:
    return {"save": {"key": key, "on": on}}


def loading(key: str) -> dict[str, Any]:
    return {"load": {"key": key}}


def body(token_ids: list[int], tokens: int, handover: dict[str, Any], **more: Any) -> dict[str, Any]:
    transfer = {"kv_transfer_params": {"syshax": handover}} if handover else {}
    return {
        "model": "tiny",
        "prompt": token_ids,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **transfer,
        **more,
    }


def held_to(regex: str) -> dict[str, Any]:
    return {"structured_outputs": {"regex": regex}} if regex else {}


@dataclass(frozen=True)
class Answer:
    token_ids: list[int]
    cached_tokens: int
    transfer: dict[str, Any]
    """What the connector says of the save."""


@dataclass
class Client:
    url: str

    def complete(
        self, token_ids: list[int], tokens: int, timeout_s: float = 60, regex: str = "", **handover: Any
    ) -> Answer:
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(body(token_ids, tokens, handover, **held_to(regex))).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            whole = json.load(answer)
        cached = (whole["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        transfer = (whole.get("kv_transfer_params") or {}).get("syshax", {})
        return Answer(whole["choices"][0]["token_ids"], cached, transfer)

    def stream_and_close(self, token_ids: list[int], enough: int, regex: str = "", **handover: Any) -> list[int]:
        """Streams a long answer, and closes the connection when enough tokens have come. Returns those that came."""
        host = self.url.removeprefix("http://")
        with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            text = json.dumps(body(token_ids, 4096 - len(token_ids), handover, stream=True, **held_to(regex)))
            connection.request("POST", "/v1/completions", text, {"Content-Type": "application/json"})
            got: list[int] = []
            for token_id in _streamed(connection.getresponse()):
                got.append(token_id)
                if len(got) >= enough:
                    break
            return got

    def samples(self, name: str) -> list[Sample]:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]

    def prompt_tokens(self, source: str) -> float:
        """vLLM's own count: local_compute, local_cache_hit, external_kv_transfer."""
        samples = self.samples("vllm:prompt_tokens_by_source_total")
        return sum(sample.value for sample in samples if sample.labels["source"] == source)

    def is_alive(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
                return answer.status == 200
        except urllib.error.URLError:
            return False


def _streamed(response: http.client.HTTPResponse) -> Iterator[int]:
    assert response.status == 200, response.read()
    for line in response:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                yield from choice.get("token_ids") or ()
