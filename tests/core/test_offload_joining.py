# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The joining of parts, by a model with a tokenizer that splits characters: see also tests/shell/test_migration.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.bodies import CHAT_PATH, COMPLETIONS_PATH
from syshaxd.core.handover.held_back import incomplete_tail
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.passing import PassedStream
from syshaxd.core.handover.plain_events import PLAIN_EVENT
from syshaxd.core.wire.http1 import chunk

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


def sse(*told: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + dump(event) + b"\n\n" for event in told)


def first(path: str) -> dict[str, Any]:
    """The first event with text, and the prompt."""
    return event_of(path, "a", [5]) | {"prompt_token_ids": [1, 2, 3]}


class Answer(JoinedAnswer):
    """An answer and the stream of its first part."""

    def __init__(self, path: str, body: dict[str, Any], **more: Any) -> None:
        super().__init__(path, body, **more)
        self.passed = PassedStream(self)


def passing(path: str, **body: Any) -> Answer:
    """An answer whose first token has been passed on."""
    answer = Answer(path, {"stream": True} | body)
    assert answer.passed.read(sse(first(path)))
    return answer


def begun(path: str, **body: Any) -> Answer:
    """An answer that goes on elsewhere after its first token."""
    answer = passing(path, **body)
    answer.begin_part()
    return answer


def events(data: bytes) -> list[dict[str, Any]]:
    blocks = data.split(b"\n\n")
    assert blocks.pop() == b""
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


@pytest.mark.parametrize("path", PATHS)
@given(
    made=st.lists(st.tuples(texts, ids), max_size=4),
    more=st.dictionaries(st.text("abc", min_size=1), st.none() | st.text() | st.lists(st.integers()), max_size=2),
    piece_bytes=st.integers(1, 400),
    tells_ids=st.booleans(),
)
def test_the_first_instances_events_pass_as_they_are_but_for_ids(
    path: str, made: list[tuple[str, list[int]]], more: dict[str, Any], piece_bytes: int, tells_ids: bool
) -> None:
    answer = Answer(path, {"stream": True, "return_token_ids": tells_ids})
    told = [first(path), *(more | event_of(path, text, numbers) for text, numbers in made)]
    told.append(event_of(path, "", [9], "stop") | {"system_fingerprint": "fp"})
    data = b": a comment\n\n" + sse(*told) + b"data: [DONE]\n\n"
    out = b"".join(answer.passed.read(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes))
    assert answer.passed.failure is None
    assert answer.token_ids == [5, *(number for _, numbers in made for number in numbers), 9]
    assert (answer.tokens, answer.prompt_ids, answer.finished) == (len(answer.token_ids), (1, 2, 3), True)
    assert not out.endswith(b"[DONE]\n\n")  # it leaves with the end of the stream, which follows at once
    out += answer.end()
    if tells_ids:
        assert out == data
        return
    for event in told:
        event["choices"][0]["token_ids"] = None
    told[0]["prompt_token_ids"] = None
    assert out == b": a comment\n\n" + sse(*told) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("path", PATHS)
@given(text=texts.filter(bool), number=st.integers(0, 2**20), more=st.booleans())
def test_plain_events_pass_without_parsing_as_they_would_with_it(path: str, text: str, number: int, more: bool) -> None:
    event = event_of(path, text, [number]) | ({"usage": None} if more else {})
    unusual = {"x": []} | event
    assert PLAIN_EVENT.fullmatch(sse(event))
    assert not PLAIN_EVENT.match(sse(unusual))
    unparsed, parsed = passing(path), passing(path)
    (passed,) = events(unparsed.passed.read(sse(event)))
    assert [{"x": []} | passed] == events(parsed.passed.read(sse(unusual)))
    assert (unparsed.token_ids, unparsed.tokens, unparsed.surely_whole) == (
        parsed.token_ids,
        parsed.tokens,
        parsed.surely_whole,
    )


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_plain_is_parsed(path: str) -> None:
    plain = event_of(path, "b", [6])
    others = [
        sse(event_of(path, "", [6])),
        sse(event_of(path, "b", [])),
        sse(event_of(path, "b", [6, 7])),
        sse(event_of(path, "b", [6], "stop")),
        sse(plain)[:-1],
        sse({"error": {"message": "b"}}),
    ]
    if path == CHAT_PATH:
        others.append(sse(plain | {"choices": [plain["choices"][0] | {"delta": {"content": "b", "reasoning": "r"}}]}))
    for other in others:
        assert not PLAIN_EVENT.match(other)
    failing = passing(path)
    assert failing.passed.read(sse({"error": {"message": "b"}}, plain)) == b""
    assert failing.passed.failure is not None


@pytest.mark.parametrize("path", PATHS)
@given(made=st.lists(st.tuples(texts, ids), min_size=1, max_size=6), odd=st.sampled_from(["", '"', '\\"},"logprobs":']))
def test_plain_events_in_a_row_are_read_as_their_json_says(
    path: str, made: list[tuple[str, list[int]]], odd: str
) -> None:
    answer = passing(path)
    told = [event_of(path, odd + text, numbers) for text, numbers in made]
    passed = events(answer.passed.read(sse(*told, event_of(path, "z", [8]))))
    assert answer.passed.failure is None
    assert answer.token_ids == [5, *(number for _, numbers in made for number in numbers), 8]
    for event in told:
        event["choices"][0]["token_ids"] = None
    assert passed[:-1] == told


ODD_TEXTS = (
    '"',
    "\\",
    "\\n\\n",
    '\\"},"logprobs":null',
    '"token_ids":[7]',
    "\n\ndata: {}",
    "\N{REPLACEMENT CHARACTER}",
)


@pytest.mark.parametrize("path", PATHS)
@given(
    made=st.lists(st.tuples(texts | st.sampled_from(ODD_TEXTS), ids), min_size=1, max_size=6),
    more=st.sampled_from([{}, {"reasoning": "r"}, {"tool_calls": [{"index": 0}]}]),
)
def test_a_chunk_that_passes_in_one_step_passes_as_its_events_would(
    path: str, made: list[tuple[str, list[int]]], more: dict[str, Any]
) -> None:
    quick, slow = passing(path), passing(path)
    told = [event_of(path, text, numbers) for text, numbers in made]
    if path == CHAT_PATH:
        told[-1]["choices"][0]["delta"] |= more
    payloads = [sse(event) for event in told]
    for payload in [
        sse(event_of(path, "a", [6])),
        *payloads,
        payloads[0] + payloads[-1],
        sse(event_of(path, "z", [8])),
    ]:
        expected = slow.passed.read(payload)
        passed = quick.passed.chunk(chunk(payload))
        if passed:
            assert passed == chunk(expected)
        else:
            assert quick.passed.read(payload) == expected
        assert quick.token_ids == slow.token_ids
        assert (quick.tokens, quick.plain, quick.surely_whole) == (slow.tokens, slow.plain, slow.surely_whole)


@pytest.mark.parametrize("path", PATHS)
def test_a_plain_event_in_a_chunk_of_its_own_passes_in_one_step(path: str) -> None:
    answer = passing(path)
    answer.passed.read(sse(event_of(path, "a", [6])))
    framed = chunk(sse(event_of(path, "b", [7])))
    assert answer.passed.chunk(framed).endswith(b"\r\n")
    for other in (framed[:-1], framed + framed, framed + b"0\r\n\r\n", chunk(sse({"error": {"message": "b"}})), b""):
        assert answer.passed.chunk(other) == b""
    assert answer.token_ids == [5, 6, 7]


@pytest.mark.parametrize("path", PATHS)
def test_a_plain_event_after_a_held_one_completes_its_character(path: str) -> None:
    held = passing(path)
    held.passed.read(sse(event_of(path, "", [6]), event_of(path, "b", [7])))
    assert held.token_ids == [5, 6, 7]
    assert held.tokens == 3


@pytest.mark.parametrize("path", PATHS)
def test_words_that_look_like_ids_stay(path: str) -> None:
    text = '"token_ids":[1,2],"prompt_token_ids":[3]'
    out = passing(path).passed.read(sse(event_of(path, text, [6, 7])))
    (event,) = events(out)
    choice = event["choices"][0]
    assert (choice["delta"]["content"] if path == CHAT_PATH else choice["text"]) == text
    assert choice["token_ids"] is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [{"error": {"message": "dead"}}, {"choices": [7]}, {"choices": [{"delta": 3}]}])
def test_what_came_before_a_bad_event_reaches_the_client(path: str, bad: dict[str, Any]) -> None:
    answer = passing(path)
    (event,) = events(answer.passed.read(sse(event_of(path, "b", [6]), bad, event_of(path, "c", [7]))))
    assert "b" in str(event)
    assert answer.token_ids == [5, 6]
    assert answer.passed.failure is not None


def test_an_event_that_there_is_only_for_its_ids_is_kept_back() -> None:
    nothing = event_of(CHAT_PATH, "", [6])
    nothing["choices"][0]["delta"] = {}
    answer = passing(CHAT_PATH)
    assert answer.passed.read(sse(nothing)) == b""
    assert len(events(answer.passed.read(sse(event_of(CHAT_PATH, "\N{SNOWMAN}", [7]))))) == 1
    assert answer.token_ids == [5, 6, 7]
    elsewhere = begun(CHAT_PATH)
    assert elsewhere.take(nothing) == b""
    assert len(events(elsewhere.take(event_of(CHAT_PATH, "\N{SNOWMAN}", [7])))) == 1
    assert (
        len(events(passing(CHAT_PATH, return_token_ids=True).passed.read(sse(nothing, event_of(CHAT_PATH, "b", [7])))))
        == 2
    )


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_event_that_the_client_has_is_not_sent_again_when_its_token_is_made_again(path: str) -> None:
    answer = passing(path)
    assert len(events(answer.passed.read(sse(event_of(path, "", [6]))))) == 1
    assert answer.token_ids == [5]
    answer.begin_part()
    assert answer.take(event_of(path, "", [6])) == b""
    assert len(events(answer.take(event_of(path, "\N{SNOWMAN}", [7])))) == 1
    assert answer.token_ids == [5, 6, 7]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("usage", [False, True])
def test_a_whole_answer_whose_last_words_did_not_come_is_completed(path: str, usage: bool) -> None:
    answer = passing(path, stream_options={"include_usage": usage})
    assert answer.passed.read(sse(event_of(path, "", [6], "stop")))
    assert answer.finished
    said = answer.end()
    assert said.endswith(b"data: [DONE]\n\n")
    told = events(said.removesuffix(b"data: [DONE]\n\n"))
    assert [event["usage"]["completion_tokens"] for event in told] == ([2] if usage else [])
    answer.passed.read(sse({"choices": [], "usage": {"completion_tokens": 2}}))
    assert answer.end() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("path", PATHS)
def test_usage_that_an_instance_tells_unasked_is_told_to_the_end(path: str) -> None:
    answer = Answer(path, {"stream": True})
    answer.passed.read(sse(first(path) | {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}))
    answer.begin_part()
    (event,) = events(answer.take(event_of(path, "b", [6])))
    assert event["usage"]["completion_tokens"] == 2
    answer.take(event_of(path, "", [7], "stop"))
    assert b'"completion_tokens":3' in answer.end()


@pytest.mark.parametrize("path", PATHS)
def test_the_fingerprint_stands_in_the_last_event_also_if_it_comes_after_that(path: str) -> None:
    answer = begun(path)
    assert answer.take(event_of(path, "b", [6], "stop")) == b""
    answer.take({"choices": [], "usage": {"completion_tokens": 2}, "system_fingerprint": "fp"})
    (event,) = events(answer.end().removesuffix(b"data: [DONE]\n\n"))
    assert (event["system_fingerprint"], event["choices"][0]["finish_reason"]) == ("fp", "stop")


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
    (event,) = events(answer.take(event_of(path, "b", [6], ident="two")))
    assert event["id"] == "one"
    answer.take(event_of(path, "b", [6], "stop", ident="two"))
    assert answer.finished
    (event, *_) = events(answer.end().removesuffix(b"data: [DONE]\n\n"))
    assert event["id"] == "one"


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


def test_reasoning_may_be_cut_where_the_parser_finds_its_state_in_the_tokens() -> None:
    answer = Answer(CHAT_PATH, {"stream": True}, reasoning_parser="deepseek_r1")
    first = event_of(CHAT_PATH, "", [5]) | {"prompt_token_ids": [1, 2, 3]}
    first["choices"][0]["delta"] = {"role": "assistant", "content": ""}
    thought = event_of(CHAT_PATH, "", [6])
    thought["choices"][0]["delta"] = {"reasoning": "hm"}
    end_of_thinking = event_of(CHAT_PATH, "", [7])
    end_of_thinking["choices"][0]["delta"] = {}
    passed = events(answer.passed.read(sse(first, thought, end_of_thinking)))
    assert passed[-1]["choices"][0]["delta"] == {"reasoning": "hm"}
    assert answer.may_be_cut
    assert answer.token_ids[-1] == 6  # the token that told the parser only is made again
    answer.begin_part()
    assert answer.take(end_of_thinking) == b""
    (event,) = events(answer.take(event_of(CHAT_PATH, "so", [8])))
    assert event["choices"][0]["delta"] == {"content": "so"}
    assert answer.token_ids[-3:] == [6, 7, 8]
    call = event_of(CHAT_PATH, "", [9])
    call["choices"][0]["delta"] = {"tool_calls": [{"index": 0}]}
    answer.take(call)
    assert not answer.may_be_cut


def test_the_rest_of_a_chat_counts_all_reasoning() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = Answer(CHAT_PATH, {"stream": True, "stream_options": options}, reasoning_parser="deepseek_r1")
    begin = event_of(CHAT_PATH, "", [5]) | {"prompt_token_ids": [1, 2, 3]}
    thought = event_of(CHAT_PATH, "", [6])
    thought["choices"][0]["delta"] = {"reasoning": "hm"}
    answer.passed.read(sse(begin, thought))
    answer.reasoning_tags = (5, 9)
    answer.begin_part()
    end_of_thinking = event_of(CHAT_PATH, "", [9])
    end_of_thinking["choices"][0]["delta"] = {}
    out = answer.take(thought) + answer.take(end_of_thinking) + answer.take(event_of(CHAT_PATH, "so", [7], "stop"))
    usage = [event["usage"] for event in events((out + answer.end()).removesuffix(b"data: [DONE]\n\n"))]
    assert [each["completion_tokens_details"] for each in usage] == [{"reasoning_tokens": 2}] * 3
    assert [each["completion_tokens"] for each in usage] == [3, 5, 5]


def test_a_think_behind_the_reasoning_is_text() -> None:
    for thought, again in (({"reasoning": "hm"}, False), ({"content": "hm"}, True)):
        answer = passing(CHAT_PATH)
        event = event_of(CHAT_PATH, "", [8, 6])
        event["choices"][0]["delta"] = thought
        answer.passed.read(sse(event))
        assert not answer.thinks_again  # not known yet
        answer.reasoning_tags = (8, 9)
        assert answer.thinks_again is again


def test_reasoning_may_end_inside_an_event() -> None:
    answer = passing(CHAT_PATH)
    mixed = event_of(CHAT_PATH, "", [6, 7, 9, 4])
    mixed["choices"][0]["delta"] = {"reasoning": "hm", "content": "so"}
    answer.passed.read(sse(mixed))
    answer.reasoning_tags = (8, 9)
    assert (answer.reasoning_end, answer.grammar_tokens) == (3, 1)


def test_a_grammar_begins_behind_the_reasoning() -> None:
    answer = passing(CHAT_PATH)
    assert answer.grammar_tokens == 1
    thought = event_of(CHAT_PATH, "", [6])
    thought["choices"][0]["delta"] = {"reasoning": "hm"}
    answer.passed.read(sse(thought))
    assert answer.grammar_tokens == 0
    answer.reasoning_tags = (8, 9)
    answer.passed.read(sse(event_of(CHAT_PATH, "{", [9, 5, 4])))
    assert answer.grammar_tokens == 2


@pytest.mark.parametrize("path", PATHS)
def test_log_probabilities_are_joined_with_their_offsets(path: str) -> None:
    def told(text: str, ids: list[int], offset: int) -> dict[str, Any]:
        entry = {"tokens": [text], "text_offset": [offset]} if path == COMPLETIONS_PATH else {"content": [text]}
        event = event_of(path, text, ids)
        event["choices"][0]["logprobs"] = entry
        return event

    answer = Answer(path, {"stream": True, "logprobs": 1})
    first = told("ab", [5], 0)
    first["prompt_token_ids" if path == CHAT_PATH else "more"] = [1, 2, 3]
    first["choices"][0]["prompt_token_ids"] = [1, 2, 3]
    held = told("", [6], 2)
    passed = events(answer.passed.read(sse(first, held)))
    assert [event["choices"][0]["logprobs"] for event in passed] == [first["choices"][0]["logprobs"]]
    assert passed[0]["choices"][0]["token_ids"] is None
    answer.begin_part()  # the held token, whose character was not complete, is made again
    later = events(answer.take(told("", [6], 0)) + answer.take(told("c", [7], 0)))
    assert [event["choices"][0]["logprobs"] for event in later] == [
        told(text, [], 2)["choices"][0]["logprobs"] for text in ("", "c")
    ]
    assert not answer.drop_tail(1)


def test_a_prefill_with_a_parsers_work_is_not_taken() -> None:
    answer = Answer(CHAT_PATH, {"stream": True})
    message = {"role": "assistant", "content": None, "reasoning": "hm"}
    told = {"id": "one", "created": 7, "model": "m", "prompt_token_ids": [1]}
    assert (
        answer.take_prefill(told | {"choices": [{"message": message, "token_ids": [2], "finish_reason": "length"}]})
        == b""
    )
    assert not answer.plain


def test_a_prompt_that_leaves_no_room_for_a_second_token_ends_there() -> None:
    answer = Answer(COMPLETIONS_PATH, {"stream": True})
    choice = {"index": 0, "text": "a", "token_ids": [5], "prompt_token_ids": [1, 2, 3], "finish_reason": "length"}
    told = {"id": "one", "created": 7, "model": "m", "choices": [choice]}
    answer.take_prefill(told, max_model_len=4)
    assert answer.finished
    assert b'"finish_reason":"length"' in answer.end()


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
