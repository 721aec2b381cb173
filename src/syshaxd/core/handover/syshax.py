# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The dialect of upstream's patched images, syshax-vllm-gpu and syshax-vllm-cpu 0.2.x.

Three fields of a chat's body carry it. `num_decode_tokens`: end after so many tokens, with the finish_reason
`scheduled` if the answer is not complete. `request_id_inference`: continue the answer of that id, whose KV cache and
tokens the instances hand over by themselves. `generated_text`: what has been made of it so far, but after the prefill.

Source: upstream sysHAX 0.2.0, src/workflow/; the images' own sources are not public.
"""

from collections.abc import Mapping
from typing import Any

from syshaxd.core.handover.bodies import CHAT_PATH, dump_body, token_limit
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.handover.so_far import AnswerSoFar
from syshaxd.core.wire.body import raw_fields

SCHEDULED = "scheduled"
_PREFILL_TOKENS = 2
# For a request without a limit, on an instance that does not report how much it holds.
_DEFAULT_TOKENS = 4096


class SyshaxDialect:
    """A HandoverDialect: a running stream moves only where an instance ends its part by itself."""

    movable = False
    paths = frozenset((CHAT_PATH,))
    prompt_paths: frozenset[str] = frozenset()
    to_be_continued = frozenset((SCHEDULED,))

    def prefill(self, body: Mapping[str, Any], key: str, path: str, *, prompt_only: bool) -> bytes:
        """HandoverDialect: the key will be the answer's id, so `key` is not used."""
        changed = {name: value for name, value in raw_fields(body).items() if name != "stream_options"}
        return dump_body(changed | {"stream": False, "num_decode_tokens": _PREFILL_TOKENS})

    def load_key(self, answer: Mapping[str, Any], key: str) -> str | None:
        """HandoverDialect."""
        ident = answer.get("id")
        return ident if isinstance(ident, str) and ident else None

    def size_bytes(self, answer: Mapping[str, Any]) -> int:
        """HandoverDialect: not reported."""
        return 0

    def whole(self, body: Mapping[str, Any], *, load: str | None, save: str | None) -> bytes:
        """HandoverDialect: the images load where they continue an answer, and save after each part, unasked."""
        return dump_body(raw_fields(body))

    def continuation(
        self, body: Mapping[str, Any], so_far: AnswerSoFar, facts: InstanceFacts, *, load: str | None, save: str | None
    ) -> tuple[str, bytes]:
        """HandoverDialect: without a key, by the text alone, which every vLLM understands."""
        changed = {**raw_fields(body), "stream": True, "stream_options": {"include_usage": True}}
        limit = token_limit(body)
        left = None if limit is None else max(1, limit - so_far.tokens)
        if load is not None:
            changed |= {
                "request_id_inference": load,
                "num_decode_tokens": left or facts.max_model_len or _DEFAULT_TOKENS,
                "generated_text": so_far.text if so_far.parts else "",
            }
        elif so_far.text:
            changed |= {
                "messages": [*body["messages"], {"role": "assistant", "content": so_far.text}],
                "add_generation_prompt": False,
                "continue_final_message": True,
            }
            for name in ("max_tokens", "max_completion_tokens"):
                if left is not None and body.get(name) is not None:
                    changed[name] = left
        return CHAT_PATH, dump_body(changed)
