# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Streams whose instance holds text back: wherever they move, the client gets what one instance would have sent.

tests/e2e/test_held_back.py does the same with vLLM's own detokenizer and parser.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syshaxd.core.handover.bodies import CHAT_PATH, COMPLETIONS_PATH
from syshaxd.core.handover.held_back import held_back_chars, may_begin_tag
from syshaxd.core.handover.hermes import HermesParser
from tests.fakes.moving import Event, moved

PROMPT = [7, 8, 9]


def completion(tokens: list[str], stop: list[str], known: int) -> Iterator[Event]:
    """What vLLM streams of a text from a token on (v1/engine/detokenizer.py)."""
    text, told, behind = "", 0, held_back_chars({"stream": True, "stop": stop})
    for at in range(known, len(tokens)):
        before, text = len(text), text + tokens[at]
        found = [(place, each) for each in stop if (place := text.find(each, max(0, before - len(each) + 1))) >= 0]
        last = at == len(tokens) - 1
        reason: str | None = None
        if found:
            place, reason = min(found)
            text = text[:place]
        end = len(text) if found or last else max(told, len(text) - behind)
        choice: Event = {"index": 0, "text": text[told:end], "logprobs": None}
        choice |= {"finish_reason": "stop" if found else "length" if last else None, "stop_reason": reason}
        choice |= {"token_ids": [at], "prompt_token_ids": PROMPT if at == known else None}
        told = end
        yield {"id": f"from-{known}", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        if found:
            return


def chat(tokens: list[str], _: list[str], known: int) -> Iterator[Event]:
    """What vLLM streams of a chat with tools and its parser `hermes`, or the plain text of a chat from a token on."""
    head = {"id": f"from-{known}", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    yield {**head, "choices": [role], "prompt_token_ids": PROMPT}
    parser, called = HermesParser(), False
    for at in range(known, len(tokens)):
        last = at == len(tokens) - 1
        delta = {"content": tokens[at]} if known else parser.push(tokens[at], last=last)
        called = called or "tool_calls" in delta
        reason = ("tool_calls" if called else "stop") if last else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, "token_ids": [at]}
        yield {**head, "choices": [choice]}


due_events = st.sets(st.integers(1, 30), max_size=4)


@given(
    tokens=st.lists(st.text("abé", min_size=1, max_size=3), min_size=2, max_size=30),
    stop=st.lists(st.text("abé", min_size=2, max_size=5), min_size=1, max_size=2),
    due=due_events,
)
@settings(deadline=None)
def test_a_stop_string_is_found_wherever_the_stream_moves(tokens: list[str], stop: list[str], due: set[int]) -> None:
    alone, _ = moved(COMPLETIONS_PATH, completion, tokens, stop, set())
    assert moved(COMPLETIONS_PATH, completion, tokens, stop, due)[0] == alone
    assert not any(each in alone[0][0] for each in stop)


PARTS = [
    *("a", " <", "<tool", "_call>", "<tool_call>\n", '{"name": "f', '", ', '"arguments": ', '{"x": "<', "</tool", "é"),
    *('"}', "}", "}}", "</tool_call>", " \n", '{"name": "g", "arguments": {"y": [1, 2'),
]


@given(tokens=st.lists(st.sampled_from(PARTS), min_size=2, max_size=30), due=due_events)
@settings(deadline=None)
def test_calls_are_told_as_by_one_instance_wherever_the_stream_moves(tokens: list[str], due: set[int]) -> None:
    def text_of(ids: list[int]) -> str:
        return "".join(tokens[ident] for ident in ids)

    assert moved(CHAT_PATH, chat, tokens, [], due, text_of)[0] == moved(CHAT_PATH, chat, tokens, [], set())[0]


def thoughts(tokens: list[str], _: list[str], known: int) -> Iterator[Event]:
    """What vLLM streams of reasoning with the parser `qwen3`: no text that may begin a tag."""
    head = {"id": f"from-{known}", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    yield {**head, "choices": [role], "prompt_token_ids": PROMPT}
    text, told = "", 0
    for at in range(known, len(tokens)):
        text += tokens[at]
        last = at == len(tokens) - 1
        held = 0 if last else max(size for size in range(8) if text.endswith("</think>"[:size]))
        delta = {"reasoning": text[told : len(text) - held]} if len(text) - held > told else {}
        told = max(told, len(text) - held)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": "length" if last else None}
        yield {**head, "choices": [choice | {"token_ids": [at]}]}


@given(
    tokens=st.lists(st.sampled_from(["a", " <", "<", "/", "</th", "ink", "b "]), min_size=2, max_size=30),
    due=due_events,
)
@settings(deadline=None)
def test_reasoning_that_may_begin_a_tag_is_lost_nowhere(tokens: list[str], due: set[int]) -> None:
    alone, _ = moved(CHAT_PATH, thoughts, tokens, [], set())
    assert moved(CHAT_PATH, thoughts, tokens, [], due, reasoning_parser="qwen3")[0] == alone
    assert alone[0][3] == "".join(tokens)


@pytest.mark.parametrize(
    ("text", "expected"), [("x<", True), ("</thi", True), ("<function=", True), ("< ", False), ("a<b>", False)]
)
def test_what_may_begin_a_tag(text: str, expected: bool) -> None:
    assert may_begin_tag(text) is expected


def test_such_streams_do_move() -> None:
    assert moved(COMPLETIONS_PATH, completion, ["ab", "cd", "ef", "gh", "ij", "kl"], ["xyz"], {3})[1] == 1
    assert moved(CHAT_PATH, thoughts, ["a", "b", "c", "d"], [], {2}, reasoning_parser="qwen3")[1] == 1
    call = ["a", "<tool_call>", '{"name": "f", "arguments": {', '"x": 1', "}", "}"]
    assert moved(CHAT_PATH, chat, call, [], {3, 5}, lambda ids: "".join(call[ident] for ident in ids))[1] == 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"stream": True, "stop": "abc"}, 2),
        ({"stream": True, "stop": ["a", "abcd", 5]}, 3),
        ({"stream": True, "stop": ""}, 0),
        ({"stream": True}, 0),
        ({"stop": "abc"}, 0),
        ({"stream": True, "stop": "abc", "include_stop_str_in_output": True}, 0),
    ],
)
def test_how_much_is_held_back(body: dict[str, Any], expected: int) -> None:
    assert held_back_chars(body) == expected
