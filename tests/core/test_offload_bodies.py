# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The requests that a split answer is made by."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.handover.bodies import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
    continuation_body,
    loading_body,
    movable_body,
    prefill_body,
    prompt_body,
    token_limit,
)

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "stream": True}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}


def prefill(body: dict[str, Any]) -> Any:
    return json.loads(prefill_body(body, "k"))


def rest(body: dict[str, Any], generated: int = 1, *, chat: bool = True, **more: Any) -> Any:
    ids = list(range(100, 100 + generated))
    options = {
        "plain_text": False,
        "keeps_special_tokens": False,
        "grammar_tokens": generated,
        "max_model_len": 4096,
        "load": "l",
        "save": "s",
    } | more
    return json.loads(continuation_body(body, chat=chat, prompt_ids=[1, 2], generated_ids=ids, **options))


def test_a_prefill_asks_for_one_token_its_id_and_to_keep_the_kv() -> None:
    got = prefill(CHAT | {"stream_options": {"include_usage": True}, "temperature": 0.5, "user": "Ünal"})
    assert got == {
        "model": "m",
        "messages": CHAT["messages"],
        "temperature": 0.5,
        "user": "Ünal",
        "max_tokens": 1,
        "stream": False,
        "return_token_ids": True,
        "kv_transfer_params": {"syshax": {"save": {"key": "k", "on": "finish"}}},
    }
    assert prefill(CHAT | {"max_completion_tokens": 50})["max_completion_tokens"] == 1


@pytest.mark.parametrize(("given_", "sent"), [(0, 0), (1, 1), (5, 1), ("many", "many")])
def test_a_prefill_never_asks_for_more_tokens_than_it_may_have(given_: Any, sent: Any) -> None:
    assert prefill(CHAT | {"min_tokens": given_})["min_tokens"] == sent


def test_a_movable_stream_is_the_request_itself() -> None:
    got = json.loads(movable_body(CHAT, "k"))
    assert got == CHAT | {
        "return_token_ids": True,
        "kv_transfer_params": {"syshax": {"save": {"key": "k", "on": "abort"}}},
    }


def test_a_chat_goes_on_from_its_tokens() -> None:
    got = rest(CHAT | {"min_tokens": 5}, 3)
    assert got["kv_transfer_params"] == {
        "prompt_token_ids": [1, 2, 100, 101, 102],
        "syshax": {"load": {"key": "l"}, "save": {"key": "s", "on": "abort"}},
    }
    assert (got["max_tokens"], got["min_tokens"]) == (17, 2)
    assert got["messages"] == CHAT["messages"]
    assert got["stream_options"] == {"include_usage": True}


def test_the_rest_of_a_chat_with_tools_comes_as_plain_text() -> None:
    tools = {"tools": [{}], "tool_choice": "auto", "skip_special_tokens": True}
    got = rest(CHAT | tools, plain_text=True, keeps_special_tokens=True)
    assert (got["tool_choice"], got["skip_special_tokens"]) == ("none", False)
    text = rest(CHAT | tools, chat=False, plain_text=True, keeps_special_tokens=True)
    assert not text.keys() & {"tools", "tool_choice"}
    assert text["skip_special_tokens"] is False


def test_a_chat_goes_on_as_text_where_chats_take_no_tokens() -> None:
    got = rest(CHAT | {"max_completion_tokens": 30, "chat_template_kwargs": {}}, 3, chat=False)
    assert got["prompt"] == [1, 2, 100, 101, 102]
    assert got["max_tokens"] == 27
    assert not {"messages", "max_completion_tokens", "chat_template_kwargs"} & set(got)
    assert "prompt_token_ids" not in got["kv_transfer_params"]


def test_without_a_key_nothing_is_ordered() -> None:
    assert rest(CHAT, load=None, save=None)["kv_transfer_params"] == {"prompt_token_ids": [1, 2, 100]}


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (CHAT, 20),
        (CHAT | {"max_completion_tokens": 7}, 7),
        (CHAT | {"max_tokens": None}, None),
        (TEXT, 16),
        (TEXT | {"max_tokens": 3}, 3),
    ],
)
def test_an_answers_limit(body: dict[str, Any], limit: int | None) -> None:
    assert token_limit(body) == limit


@given(
    st.one_of(st.none(), st.integers(2, 10_000)), st.integers(1, 50), st.booleans(), st.sampled_from([None, 100, 4096])
)
def test_both_parts_together_have_the_limit_of_the_request(
    limit: int | None, generated: int, chat: bool, max_model_len: int | None
) -> None:
    for body in (CHAT | {"max_tokens": limit}, CHAT | {"max_completion_tokens": limit, "max_tokens": None}):
        got = rest(body, generated, chat=chat, max_model_len=max_model_len)
        allowed = [number for number in (limit, max_model_len and max_model_len - 2) if number]
        sent = got.get("max_completion_tokens") or got.get("max_tokens")
        if allowed:
            assert sent == min(allowed) - generated
        else:
            assert sent is None


@pytest.mark.parametrize(
    ("path", "limit", "changed"),
    [
        (CHAT_PATH, {"max_tokens": 9}, {"max_tokens": 1}),
        (
            CHAT_PATH,
            {"max_completion_tokens": 9, "min_tokens": 5},
            {"max_tokens": 1, "max_completion_tokens": 1, "min_tokens": 1},
        ),
        (COMPLETIONS_PATH, {}, {"max_tokens": 1}),
        (RESPONSES_PATH, {"max_output_tokens": 9}, {"max_output_tokens": 1, "store": False}),
        (MESSAGES_PATH, {"max_tokens": 9}, {"max_tokens": 1}),
    ],
)
def test_a_prompt_is_asked_for_with_all_that_it_is_made_of(
    path: str, limit: dict[str, Any], changed: dict[str, Any]
) -> None:
    asked = {"model": "m", "tools": [1], "seed": 7, "stream": True, "stream_options": {"include_usage": True}}
    sent = json.loads(prompt_body(asked | limit, "k", path))
    params = sent.pop("kv_transfer_params")
    assert params.pop("syshax") == {"save": {"key": "k", "on": "finish"}}
    # vLLM would check the budget of thinking against the limit.
    assert params == ({"do_remote_decode": True} if path == MESSAGES_PATH else {})
    assert sent == {"model": "m", "tools": [1], "seed": 7, "stream": False} | changed


def test_the_instance_that_answers_gets_the_clients_own_request() -> None:
    asked = {"model": "m", "messages": [], "stream": True, "seed": 7}
    assert json.loads(loading_body(asked, None)) == asked
    assert json.loads(loading_body(asked, "k")) == asked | {"kv_transfer_params": {"syshax": {"load": {"key": "k"}}}}
    moving = json.loads(movable_body(asked, "s", "k"))
    assert moving["kv_transfer_params"] == {"syshax": {"save": {"key": "s", "on": "abort"}, "load": {"key": "k"}}}
