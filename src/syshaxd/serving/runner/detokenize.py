# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether an answer ends with a whole character, which only a tokenizer can tell."""

import json
from collections.abc import Awaitable, Callable, Sequence

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.held_back import incomplete_tail, may_begin_call
from syshaxd.serving.runner.segment import Segment

# A UTF-8 character has at most four bytes, so at most three tokens can belong to one that is incomplete.
_MAX_INCOMPLETE_TOKENS = 3


async def incomplete_tokens(
    ask: Callable[[bytes], Awaitable[Segment]], model: str, tail: Sequence[int], *, may_call_tools: bool
) -> int:
    """Returns how many of the last tokens belong to a character that is not complete.

    Args:
        ask: Sends a body to an instance's /detokenize.
        model: The model's name in the API.
        tail: The last tokens of an answer.
        may_call_tools: What may begin a call of a tool may have been held back.

    Raises:
        InstanceFailedError: The instance does not tell, or the answer ends with what may have been held back.
    """
    texts: list[str] = []
    for dropped in range(_MAX_INCOMPLETE_TOKENS + 1):
        answer = await ask(json.dumps({"model": model, "tokens": tail[: len(tail) - dropped]}).encode())
        try:
            texts.append(str(json.loads(answer.payload())["prompt"]))
        except (ValueError, KeyError, TypeError):
            raise InstanceFailedError(f"cannot tell where a character ends: {answer.fault()}") from None
        if incomplete_tail(texts) < len(texts):
            break
    if may_call_tools and may_begin_call(texts[-1]):
        raise InstanceFailedError("the answer broke off where the call of a tool may begin")
    return min(incomplete_tail(texts), _MAX_INCOMPLETE_TOKENS)
