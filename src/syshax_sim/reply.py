# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""vLLM's JSON: answers and stream events. Shapes and order of keys are those of vLLM 0.32.0."""

import json
from collections.abc import Mapping
from typing import Any

from syshax_sim.logprobs import of_answer, of_prompt
from syshax_sim.text import Detokenizer, token
from syshax_sim.wire import VERSION, Ask, Choice

DONE = b"data: [DONE]\n\n"
_FINGERPRINT = f"vllm-{VERSION}-51a51a51"


class Reply:
    """The bytes of one answer."""

    def __init__(
        self, ask: Ask, *, ident: str, model: str, created: int, event_fields: Mapping[str, Any] | None = None
    ) -> None:
        self._ask = ask
        self._more = f",{compact(event_fields)[1:-1]}" if event_fields else ""
        self._head = {
            "id": ident,
            "object": "chat.completion" if ask.chat else "text_completion",
            "created": created,
            "model": model,
        }
        head = self._head | ({"object": "chat.completion.chunk"} if ask.chat else {})
        self._event_head = f'data: {compact(head)[:-1]},"choices":['
        self._behind = [""] * len(ask.choices)
        self._detokenizers = [Detokenizer(choice.prompt.ids or ()) for choice in ask.choices] if ask.wide else []

    def role_event(self, index: int) -> bytes:
        """The first event of a chat's choice."""
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        choice = f'{{"index":{index},{delta}}}]{self._usage_so_far(index, 0)}'
        prompt = f'"prompt_token_ids":{self._prompt_ids(index)},"prompt_text":null'
        return f"{self._event_head}{choice},{prompt}}}\n\n".encode()

    def token_event(self, index: int, begin: int, end: int, *, finished: bool) -> bytes:
        """The event with the tokens number `begin` up to `end` of a choice."""
        choice = self._ask.choices[index]
        text = self._text(index, begin, end)
        if self._ask.behind_chars:
            text = self._behind[index] + text
            told = len(text) if finished else max(0, len(text) - self._ask.behind_chars)
            text, self._behind[index] = text[:told], text[told:]
        if not text and not finished and self._ask.chat and self._ask.profile.parser:
            return self._nothing(index, begin, end)
        ids = compact(self._ids(choice, begin, end)) if self._ask.return_token_ids else "null"
        reason = f'"{choice.finish_reason}"' if finished else "null"
        if self._ask.chat:
            stop = ',"stop_reason":null' if finished else ""
            what = f'"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":{reason}{stop},"token_ids":{ids}'
        else:
            prompt_ids = self._prompt_ids(index) if begin == 0 else "null"
            what = (
                f'"text":"{text}","logprobs":null,"finish_reason":{reason},"stop_reason":null,'
                f'"prompt_token_ids":{prompt_ids},"token_ids":{ids}'
            )
        more = self._usage_so_far(index, end) + self._more
        if finished and not self._ask.include_usage:
            more += f',"system_fingerprint":"{_FINGERPRINT}"'
        return f'{self._event_head}{{"index":{index},{what}}}]{more}}}\n\n'.encode()

    def _nothing(self, index: int, begin: int, end: int) -> bytes:
        if not self._ask.return_token_ids:
            return b""
        ids = compact(self._ids(self._ask.choices[index], begin, end))
        what = f'"delta":{{}},"logprobs":null,"finish_reason":null,"token_ids":{ids}'
        return (
            f'{self._event_head}{{"index":{index},{what}}}]{self._usage_so_far(index, end)}{self._more}}}\n\n'.encode()
        )

    def _text(self, index: int, begin: int, end: int) -> str:
        choice = self._ask.choices[index]
        if not self._detokenizers:
            made = "".join([token(choice.seed, choice.first + at) for at in range(begin, end)])
            return choice.restated + made if begin == 0 else made
        return "".join(map(self._detokenizers[index].push, self._ids(choice, begin, end)))

    def _ids(self, choice: Choice, begin: int, end: int) -> list[int]:
        return [choice.token_id(at, wide=self._ask.wide) for at in range(begin, end)]

    def usage_event(self, tokens: int) -> bytes:
        """The event before the last, where it is wanted. `tokens`: those of all choices."""
        usage = compact(_usage(self._ask.prompt_tokens, tokens) | self._details())
        return f'{self._event_head}],"usage":{usage},"system_fingerprint":"{_FINGERPRINT}"}}\n\n'.encode()

    def whole(self) -> bytes:
        """The answer in one piece."""
        tokens = sum(choice.max_tokens for choice in self._ask.choices)
        body: dict[str, Any] = self._head | {
            "choices": [self._whole_choice(index, choice) for index, choice in enumerate(self._ask.choices)],
            "service_tier": None,
            "system_fingerprint": _FINGERPRINT,
            "usage": _usage(self._ask.prompt_tokens, tokens)
            | dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"))
            | self._details(),
        }
        if self._ask.chat:
            body |= {"prompt_logprobs": None, "prompt_token_ids": json.loads(self._prompt_ids(0)), "prompt_text": None}
        body |= dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))
        return compact(body | {"kv_transfer_params": self._ask.orders.told}).encode()

    def _details(self) -> dict[str, Any]:
        told = self._ask.orders.usage()
        return {"prompt_tokens_details": {"cached_tokens": 0}} | told if self._ask.profile.prompt_details else told

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text = self._text(index, 0, choice.max_tokens)
        ids = self._ids(choice, 0, choice.max_tokens) if self._ask.return_token_ids else None
        ending = {
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": None,
            "token_ids": ids,
        }
        if self._ask.chat:
            nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
            message = {"role": "assistant", "content": text, **nothing}
            return {"index": index, "message": message, **ending, "routed_experts": None}
        prompt = {
            "prompt_logprobs": self._prompt_logprobs(choice),
            "prompt_token_ids": json.loads(self._prompt_ids(index)),
        }
        return {"index": index, "text": text, **ending, **prompt, "routed_experts": None}

    def _logprobs(self, choice: Choice) -> dict[str, object] | None:
        if self._ask.logprobs is None:
            return None
        ids = self._ids(choice, 0, choice.max_tokens)
        return of_answer(choice.seed, ids, self._ask.logprobs, rounding_nats=self._ask.profile.rounding_nats)

    def _prompt_logprobs(self, choice: Choice) -> list[dict[str, object] | None] | None:
        if self._ask.prompt_logprobs is None:
            return None
        profile = self._ask.profile
        ids = choice.prompt.token_ids()
        return of_prompt(ids, self._ask.prompt_logprobs, weights=profile.weights, rounding_nats=profile.rounding_nats)

    def _prompt_ids(self, index: int) -> str:
        return compact(self._ask.choices[index].prompt.token_ids()) if self._ask.return_token_ids else "null"

    def _usage_so_far(self, index: int, tokens: int) -> str:
        if not self._ask.continuous_usage:
            return ""
        usage = _usage(self._ask.choices[index].prompt_tokens, tokens)
        if self._ask.chat:
            usage["completion_tokens_details"] = None
        return f',"usage":{compact(usage)}'


def _usage(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens, "completion_tokens": tokens}


def compact(value: object) -> str:
    """JSON without spaces, as pydantic writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
