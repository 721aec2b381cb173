# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Answers that two simulated instances make together: the client cannot tell them from one instance's."""

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import openai
import pytest

from syshax_sim import Faults
from syshax_sim.text import answer, count_tokens, render_chat
from syshaxd.core.events import EventKind
from syshaxd.core.handover.pairs import Refusal
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.rules import Policy
from tests.fakes.handover import FAST, Duo, duo

MESSAGES = [{"role": "user", "content": "Introduce openEuler. " * 20}]
PROMPT = render_chat(MESSAGES)
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES, "max_tokens": 20}
TEXT = "Introduce openEuler. " * 20
OFFLOAD = "/v1/chat/pd_disagg"
ON_GPU = {"X-Syshax-Place": "gpu"}
TOO_LONG = {"messages": [{"role": "user", "content": "word" * 40_000}]}
USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def text_of(events: list[Any]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


def without_times(value: Any) -> Any:
    """An answer or event without what differs from one request to the next."""
    return {name: item for name, item in value.items() if name not in {"id", "created"}}


def full_gpu() -> Snapshot:
    return Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=1, waiting=300)})


class TestOneInstancesAnswer:
    """What the client gets is what one instance would have sent."""

    @pytest.mark.parametrize("options", [{}, USAGE, USAGE | {"return_token_ids": True}, {"return_token_ids": True}])
    async def test_a_chats_stream(self, options: dict[str, Any]) -> None:
        async with duo() as both:
            plain, _ = await both.events("/v1/chat/completions", CHAT | options, headers=ON_GPU)
            events, placement = await both.events(OFFLOAD, CHAT | options)
            assert placement == "gpu+cpu"
            assert text_of(events) == answer(PROMPT, 20)
            assert len({(event["id"], event["created"]) for event in events}) == 1
            assert [without_times(event) for event in events] == [without_times(event) for event in plain]

    @pytest.mark.parametrize("options", [{}, {"return_token_ids": True}])
    async def test_a_whole_chat(self, options: dict[str, Any]) -> None:
        async with duo() as both:
            plain, _ = await both.whole("/v1/chat/completions", CHAT | options, headers=ON_GPU)
            body, placement = await both.whole(OFFLOAD, CHAT | options)
            assert placement == "gpu+cpu"
            assert without_times(body) == without_times(plain)

    @pytest.mark.parametrize("options", [{}, USAGE, {"return_token_ids": True}])
    async def test_a_text_completion_streamed_and_whole(self, options: dict[str, Any]) -> None:
        async with duo(snapshot=full_gpu) as both:
            body = {"model": "m", "prompt": TEXT, "max_tokens": 9, **options}
            plain, _ = await both.events("/v1/completions", body, headers=ON_GPU)
            events, placement = await both.events("/v1/completions", body)
            assert placement == "gpu+cpu"
            assert text_of(events) == answer(TEXT, 9)
            assert [without_times(event) for event in events] == [without_times(event) for event in plain]
            body.pop("stream_options", None)
            one, _ = await both.whole("/v1/completions", body, headers=ON_GPU)
            two, placement = await both.whole("/v1/completions", body)
            assert placement == "gpu+cpu"
            assert without_times(two) == without_times(one)

    async def test_with_instances_that_take_no_chat_as_tokens(self) -> None:
        async with duo(version="0.26.0") as both:
            plain, _ = await both.events("/v1/chat/completions", CHAT | USAGE, headers=ON_GPU)
            events, placement = await both.events(OFFLOAD, CHAT | USAGE)
            assert placement == "gpu+cpu"
            assert [without_times(event) for event in events] == [without_times(event) for event in plain]
            assert both.cpu.engine.counters.prompt_tokens == 1

    async def test_the_official_client_is_content(self) -> None:
        async with duo(snapshot=full_gpu) as both, openai.AsyncOpenAI(base_url=both.url + "/v1", api_key="x") as client:
            whole = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20)
            assert whole.choices[0].message.content == answer(PROMPT, 20)
            assert whole.usage is not None
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (count_tokens(PROMPT), 20)
            stream = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=20, stream=True)
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer(PROMPT, 20)
            assert chunks[-1].choices[0].finish_reason == "length"
            assert both.metrics.records[-1].placement == "gpu+cpu"


class TestHandover:
    async def test_the_cpu_computes_one_token_of_the_prompt_and_makes_all_tokens_but_the_first(self) -> None:
        async with duo() as both:
            await both.events(OFFLOAD, CHAT)
            assert both.gpu.engine.counters.generation_tokens == 1
            assert both.cpu.engine.counters.generation_tokens == 19
            assert both.cpu.engine.counters.prompt_tokens == 1
            assert both.cpu.engine.counters.loaded_tokens == count_tokens(PROMPT)
            (record,) = both.metrics.records
            assert (record.outcome, record.tokens_in, record.tokens_out) == (Outcome.OK, count_tokens(PROMPT), 20)
            (handover,) = record.handovers
            assert (handover.source, handover.target, handover.cause) == ("gpu", "cpu", "offload")
            assert handover.cached_tokens == handover.known_tokens - 1 == count_tokens(PROMPT)

    async def test_what_is_not_found_is_computed_again(self) -> None:
        async with duo() as both:
            both.cpu.set_faults(Faults(lose_loads=True))
            events, _ = await both.events(OFFLOAD, CHAT)
            assert text_of(events) == answer(PROMPT, 20)
            assert both.cpu.engine.counters.prompt_tokens == count_tokens(PROMPT) + 1
            assert both.metrics.records[0].handovers[0].cached_tokens == 0
            (event,) = [event for event in both.engine.events.latest() if event.kind is EventKind.HANDOVER]
            assert event.instance == "cpu"
            assert "recomputed" in event.text

    async def test_an_answer_that_ends_with_its_first_token_needs_no_second_instance(self) -> None:
        async with duo(replace(FAST, answer_tokens=1)) as both:
            plain, _ = await both.events("/v1/chat/completions", CHAT | USAGE, headers=ON_GPU)
            events, _ = await both.events(OFFLOAD, CHAT | USAGE)
            assert [without_times(event) for event in events] == [without_times(event) for event in plain]
            body, _ = await both.whole(OFFLOAD, CHAT)
            assert body["choices"][0]["finish_reason"] == "stop"
            assert both.cpu.requests == 0

    @pytest.mark.parametrize("content", ["a", "bb", "ccc", "dddd", "eeeee"])
    async def test_a_first_token_that_is_part_of_a_character_is_made_again(self, content: str) -> None:
        """Here the answer begins so: the prompt ends in three tokens of an answer."""
        now = [Snapshot()]
        profile, policy = replace(FAST, wide_characters=True), Policy(name="turn", offload_min_prompt_tokens=0)
        async with duo(profile, policy=policy, snapshot=lambda: now[-1]) as both:
            ids, _ = await both.whole("/v1/completions", {"model": "m", "prompt": content, "max_tokens": 3,
                                                          "return_token_ids": True}, headers=ON_GPU)  # fmt: skip
            choice = ids["choices"][0]
            body = {"model": "m", "prompt": choice["prompt_token_ids"] + choice["token_ids"], "max_tokens": 8}
            plain, _ = await both.events("/v1/completions", body, headers=ON_GPU)
            now.append(full_gpu())  # what follows is offloaded
            events, placement = await both.events("/v1/completions", body)
            assert placement == "gpu+cpu"
            assert text_of(events) == text_of(plain)
            assert "�" not in text_of(events)
            assert both.metrics.records[-1].tokens_out == 8


class TestPromptAlone:
    """Answers that stay on one instance: another computes the prompt."""

    @pytest.mark.parametrize("options", [{"seed": 1}, {"stop": "zzz"}, {"unheard_of": 1}], ids=str)
    async def test_the_client_gets_what_the_target_makes(self, options: dict[str, Any]) -> None:
        async with duo() as both:
            plain, _ = await both.events("/v1/chat/completions", CHAT | USAGE | options, headers=ON_GPU)
            events, placement = await both.events(OFFLOAD, CHAT | USAGE | options)
            assert placement == "gpu+cpu"
            assert text_of(events) == text_of(plain) == answer(PROMPT, 20)
            assert both.cpu.engine.counters.generation_tokens == 20
            assert both.cpu.engine.counters.prompt_tokens == 1
            (handover,) = both.metrics.records[-1].handovers
            assert (handover.result, handover.known_tokens) == ("loaded", count_tokens(PROMPT))
            assert handover.gap_s is not None
            whole, _ = await both.whole("/v1/chat/completions", CHAT | options, headers=ON_GPU)
            got, placement = await both.whole(OFFLOAD, CHAT | options)
            assert placement == "gpu+cpu"
            assert without_times(got)["choices"] == without_times(whole)["choices"]

    async def test_what_is_refused_is_refused_by_the_first_instance(self) -> None:
        async with duo() as both:
            async with both.post(OFFLOAD, CHAT | {"seed": 1, "max_tokens": 99_999}) as got:
                assert got.status == 400
            assert both.cpu.requests == 0

    async def test_a_target_that_fails_before_its_first_byte_is_replaced(self) -> None:
        async with duo() as both:
            both.cpu.set_faults(Faults(api_status=500))
            body, placement = await both.whole(OFFLOAD, CHAT | {"seed": 1})
            assert placement == "gpu"
            assert body["choices"][0]["message"]["content"] == answer(PROMPT, 20)

    async def test_an_error_about_one_token_is_not_the_answer(self) -> None:
        """The first instance gets the client's own request then, and its answer to that counts."""
        async with duo() as both:
            both.gpu.set_faults(Faults(api_status=500))
            body, placement = await both.whole(OFFLOAD, CHAT | {"seed": 1})
            assert placement == "cpu"
            assert body["choices"][0]["message"]["content"] == answer(PROMPT, 20)
            assert both.gpu.requests == 2

    async def test_without_a_saved_kv_cache_the_first_instance_answers(self) -> None:
        async with duo(replace(FAST, arena_bytes=1)) as both:
            _, placement = await both.whole(OFFLOAD, CHAT | {"seed": 1})
            assert placement == "gpu"
            assert both.cpu.requests == 0

    async def test_explain_tells_why_the_answer_stays(self) -> None:
        async with duo() as both:
            await both.whole(OFFLOAD, CHAT | {"seed": 1})
            (decided,) = both.engine.requests.decisions.latest()
            assert decided.request.split_limits == (
                "its answer stays on one instance: seed: the state of its random numbers stays behind",
            )


class TestPlacement:
    async def test_a_full_gpu_hands_over_what_can_be_split_and_is_long_enough(self) -> None:
        async with duo(snapshot=full_gpu) as both:
            assert (await both.whole("/v1/chat/completions", CHAT))[1] == "gpu+cpu"
            assert (await both.whole("/v1/chat/completions", CHAT | {"n": 2}))[1] == "cpu"
            short = CHAT | {"messages": [{"role": "user", "content": "hi"}]}
            assert (await both.whole("/v1/chat/completions", short))[1] == "cpu"

    async def test_a_gpu_with_room_makes_all_of_it(self) -> None:
        async with duo() as both:
            assert (await both.whole("/v1/chat/completions", CHAT))[1] == "gpu"

    async def test_what_cannot_be_split_is_placed_whole_even_if_an_offload_is_asked_for(self) -> None:
        async with duo() as both:
            assert (await both.whole(OFFLOAD, CHAT | {"n": 2}))[1] == "gpu"

    async def test_a_pair_that_is_not_allowed_does_not_hand_over(self) -> None:
        async with duo(pair_refusal=lambda source, target: Refusal(f"{source} and {target} do not agree")) as both:
            assert (await both.whole(OFFLOAD, CHAT))[1] == "gpu"
            assert both.handover.report()["gpu", "cpu"] == "gpu and cpu do not agree"


class TestFailures:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("wrong", [{"max_tokens": 99_999}, TOO_LONG, {"min_tokens": "many"}])
    async def test_a_refused_request_gets_the_instances_own_error(self, wrong: dict[str, Any], stream: bool) -> None:
        async with duo() as both:
            body = CHAT | {"stream": stream} | wrong
            async with both.post("/v1/chat/completions", body, headers=ON_GPU) as got:
                expected = got.status, await got.json()
            async with both.post(OFFLOAD, body) as got:
                assert (got.status, await got.json()) == expected
            assert both.supervisor.suspected == []

    async def test_a_failed_prefill_is_answered_by_the_other_instance_alone(self) -> None:
        async with duo() as both:
            both.gpu.set_faults(Faults(api_status=500))
            body, placement = await both.whole(OFFLOAD, CHAT)
            assert placement == "cpu"
            assert body["choices"][0]["message"]["content"] == answer(PROMPT, 20)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_an_answer_whose_kv_cache_could_not_be_saved_stays_where_its_prompt_was_computed(
        self, stream: bool
    ) -> None:
        async with duo(replace(FAST, arena_bytes=1), snapshot=full_gpu) as both:
            if stream:
                events, placement = await both.events("/v1/chat/completions", CHAT)
                text = text_of(events)
            else:
                body, placement = await both.whole("/v1/chat/completions", CHAT)
                text = body["choices"][0]["message"]["content"]
            assert text == answer(PROMPT, 20)
            assert placement == "gpu"
            assert both.cpu.requests == 0
            assert not both.metrics.records[0].handovers

    async def test_an_offload_that_the_client_insists_on_happens_without_a_kv_cache_too(self) -> None:
        async with duo(replace(FAST, arena_bytes=1)) as both:
            events, placement = await both.events(OFFLOAD, CHAT)
            assert (text_of(events), placement) == (answer(PROMPT, 20), "gpu+cpu")
            assert both.cpu.engine.counters.loaded_tokens == 0

    async def test_a_refused_decode_goes_on_where_the_prefill_was(self) -> None:
        async with duo() as both:
            both.cpu.set_faults(Faults(api_status=500))
            events, _ = await both.events(OFFLOAD, CHAT)
            assert text_of(events) == answer(PROMPT, 20)
            assert both.supervisor.suspected == ["cpu"]
            body, _ = await both.whole(OFFLOAD, CHAT)
            assert body["choices"][0]["message"]["content"] == answer(PROMPT, 20)

    @pytest.mark.parametrize("tokens", [1, 5, 18])
    async def test_a_decode_that_breaks_goes_on_where_the_prefill_was(self, tokens: int) -> None:
        async with duo() as both:
            both.cpu.set_faults(Faults(break_after_events=tokens))
            events, _ = await both.events(OFFLOAD, CHAT | USAGE)
            assert text_of(events) == answer(PROMPT, 20)
            assert events[-1]["usage"]["completion_tokens"] == 20
            causes = [handover.cause for handover in both.metrics.records[0].handovers]
            assert causes == ["offload", "failure"]

    async def test_when_nobody_can_go_on_the_stream_ends_with_an_error_event(self) -> None:
        async with duo() as both:
            both.cpu.set_faults(Faults(break_after_events=3))
            both.gpu.set_faults(Faults(api_status=503, api_faults=0))
            async with both.post(OFFLOAD, CHAT | {"stream": True}) as got:
                assert got.status == 502 or b'"error"' in await got.read()

    async def test_a_client_that_leaves_frees_both_places(self) -> None:
        async with duo(replace(FAST, step_base_s=0.01)) as both:
            async with both.post(OFFLOAD, CHAT | {"stream": True, "max_tokens": 5000}) as got:
                await got.content.readany()
                assert await _eventually(lambda: bool(both.cpu.engine.running))
                got.close()
            assert await _eventually(lambda: not both.cpu.engine.running and not _inflight(both))
            assert both.metrics.records[0].outcome is Outcome.CLIENT_GONE


def _inflight(both: Duo) -> int:
    return sum(both.engine.inflight.values())


async def _eventually(condition: Any) -> bool:
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.sleep(0.005)
    return True


async def test_two_hundred_offloads_at_once_lose_nothing() -> None:
    async with duo(snapshot=full_gpu, slots=512) as both:

        async def one(number: int) -> None:
            text = f"{number} " * 150
            body = {"model": "m", "prompt": text, "max_tokens": 30}
            if number % 10 < 3:
                async with both.post("/v1/completions", body | {"stream": True}) as got:
                    await got.content.readany()
                    got.close()
                return
            if number % 2:
                events, _ = await both.events("/v1/completions", body)
                assert text_of(events) == answer(text, 30)
            else:
                whole, _ = await both.whole("/v1/completions", body)
                assert whole["choices"][0]["text"] == answer(text, 30)

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            both.session = session
            for number in range(200):
                group.create_task(one(number))
        assert await _eventually(lambda: not _inflight(both))
        assert await _eventually(lambda: not both.cpu.engine.running and not both.gpu.engine.running)
        assert len(both.metrics.records) == 200
        done = [record for record in both.metrics.records if record.outcome is Outcome.OK]
        assert all(record.placement == "gpu+cpu" for record in both.metrics.records)
        assert len(done) >= 140


FIELDS = (
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "logprobs",
    "stop",
    "temperature",
    "messages",
    "model",
    "kv_transfer_params",
    "return_token_ids",
    "echo",
    "tools",
    "response_format",
    "ignore_eos",
)


async def test_no_value_of_a_field_costs_a_slot() -> None:
    odd = (["x"], {"a": 1}, "4", 4.0, -1, float("nan"), True, None, "", [[]], 2**70)
    async with duo() as both:
        for field_ in FIELDS:
            for value in odd:
                body = CHAT | {"stream": True, field_: value}
                async with both.post("/v1/chat/completions", body) as answer:
                    await answer.read()
        assert await _eventually(lambda: not both.engine.unreleased())
