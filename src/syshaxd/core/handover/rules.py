# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which requests can move to another instance in the middle of their answer, and why others cannot.

What decides is whether the tokens so far are all that the next token depends on. A field that is not known here counts
as one that matters, and so does a value that is not what the API says: what hands over can rely on the types.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from syshaxd.core.wire.body import RequestBody

_MAX_MESSAGES = 100_000
_MAX_PARTS_BYTES = 1024 * 1024
# More token ids than any model takes are not looked through.
_MAX_IDS_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WholeRule:
    """Fields that keep a request on one instance."""

    fields: tuple[str, ...]
    when: str
    """For which values, for people."""
    why: str
    applies: Callable[[Any], bool]
    """Whether a value (never None) does."""
    undecoded: bool = False
    """`applies` takes the value as it came: it may be most of the body."""


def _any(_: Any) -> bool:
    return True


_ONE_PROMPT = re.compile(rb'\s*(?:"|\[[\s\d,]*\]\s*$)')
"""A text, or the ids of tokens."""


def _several_prompts(raw: msgspec.Raw) -> bool:
    view = memoryview(raw)
    if bytes(view[:1]) == b"[" and len(view) > _MAX_IDS_BYTES:
        return True
    return _ONE_PROMPT.match(view) is None


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    type: str = ""


_messages = msgspec.json.Decoder(list[_Message])
_parts = msgspec.json.Decoder(list[_Part | str])


def _not_only_text(raw: msgspec.Raw) -> bool:
    if bytes(raw).count(b"{") > _MAX_MESSAGES:
        return True
    try:
        return not all(_is_text(message.content) for message in _messages.decode(raw))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return True


def _is_text(content: msgspec.Raw) -> bool:
    view = memoryview(content)
    first = bytes(view[:1])
    if first in {b'"', b"n"}:  # a text, or null
        return True
    if first != b"[" or len(view) > _MAX_PARTS_BYTES:
        return False
    return all(isinstance(part, str) or part.type == "text" for part in _parts.decode(content))


def _no_plain_text_format(value: Any) -> bool:
    return not (isinstance(value, Mapping) and value.get("type") == "text")


_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")

WHOLE_RULES: tuple[WholeRule, ...] = (
    WholeRule(("n", "best_of"), "not 1", "its answers share one prompt", lambda value: value != 1),
    WholeRule(("use_beam_search",), "true", "its beams belong together", bool),
    WholeRule(("prompt",), "several prompts", "its answers come as one", _several_prompts, undecoded=True),
    WholeRule(("prompt_embeds",), "any", "a prompt without tokens cannot be continued by its tokens", _any),
    WholeRule(
        ("messages",),
        "other than text",
        "images, audio and video are not in the tokens",
        _not_only_text,
        undecoded=True,
    ),
    WholeRule(
        ("max_tokens", "max_completion_tokens"),
        "under 2",
        "nothing is left after the first token",
        lambda value: type(value) is not int or not 2 <= value < 2**31,
    ),
    WholeRule(("seed",), "any", "the state of its random numbers stays behind", _any),
    WholeRule(("response_format",), "other than text", "the state of the grammar stays behind", _no_plain_text_format),
    WholeRule(("structured_outputs", *_GUIDED), "any", "the state of the grammar stays behind", _any),
    WholeRule(("tools", "functions"), "any", "the state of the parser of tool calls stays behind", bool),
    WholeRule(("include_reasoning",), "false", "its tokens are hidden", lambda value: not value),
    WholeRule(("logprobs",), "any but false", "offsets and sums run over the whole answer", lambda v: v is not False),
    WholeRule(("prompt_logprobs",), "any", "they are made when the prompt is computed", _any),
    WholeRule(("echo", "return_prompt_text"), "true", "both parts would return the prompt's text", bool),
    WholeRule(("suffix",), "not empty", "what follows is not in the tokens", bool),
    WholeRule(("stop",), "not empty", "a stop string may lie across the boundary", bool),
    WholeRule(
        ("presence_penalty", "frequency_penalty"),
        "not 0",
        "they count generated tokens, which would become prompt",
        bool,
    ),
    WholeRule(("bad_words",), "not empty", "a forbidden word may lie across the boundary", bool),
    WholeRule(("truncate_prompt_tokens",), "any", "the longer prompt would be cut elsewhere", _any),
    WholeRule(
        ("thinking_token_budget", "repetition_detection", "watermarking", "vllm_xargs", "logits_processors"),
        "any",
        "the processor's state stays behind",
        bool,
    ),
    WholeRule(("kv_transfer_params", "ec_transfer_params"), "not empty", "the client controls hand-overs itself", bool),
)

CARRIED = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "user", "metadata", "store", "service_tier"),
        *("safety_identifier", "prompt_cache_key", "request_id", "session_id", "priority", "cache_salt"),
        *("max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "stop_token_ids", "n", "best_of"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "length_penalty", "logit_bias"),
        *("allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output"),
        *("add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template", "documents"),
        *("chat_template_kwargs", "reasoning_effort", "tool_choice", "parallel_tool_calls", "top_logprobs"),
        *("return_token_ids", "return_tokens_as_token_ids"),
    )
)
"""Fields that mean the same for the rest of an answer as for its beginning, or are put right (bodies.py)."""

_RULES_BY_FIELD = {field: rule for rule in WHOLE_RULES for field in rule.fields}

KNOWN_FIELDS = CARRIED | frozenset(_RULES_BY_FIELD)
"""All fields of a body that can be split."""


def _is_stream_options(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(option, bool | None) for option in value.values())


# What is read of fields that are carried.
_IS_WELL_TYPED: Mapping[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, str),
    "stream": lambda value: isinstance(value, bool),
    "stream_options": _is_stream_options,
    "min_tokens": lambda value: type(value) is int and 0 <= value < 2**31,
    "return_token_ids": lambda value: isinstance(value, bool),
}


def whole_because(body: Mapping[str, Any]) -> str:
    """Why a request must stay on one instance, such as `n: its answers share one prompt`; empty: it need not."""
    if not isinstance(body, RequestBody):
        body = RequestBody.of(body)
    if body.whole_because is None:
        body.whole_because = _find_why(body)
    return body.whole_because


def _find_why(body: RequestBody) -> str:
    for name, raw in body.raw.items():
        if why := _whole_because(name, raw, body):
            return f"{name}: {why}"
    return f"{body.unknown}: {_UNKNOWN}" if body.unknown else ""


_UNKNOWN = "not known to be the same in the middle of an answer"


def _whole_because(name: str, raw: msgspec.Raw, body: RequestBody) -> str:
    if bytes(memoryview(raw)[:5]) == b"null":
        return ""
    rule = _RULES_BY_FIELD.get(name)
    if rule is not None and rule.undecoded:
        return rule.why if rule.applies(raw) else ""
    if rule is not None:
        return rule.why if rule.applies(body.short(name)) else ""
    if name not in CARRIED:
        return _UNKNOWN
    if name in _IS_WELL_TYPED and not _IS_WELL_TYPED[name](body.short(name)):
        return "not of the type that the API gives it"
    return ""
