# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What only a tokenizer knows of an answer: where its last whole character ends, its text, its reasoning."""

import json
from collections.abc import Sequence

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.held_back import incomplete_tail, may_begin_tag
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.reasoning import END_OF_THINKING, THINK
from syshaxd.core.handover.so_far import AnswerSoFar
from syshaxd.core.types import InstanceSpec
from syshaxd.serving.runner.exchanges import Exchanges

# A UTF-8 character has at most four bytes, so at most three tokens can belong to one that is incomplete.
_MAX_INCOMPLETE_TOKENS = 3
_TAGS = 2


async def drop_incomplete(so_far: AnswerSoFar, exchanges: Exchanges, spec: InstanceSpec, model: str) -> None:
    """Leaves out the last tokens of an answer whose text was not delivered, so that they are made again.

    Args:
        so_far: The answer.
        exchanges: Its exchanges.
        spec: The instance that is to continue it, whose tokenizer is asked.
        model: The model's name in the API.

    Raises:
        InstanceFailedError: It cannot be continued: the client has a part of what would be made again, or the instance
            does not tell where the last character ends.
    """
    if not so_far.drop_held_back():
        raise InstanceFailedError("the answer broke off inside a token whose beginning the client has")
    if so_far.surely_whole and so_far.at_token_end:
        return
    incomplete = await _incomplete_tokens(so_far, exchanges, spec, model)
    if not so_far.drop_tail(incomplete):
        raise InstanceFailedError("the answer broke off inside a character whose tokens the client has")


async def _incomplete_tokens(so_far: AnswerSoFar, exchanges: Exchanges, spec: InstanceSpec, model: str) -> int:
    """Returns how many of the last tokens belong to a character that is not complete."""
    tail = so_far.tail_ids()
    texts: list[str] = []
    for dropped in range(_MAX_INCOMPLETE_TOKENS + 1):
        texts.append(await _text_of(tail[: len(tail) - dropped], exchanges, spec, model))
        if incomplete_tail(texts) < len(texts):
            break
    if so_far.may_hold_tag and may_begin_tag(texts[-1]):
        raise InstanceFailedError("the answer broke off where a tag may begin")
    return min(incomplete_tail(texts), _MAX_INCOMPLETE_TOKENS)


async def content_of(so_far: AnswerSoFar, exchanges: Exchanges, spec: InstanceSpec, model: str) -> str:
    """Returns the text of `content_ids`, if there may be calls of tools in it; else nothing. Raises as above."""
    ids = so_far.content_ids if so_far.may_call_tools else []
    return await _text_of(ids, exchanges, spec, model) if ids else ""


async def reasoning_tags(so_far: JoinedAnswer, exchanges: Exchanges, spec: InstanceSpec, model: str) -> tuple[int, ...]:
    """Returns the tokens that begin and end reasoning; none, if it is not found by them. Raises as above."""
    if not so_far.tells_reasoning:
        return ()
    body = {"model": model, "prompt": THINK + END_OF_THINKING, "add_special_tokens": False}
    answer = await exchanges.read(spec, "/tokenize", json.dumps(body).encode())
    try:
        ids = tuple(map(int, jsontext.loads(answer.payload())["tokens"]))
    except (ValueError, KeyError, TypeError):
        raise InstanceFailedError(f"cannot find the tokens of reasoning: {answer.fault()}") from None
    return ids if len(ids) == _TAGS else ()


async def _text_of(ids: Sequence[int], exchanges: Exchanges, spec: InstanceSpec, model: str) -> str:
    answer = await exchanges.read(spec, "/detokenize", json.dumps({"model": model, "tokens": ids}).encode())
    try:
        return str(jsontext.loads(answer.payload())["prompt"])
    except (ValueError, KeyError, TypeError):
        raise InstanceFailedError(f"cannot find the text of the answer's tokens: {answer.fault()}") from None
