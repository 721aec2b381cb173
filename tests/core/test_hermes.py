# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is told of a text with calls of tools. tests/e2e/test_held_back.py compares it with vLLM's own parser."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.handover.hermes import HermesParser

PARTS = ["a", "<", "<tool", "_call>", "<tool_call>", '{"name": "f", ', '"arguments": ', '{"x": "y', '"}', "}", " "]
PARTS += ["</tool", "</tool_call>", "\n", '{"name": "g"}']


def told(*deltas: dict[str, Any]) -> tuple[str, list[tuple[int, str, str]]]:
    """The content, and of each call its index, name and arguments."""
    calls: dict[int, tuple[str, str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            name, arguments = calls.get(call["index"], ("", ""))
            function = call["function"]
            calls[call["index"]] = name + function.get("name", ""), arguments + function.get("arguments", "")
    content = "".join(delta.get("content", "") for delta in deltas)
    return content, [(index, *calls[index]) for index in sorted(calls)]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("just text <b>", "just text <b>", []),
        ("held <tool", "held ", []),
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "", [(0, "f", '{"x": 1}')]),
        ('a<tool_call>{"name": "f", "arguments": {"x": "<tool_call>', "a", [(0, "f", '{"x": "<tool_call>')]),
        (
            '<tool_call>{"name": "f", "arguments": {}}</tool_call>b<tool_call>{"arguments": 1, "name": "g"} ',
            "",
            [(0, "f", "{}"), (1, "g", '1, "name": "g"')],
        ),
        ('<tool_call>{"nome": "f"}</tool_call><tool_call>{"name": "g", "arguments": 1}</tool_call>', "", []),
    ],
)
def test_what_is_told(text: str, content: str, calls: list[tuple[int, str, str]]) -> None:
    assert told(HermesParser().push(text)) == (content, calls)


def test_a_call_that_the_answers_end_cuts_off_has_arguments() -> None:
    assert told(HermesParser().push('<tool_call>{"name": "f"', last=True)) == ("", [(0, "f", "{}")])


def test_calls_have_ids_of_their_own() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    found = HermesParser().push(call + call)["tool_calls"]
    ids = [each["id"] for each in found if "id" in each]
    assert len(set(ids)) == 2
    assert all(ident.startswith("chatcmpl-tool-") for ident in ids)


@given(st.lists(st.sampled_from(PARTS), max_size=30), st.integers(0, 30))
def test_the_rest_is_told_as_if_the_parser_had_seen_all(parts: list[str], known: int) -> None:
    whole, rest = HermesParser(), HermesParser("".join(parts[:known]))
    for part in parts[:known]:
        whole.push(part)
    for part in parts[known:]:
        one, other = whole.push(part), rest.push(part)
        assert told(one) == told(other)
