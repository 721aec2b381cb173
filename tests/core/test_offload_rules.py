# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which requests may be split; docs/offload-protocol.md shows the very table that decides."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.handover.rules import CARRIED, WHOLE_RULES, whole_because

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
    "prompt_logprobs": [0, 1],
    "echo": [True],
    "return_prompt_text": [True],
    "suffix": ["end"],
    "stop": ["\n", ["a", "b"]],
    "presence_penalty": [0.5],
    "frequency_penalty": [-0.5],
    "bad_words": [["x"]],
    "truncate_prompt_tokens": [10, -1],
    "thinking_token_budget": [100],
    "repetition_detection": [{"n": 3}],
    "watermarking": [True],
    "vllm_xargs": [{"a": 1}],
    "logits_processors": [["x"]],
    "kv_transfer_params": [{"do_remote_decode": True}],
    "ec_transfer_params": [{"a": 1}],
}
SPLIT: dict[str, list[Any]] = {
    "n": [1, None],
    "prompt": ["text", [1, 2, 3], []],
    "messages": [[{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [{"role": "assistant"}]],
    "max_tokens": [2, None],
    "response_format": [{"type": "text"}, None],
    "logprobs": [False],
    "stop": [[], "", None],
    "presence_penalty": [0, 0.0],
    "tools": [[]],
    "kv_transfer_params": [{}],
    "include_reasoning": [True],
    "repetition_penalty": [1.2],
}


def test_every_row_has_values_that_keep_a_request_whole() -> None:
    assert set(WHOLE) == {field for rule in WHOLE_RULES for field in rule.fields}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WHOLE.items() for value in values])
def test_a_request_stays_whole_for_the_row_of_its_field(field: str, value: Any) -> None:
    (rule,) = [rule for rule in WHOLE_RULES if field in rule.fields]
    assert whole_because(CHAT | {field: value}) == f"{field}: {rule.why}"


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in SPLIT.items() for value in values])
def test_a_request_without_any_of_these_may_be_split(field: str, value: Any) -> None:
    assert whole_because(CHAT | {field: value}) == ""


@given(st.text(min_size=1).filter(lambda name: name not in CARRIED and name not in WHOLE), st.integers())
def test_an_unknown_field_keeps_a_request_whole(name: str, value: int) -> None:
    assert whole_because(CHAT | {name: value}).startswith(f"{name}: not known")
    assert whole_because(CHAT | {name: None}) == ""


def test_the_document_shows_this_table() -> None:
    rows = [f"| {', '.join(f'`{name}`' for name in rule.fields)} | {rule.when} | {rule.why} |" for rule in WHOLE_RULES]
    table = "| field | value | because |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    assert table in DOC.read_text("utf-8")
