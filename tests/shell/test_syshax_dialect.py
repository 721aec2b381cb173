# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Offloads between two simulated instances that speak the dialect of the patched images 0.2.x."""

from typing import Any

import pytest

from syshax_sim import Faults, Images
from syshax_sim.text import answer, render_chat
from syshaxd.core.loads import InstanceLoad, Snapshot
from tests.fakes.handover import Duo, duo

MESSAGES = [{"role": "user", "content": "Introduce openEuler. " * 20}]
PROMPT = render_chat(MESSAGES)
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES, "max_tokens": 20}
OFFLOAD = "/v1/chat/pd_disagg"
USAGE = {"stream_options": {"include_usage": True}}


def both_speak(**gpu_and_cpu: Any) -> dict[str, Images]:
    return {"gpu": Images(**gpu_and_cpu), "cpu": Images(**gpu_and_cpu)}


def text_of(events: list[Any]) -> str:
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def requests(both: Duo) -> tuple[int, int]:
    return both.sims["gpu"].requests, both.sims["cpu"].requests


@pytest.mark.parametrize("restates", [True, False])
@pytest.mark.parametrize("part_tokens", [None, 5])
async def test_a_stream_is_that_of_one_instance(restates: bool, part_tokens: int | None) -> None:
    async with duo(images=both_speak(restates=restates, part_tokens=part_tokens)) as both:
        events, placement = await both.events(OFFLOAD, CHAT | USAGE)
        assert placement == "gpu+cpu"
        assert text_of(events) == answer(PROMPT, 20)
        assert len({event["id"] for event in events}) == 1
        assert [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]] == ["length"]
        assert events[-1]["usage"]["completion_tokens"] == 20
        assert requests(both) == (1, 1 if part_tokens is None else 4)  # 18 tokens follow the prefill's two


async def test_a_whole_answer_is_that_of_one_instance() -> None:
    async with duo(images=both_speak(part_tokens=5)) as both:
        body, placement = await both.whole(OFFLOAD, CHAT)
        assert placement == "gpu+cpu"
        (choice,) = body["choices"]
        assert choice["message"]["content"] == answer(PROMPT, 20)
        assert choice["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 20


async def test_the_cpu_does_not_compute_the_prompt() -> None:
    async with duo(images=both_speak()) as both:
        await both.whole(OFFLOAD, CHAT)
        assert both.sims["cpu"].engine.counters.prompt_tokens == 1


async def test_a_part_that_ends_is_decided_again() -> None:
    """The CPU helps a full GPU; once that has room again, the rest goes back."""
    full = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=1, waiting=300)})
    now = [full]
    async with duo(images=both_speak(part_tokens=5), snapshot=lambda: now[0]) as both:
        body = CHAT | {"stream": True}
        async with both.session.post(f"{both.url}/v1/chat/completions", json=body) as response:
            assert response.headers["x-syshax-placement"] == "gpu+cpu"
            now[0] = Snapshot()
            await response.read()
        assert requests(both)[0] > 1
        assert sum(requests(both)) == 5


async def test_text_completions_stay_whole() -> None:
    full = Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=1, waiting=300)})
    async with duo(images=both_speak(), snapshot=lambda: full) as both:
        body = {"model": "m", "prompt": "word " * 200, "max_tokens": 5}
        _, placement = await both.whole("/v1/completions", body)
        assert placement == "cpu"


async def test_with_a_reasoning_parser_a_stream_is_that_of_one_instance() -> None:
    async with duo(images=both_speak(), argv=("--reasoning-parser", "deepseek_r1")) as both:
        events, placement = await both.events(OFFLOAD, CHAT)
        assert placement == "gpu+cpu"
        assert text_of(events) == answer(PROMPT, 20)


@pytest.mark.parametrize("body", [CHAT, CHAT | {"stream": True}])
async def test_when_the_cpu_fails_the_gpu_goes_on_with_the_text(body: dict[str, Any]) -> None:
    async with duo(images=both_speak()) as both:
        both.sims["cpu"].set_faults(Faults(api_status=500))
        async with both.session.post(f"{both.url}{OFFLOAD}", json=body) as response:
            assert response.status == 200
            data = await response.read()
        assert answer(PROMPT, 2).encode() in data
        assert b"error" not in data
        assert requests(both) == (2, 1)


async def test_a_chat_that_needs_no_help_is_relayed_as_it_is() -> None:
    async with duo(images=both_speak()) as both:
        events, placement = await both.events("/v1/chat/completions", CHAT)
        assert placement == "gpu"
        assert text_of(events) == answer(PROMPT, 20)
