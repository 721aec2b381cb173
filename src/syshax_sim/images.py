# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The dialect of the patched images syshax-vllm-gpu and syshax-vllm-cpu 0.2.x: answers in parts, by several instances.

No state is handed over: the id of a part says how many tokens of the answer have been made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from syshax_sim.text import token
from syshax_sim.wire import ApiError, Ask

SCHEDULED = "scheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """How such an instance behaves where the protocol leaves it open."""

    restates: bool = True
    """A part begins with the text of those before it."""
    part_tokens: int | None = None
    """A part that continues an answer is never longer."""

    def part(self, ask: Ask, body: Mapping[str, Any], ident: str) -> tuple[Ask, str]:
        """Returns what is to be made of an answer, and the id under which another part can follow.

        Raises:
            ApiError: It should continue an answer that does not exist.
        """
        wanted, key = body.get("num_decode_tokens"), body.get("request_id_inference")
        if wanted is None:
            return ask, ident
        (choice,) = ask.choices
        made = 0 if key is None else _made(key)
        left = choice.max_tokens - made
        size = min(left, wanted if key is None or self.part_tokens is None else min(wanted, self.part_tokens))
        if size < 1:
            raise ApiError(400, f"the answer {key} is complete", kind="BadRequestError")
        part = replace(
            choice,
            first=made,
            max_tokens=size,
            finish_reason=choice.finish_reason if size == left else SCHEDULED,
            restated="".join(token(choice.seed, at) for at in range(made)) if self.restates else "",
        )
        loaded_tokens = choice.prompt_tokens - 1 if key is not None else 0
        return replace(ask, choices=(part,), loaded_tokens=loaded_tokens), f"{ident}.{made + size}"


def _made(key: object) -> int:
    """Tokens that the answer with this id has already."""
    _, dot, made = str(key).rpartition(".")
    if not dot or not made.isdecimal():
        raise ApiError(400, f"there is no request {key}", kind="BadRequestError", param="request_id_inference")
    return int(made)
