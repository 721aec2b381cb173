# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The joining of parts, by a model with a tokenizer that splits characters: see also tests/shell/test_migration.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.offload.bodies import CHAT_PATH, COMPLETIONS_PATH
from syshaxd.core.offload.joining import JoinedAnswer, incomplete_tail

PATHS = (CHAT_PATH, COMPLETIONS_PATH)
texts = st.text(min_size=1, max_size=12)
ids = st.lists(st.integers(0, 2**20), min_size=1, max_size=4)


def event_of(path: str, text: str, numbers: list[int], finish: str | None = None, ident: str = "one") -> dict[str, Any]:
    """A chunk as vLLM 0.32 writes it."""
    chat = path == CHAT_PATH
    choice: dict[str, Any] = {"index": 0}
    choice |= {"delta": {"content": text}} if chat else {"text": text}
    choice |= {"logprobs": None, "finish_reason": finish}
    if not chat:
        choice |= {"stop_reason": None, "prompt_token_ids": None}
    elif finish:
        choice["stop_reason"] = None
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": ident, "object": kind, "created": 7, "model": "m", "choices": [choice | {"token_ids": numbers}]}


def dump(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def begun(path: str, **body: Any) -> JoinedAnswer:
    """An answer whose first token has been delivered."""
    answer = JoinedAnswer(path, {"stream": True} | body)
    first = event_of(path, "a", [5])
    first["prompt_token_ids"] = [1, 2, 3]
    assert answer.take(first)
    return answer


def events(data: bytes) -> list[dict[str, Any]]:
    blocks = data.split(b"\n\n")
    assert blocks.pop() == b""
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


@pytest.mark.parametrize("path", PATHS)
@given(text=texts, numbers=ids)
def test_the_quick_way_gives_what_the_thorough_one_gives(path: str, text: str, numbers: list[int]) -> None:
    quick, thorough = begun(path), begun(path)
    event = event_of(path, text, numbers)
    out = quick.take_plain(dump(event))
    assert out is not None
    assert events(out) == events(thorough.take(event))
    assert (quick.token_ids, quick.text, quick.surely_whole) == (
        thorough.token_ids,
        thorough.text,
        thorough.surely_whole,
    )


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_plain_is_left_to_the_thorough_way(path: str) -> None:
    plain = event_of(path, "b", [6])
    others = [
        event_of(path, "", [6]),
        event_of(path, "b", []),
        event_of(path, "b", [6], "stop"),
        plain | {"usage": {"prompt_tokens": 3}},
        plain | {"choices": []},
        {"error": {"message": "b"}},
    ]
    if path == CHAT_PATH:
        others.append(plain | {"choices": [plain["choices"][0] | {"delta": {"content": "b", "reasoning": "r"}}]})
    for other in others:
        assert begun(path).take_plain(dump(other)) is None
    assert begun(path, return_token_ids=True).take_plain(dump(plain)) is None
    assert JoinedAnswer(path, {"stream": True}).take_plain(dump(plain)) is None
    elsewhere = begun(path)
    elsewhere.begin_part()
    assert elsewhere.take_plain(dump(plain | {"id": "two"})) is None
    held = begun(path)
    held.take(event_of(path, "", [6]))
    assert held.take_plain(dump(plain)) is None


@pytest.mark.parametrize("path", PATHS)
def test_tokens_without_text_wait_for_it_and_are_forgotten_at_a_cut(path: str) -> None:
    answer = begun(path)
    assert answer.take(event_of(path, "", [6])) == b""
    assert answer.token_ids == [5]
    out = answer.take(event_of(path, "\N{SNOWMAN}", [7]))
    assert len(events(out)) == 2
    assert answer.token_ids == [5, 6, 7]
    answer.take(event_of(path, "", [8]))
    answer.begin_part()
    answer.take(event_of(path, "b", [9], ident="two"))
    assert answer.token_ids == [5, 6, 7, 9]


@pytest.mark.parametrize("path", PATHS)
def test_a_later_part_speaks_in_the_name_of_the_first(path: str) -> None:
    answer = begun(path)
    answer.begin_part()
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    assert answer.take(event_of(path, "", [], ident="two") | {"choices": [role]}) == b""
    (event,) = events(answer.take(event_of(path, "b", [6], "stop", ident="two")))
    assert event["id"] == "one"
    assert answer.finished


def test_an_event_that_tells_of_a_failure_raises() -> None:
    for bad in ({"error": {"message": "dead"}}, {"error": "dead"}, event_of(CHAT_PATH, "", [], "abort")):
        with pytest.raises(InstanceFailedError, match="broke off"):
            begun(CHAT_PATH).take(bad)


def test_a_parsers_delta_reaches_the_client_and_ends_what_can_be_moved() -> None:
    answer = begun(CHAT_PATH)
    assert answer.may_be_cut
    thought = event_of(CHAT_PATH, "", [6])
    thought["choices"][0]["delta"] = {"reasoning": "hm"}
    (event,) = events(answer.take(thought))
    assert event["choices"][0]["delta"] == {"reasoning": "hm"}
    assert not answer.may_be_cut


def test_a_prefill_with_a_parsers_work_is_not_taken() -> None:
    answer = JoinedAnswer(CHAT_PATH, {"stream": True})
    message = {"role": "assistant", "content": None, "reasoning": "hm"}
    told = {"id": "one", "created": 7, "model": "m", "prompt_token_ids": [1]}
    assert (
        answer.take_prefill(told | {"choices": [{"message": message, "token_ids": [2], "finish_reason": "length"}]})
        == b""
    )
    assert not answer.plain


def test_a_prompt_that_leaves_no_room_for_a_second_token_ends_there() -> None:
    answer = JoinedAnswer(COMPLETIONS_PATH, {"stream": True})
    choice = {"index": 0, "text": "a", "token_ids": [5], "prompt_token_ids": [1, 2, 3], "finish_reason": "length"}
    told = {"id": "one", "created": 7, "model": "m", "choices": [choice]}
    assert answer.take_prefill(told, max_model_len=4)
    assert answer.finished


@given(st.text(max_size=6), st.integers(0, 3))
def test_the_end_of_the_last_whole_character_is_found(text: str, missing: int) -> None:
    """One token for each byte of a last character of which `missing` bytes have not come."""
    last = "\N{GRINNING FACE}".encode()
    data = text.encode() + last[: len(last) - missing]
    held = len(last) - missing if missing else 0
    decoded = [data[: len(data) - dropped].decode(errors="replace") for dropped in range(4)]
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert incomplete_tail(decoded) == held


def test_ids_that_the_client_has_cannot_be_taken_back() -> None:
    for tells, dropped in ((False, True), (True, False)):
        answer = begun(CHAT_PATH, return_token_ids=tells)
        answer.take(event_of(CHAT_PATH, "b", [6, 7]))
        assert not answer.surely_whole
        assert answer.drop_tail(1) is dropped
        assert answer.token_ids == ([5, 6] if dropped else [5, 6, 7])
        assert answer.drop_tail(0)
