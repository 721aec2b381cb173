# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A client of streams that move, and the instances behind it. Needs no more than the standard library and our core."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from syshaxd.core.handover.bodies import CHAT_PATH
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.passing import PassedStream

Event = dict[str, Any]
Instance = Callable[[list[Any], list[str], int], Iterator[Event]]
"""Streams the answer that has these tokens, with these stop strings, from a token on: a chat as plain text then."""


USAGE = {"stream_options": {"include_usage": True}}


def sse(event: Event) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def told(data: bytes) -> tuple[Any, ...]:
    """Text, names and arguments of calls, reasoning, how it ended, and its usage."""
    text, names, arguments, reasoning, ending = "", "", "", "", (None, None)
    usage: Event = {}
    for block in data.split(b"\n\n"):
        if not block.startswith(b"data: {"):
            continue
        event = json.loads(block.removeprefix(b"data: "))
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            delta = choice.get("delta") or {}
            reasoning += delta.get("reasoning") or ""
            text += choice.get("text") or delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                names += f"{call['index']}:{call['function']['name']}" if "name" in call["function"] else ""
                arguments += call["function"].get("arguments") or ""
            if choice["finish_reason"] is not None:
                ending = choice["finish_reason"], choice.get("stop_reason")
    return text, names, arguments, reasoning, *ending, usage.get("completion_tokens_details")


def moved(
    path: str,
    instance: Instance,
    tokens: list[Any],
    stop: list[str],
    due: set[int],
    text_of: Callable[[list[int]], str] = lambda ids: "",
    reasoning_parser: str = "",
    reasoning_tags: tuple[int, ...] = (),
) -> tuple[tuple[Any, int], int]:
    """What the client gets if a move is due at these events, with the count of tokens; and how often it moved."""
    body = {"stream": True, "stop": stop, "tools": [1] if path == CHAT_PATH else [], **USAGE}
    joined = JoinedAnswer(path, body, may_call_tools=path == CHAT_PATH, reasoning_parser=reasoning_parser)
    passed = PassedStream(joined)
    out, events, moving, moves = b"", instance(tokens, stop, 0), False, 0
    number = 0
    while (event := next(events, None)) is not None:
        number += 1
        out += joined.take(event) if joined.parts else passed.read(sse(event))
        assert passed.failure is None
        if number in due:
            moving = True
            joined.look_ahead()
        if moving and joined.may_be_cut and joined.at_token_end and joined.surely_whole:
            assert joined.drop_held_back()
            joined.reasoning_tags = reasoning_tags
            joined.begin_part(text_of(joined.content_ids))
            events, moving, moves = instance(tokens, stop, len(joined.token_ids)), False, moves + 1
    out += joined.end()
    return (told(out), joined.tokens), moves
