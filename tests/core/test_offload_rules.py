# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where requests may be split; docs/offload-protocol.md shows the very tables that decide."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.handover.rules import (
    CARRIED,
    STAY_RULES,
    WHOLE_RULES,
    FieldRule,
    Split,
    split_of,
    whole_answer_because,
)

DOC = Path(__file__).parents[2] / "docs" / "offload-protocol.md"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stream": True}

WHOLE: dict[str, list[Any]] = {
    "n": [2],
    "best_of": [3],
    "use_beam_search": [True],
    "prompt": [["one", "two"], [[1, 2], [3]], ["one"]],
    "prompt_embeds": ["AAAA"],
    "messages": [
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "input_audio"}]}],
        "hi",
    ],
    "max_tokens": [1, 0, -1, "9"],
    "max_completion_tokens": [1],
    "max_output_tokens": [1],
    "input": [[{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]],
    "prompt_logprobs": [0, 1],
    "echo": [True],
    "suffix": ["end"],
    "kv_transfer_params": [{"do_remote_decode": True}],
    "ec_transfer_params": [{"a": 1}],
}
STAY: dict[str, list[Any]] = {
    "seed": [0, 7],
    "response_format": [{"type": "json_object"}, {"type": "json_schema"}, "text"],
    "structured_outputs": [{"choice": ["a"]}],
    "guided_json": [{}],
    "guided_regex": ["a+"],
    "guided_choice": [["a"]],
    "guided_grammar": ["root ::= x"],
    "tools": [[{"type": "function"}]],
    "functions": [[{"name": "f"}]],
    "include_reasoning": [False],
    "logprobs": [True, 0, 5],
    "return_prompt_text": [True],
    "stop": ["\n\n", ["a", "bc"], [1], 5],
    "presence_penalty": [0.5],
    "frequency_penalty": [-0.5],
    "bad_words": [["x"]],
    "truncate_prompt_tokens": [10, -1],
    "thinking_token_budget": [100, 0],
    "repetition_detection": [{"n": 3}],
    "watermarking": [True],
    "vllm_xargs": [{"a": 1}],
    "logits_processors": [["x"]],
}
SPLIT: dict[str, list[Any]] = {
    "n": [1, None],
    "prompt": ["text", [1, 2, 3], []],
    "messages": [[{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [{"role": "assistant"}]],
    "max_tokens": [2, None],
    "response_format": [{"type": "text"}, None],
    "logprobs": [False],
    "stop": [[], "", None, "\n", ["a", "é"]],
    "presence_penalty": [0, 0.0],
    "tools": [[]],
    "kv_transfer_params": [{}],
    "include_reasoning": [True],
    "repetition_penalty": [1.2],
    "input": ["hi", [{"role": "user", "content": [{"type": "input_text", "text": "input_image"}]}]],
    "best_of": [1],
    "use_beam_search": [False],
    "seed": [None],
    "logit_bias": [{}, {"5": 1.0}],
    "echo": [False],
    "suffix": [""],
    "functions": [[]],
    "structured_outputs": [None],
    "vllm_xargs": [{}],
    "truncate_prompt_tokens": [None],
}
NEUTRAL: list[dict[str, Any]] = [
    {"seed": 7, "temperature": 0},
    {"seed": 7, "temperature": 0.0},
    {"logprobs": True, "top_logprobs": 3},
    {"logprobs": 5},
    {"tools": [{"type": "function"}], "tool_choice": "none"},
    {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function"}], "tool_choice": "auto"},
    {"tools": [{"type": "function", "function": {"strict": False}}], "parallel_tool_calls": True},
    {"tools": [{"function": {"strict": True}}], "parallel_tool_calls": False, "tool_choice": "none"},
    {"stop": ["Observation:", "\n\n"]},
    {"response_format": {"type": "json_object"}},
    {"structured_outputs": {"regex": "a+"}},
]
"""Values that another field makes harmless."""


def test_every_row_has_values_that_keep_a_request_whole() -> None:
    assert set(WHOLE) == {field for rule in WHOLE_RULES for field in rule.fields}
    assert set(STAY) == {field for rule in STAY_RULES for field in rule.fields}


def cases(values: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(field, value) for field, each in values.items() for value in each]


@pytest.mark.parametrize(("field", "value"), cases(WHOLE))
def test_a_request_stays_whole_for_the_row_of_its_field(field: str, value: Any) -> None:
    (rule,) = [rule for rule in WHOLE_RULES if field in rule.fields]
    assert split_of(CHAT | {"seed": 7, field: value}) == Split(why := f"{field}: {rule.why}", why)


@pytest.mark.parametrize(("field", "value"), cases(STAY))
def test_an_answer_stays_on_one_instance_for_the_row_of_its_field(field: str, value: Any) -> None:
    (rule,) = [rule for rule in STAY_RULES if field in rule.fields]
    assert split_of(CHAT | {"stream": False, field: value}) == Split("", f"{field}: {rule.why}")


@pytest.mark.parametrize("more", [*({field: value} for field, value in cases(SPLIT)), *NEUTRAL])
def test_a_request_without_any_of_these_may_be_split_anywhere(more: dict[str, Any]) -> None:
    assert split_of(CHAT | more) == Split("", "")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{}], "tool_choice": "required"},
        {"tools": [{}], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [{"function": {"strict": True}}]},
        {"tools": [{}], "parallel_tool_calls": False},
        {"stop": "ab", "logprobs": True},
        {"stop": "ab", "return_token_ids": True},
        {"stop": "ab", "include_stop_str_in_output": True},
        {"stop": ["ab", 5]},
    ],
)
def test_what_a_stream_does_not_make_harmless(more: dict[str, Any]) -> None:
    assert split_of(CHAT | more).stays_because


def test_who_must_make_the_first_token() -> None:
    assert whole_answer_because(CHAT | {"response_format": {"type": "json_object"}}).startswith("response_format: ")
    assert whole_answer_because(CHAT | {"response_format": {"type": "text"}}) == ""
    assert whole_answer_because(CHAT | {"stop": "ab"}).startswith("stop: ")
    assert whole_answer_because(CHAT | {"tools": [{}]}).startswith("tools: ")
    assert whole_answer_because(CHAT | {"tools": [{}], "tool_choice": "none", "stop": "a"}) == ""


def test_a_seed_counts_with_any_other_temperature() -> None:
    for temperature in (0.7, None, "0", False):
        assert split_of(CHAT | {"seed": 7, "temperature": temperature}).stays_because


KNOWN = {*CARRIED, *WHOLE, *STAY}


@given(st.text(min_size=1).filter(lambda name: name not in KNOWN), st.integers())
def test_an_unknown_field_keeps_an_answer_on_one_instance(name: str, value: int) -> None:
    split = split_of(CHAT | {name: value})
    assert split.whole_because == ""
    assert split.stays_because.startswith(f"{name}: not known")
    assert split_of(CHAT | {name: None}) == Split("", "")


@pytest.mark.parametrize("rules", [WHOLE_RULES, STAY_RULES], ids=["whole", "stay"])
def test_the_document_shows_these_tables(rules: tuple[FieldRule, ...]) -> None:
    rows = [f"| {', '.join(f'`{name}`' for name in rule.fields)} | {rule.when} | {rule.why} |" for rule in rules]
    table = "| field | value | because |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    assert table in DOC.read_text("utf-8")
