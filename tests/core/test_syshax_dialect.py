# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The bodies of the patched images' dialect, and answers that are joined from their parts."""

import json
from typing import Any

import pytest

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.handover.syshax import SyshaxDialect

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
BODY = {"model": "m", "messages": MESSAGES, "max_tokens": 10, "stream": True, "stream_options": {"include_usage": True}}
DIALECT = SyshaxDialect()
FACTS = InstanceFacts(max_model_len=2048)


def prefill(text: str = "one two", reason: str = "scheduled") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return head | {"choices": [choice], "usage": usage}


def event(text: str = "", reason: str | None = None, ident: str = "chatcmpl-2") -> dict[str, Any]:
    return {"id": ident, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


def joined(body: dict[str, Any] = BODY) -> JoinedAnswer:
    answer = JoinedAnswer(PATH, body, to_be_continued=DIALECT.to_be_continued)
    answer.take_prefill(prefill())
    return answer


def continuation(answer: JoinedAnswer, load: str | None = "chatcmpl-1", **changes: Any) -> dict[str, Any]:
    path, data = DIALECT.continuation(BODY | changes, answer, FACTS, load=load, save=None)
    assert path == PATH
    body: dict[str, Any] = json.loads(data)
    return body


def test_the_prefill_asks_for_two_tokens_in_one_piece() -> None:
    assert json.loads(DIALECT.prefill(BODY, "unused", PATH, prompt_only=False)) == {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 10,
        "stream": False,
        "num_decode_tokens": 2,
    }
    assert DIALECT.load_key(prefill(), "unused") == "chatcmpl-1"
    assert DIALECT.load_key({"id": None}, "unused") is None


def test_the_first_part_goes_on_with_the_prefills_id_as_upstream_asks_for_it() -> None:
    body = continuation(joined())
    assert body == BODY | {"request_id_inference": "chatcmpl-1", "num_decode_tokens": 8, "generated_text": ""}


def test_a_later_part_goes_on_with_the_id_of_the_last_and_tells_the_text() -> None:
    answer = joined()
    answer.begin_part()
    answer.take(event("one two three"))
    answer.take(event(reason="scheduled"))
    assert answer.part_over
    assert not answer.finished
    body = continuation(answer, answer.part_id)
    assert (body["request_id_inference"], body["generated_text"]) == ("chatcmpl-2", "one two three")
    assert body["num_decode_tokens"] == 7


def test_without_a_limit_as_many_tokens_are_asked_for_as_fit() -> None:
    answer = joined({**BODY, "max_tokens": None})
    assert continuation(answer, max_tokens=None)["num_decode_tokens"] == 2048


def test_without_a_key_the_text_is_continued() -> None:
    body = continuation(joined(), None)
    assert body["messages"] == [*MESSAGES, {"role": "assistant", "content": "one two"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["max_tokens"] == 8
    assert "request_id_inference" not in body


def test_without_a_key_and_without_text_it_is_the_clients_request() -> None:
    answer = JoinedAnswer(PATH, BODY, to_be_continued=DIALECT.to_be_continued)
    answer.take_prefill(prefill(text=""))
    assert continuation(answer, None) == BODY


@pytest.mark.parametrize("restated", [True, False])
def test_the_client_gets_every_token_once(restated: bool) -> None:
    answer = JoinedAnswer(PATH, BODY, to_be_continued=DIALECT.to_be_continued)
    out = answer.take_prefill(prefill())
    answer.begin_part()
    for text in ["one two three"] if restated else [" three"]:
        out += answer.take(event(text))
    out += answer.take(event(" four", "scheduled"))
    answer.begin_part()
    for text in ["one ", "two three four five"] if restated else [" five"]:
        out += answer.take(event(text, ident="chatcmpl-3"))
    out += answer.take(event(reason="stop", ident="chatcmpl-3")) + answer.end()
    events = [json.loads(line[6:]) for line in out.decode().split("\n\n") if line not in {"", "data: [DONE]"}]
    assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == "one two three four five"
    assert {e["id"] for e in events} == {"chatcmpl-1"}
    assert [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]] == ["stop"]
    assert events[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}


def test_a_part_that_ends_at_the_clients_limit_is_the_last() -> None:
    answer = joined({**BODY, "max_tokens": 3})
    answer.begin_part()
    answer.take(event(" three", "scheduled"))
    assert answer.finished


def test_a_prefill_that_says_length_has_made_the_whole_answer() -> None:
    answer = JoinedAnswer(PATH, BODY, to_be_continued=DIALECT.to_be_continued)
    answer.take_prefill(prefill(reason="length"))
    assert answer.finished


def test_a_part_that_was_aborted_is_no_end() -> None:
    answer = joined()
    answer.begin_part()
    with pytest.raises(InstanceFailedError):
        answer.take(event(reason="abort"))
