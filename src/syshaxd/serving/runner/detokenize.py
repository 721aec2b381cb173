# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Takes an answer back to the end of its last whole character, which only a tokenizer can tell."""

import json

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.held_back import incomplete_tail, may_begin_call
from syshaxd.core.handover.so_far import AnswerSoFar
from syshaxd.core.types import InstanceSpec
from syshaxd.serving.runner.exchanges import Exchanges

# A UTF-8 character has at most four bytes, so at most three tokens can belong to one that is incomplete.
_MAX_INCOMPLETE_TOKENS = 3


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
        body = json.dumps({"model": model, "tokens": tail[: len(tail) - dropped]}).encode()
        answer = await exchanges.read(spec, "/detokenize", body)
        try:
            texts.append(str(jsontext.loads(answer.payload())["prompt"]))
        except (ValueError, KeyError, TypeError):
            raise InstanceFailedError(f"cannot tell where a character ends: {answer.fault()}") from None
        if incomplete_tail(texts) < len(texts):
            break
    if so_far.may_call_tools and may_begin_call(texts[-1]):
        raise InstanceFailedError("the answer broke off where the call of a tool may begin")
    return min(incomplete_tail(texts), _MAX_INCOMPLETE_TOKENS)
