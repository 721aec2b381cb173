# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which requests can be split between two instances, and where.

Between prompt and answer nearly all can: one instance computes the prompt, another gets its KV cache and the client's
own request, and makes all of the answer. Behind a token only those can of which the tokens so far are all that the next
token depends on. A field that is not known here counts as one that matters, and so does a value that is not what the
API says: what hands over can rely on the types.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from syshaxd.core.handover.held_back import held_back_chars
from syshaxd.core.wire.body import RequestBody

_MAX_MESSAGES = 100_000
_MAX_PARTS_BYTES = 1024 * 1024
# More token ids than any model takes are not looked through.
_MAX_IDS_BYTES = 8 * 1024 * 1024


def _never(_: RequestBody) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Fields that keep a request, or its answer, on one instance."""

    fields: tuple[str, ...]
    when: str
    """For which values, for people."""
    why: str
    applies: Callable[[Any], bool]
    """Whether a value (never None) does."""
    undecoded: bool = False
    """`applies` takes the value as it came: it may be most of the body."""
    unless: Callable[[RequestBody], bool] = _never
    """Whether another field of the body makes it harmless."""


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


_TEXTS = frozenset(("text", "refusal", "tool_use", "tool_result", "thinking", "redacted_thinking"))
"""Types of parts that become text in the prompt. Should there be an image in one, the connector refuses to save."""


def _is_text(content: msgspec.Raw) -> bool:
    view = memoryview(content)
    first = bytes(view[:1])
    if first in {b'"', b"n"}:  # a text, or null
        return True
    if first != b"[" or len(view) > _MAX_PARTS_BYTES:
        return False
    return all(isinstance(part, str) or part.type in _TEXTS for part in _parts.decode(content))


def _no_plain_text_format(value: Any) -> bool:
    return not (isinstance(value, Mapping) and value.get("type") == "text")


_MEDIA = re.compile(rb'"type"\s*:\s*"input_(?:image|file|audio)"')


def _has_media(raw: msgspec.Raw) -> bool:
    return _MEDIA.search(memoryview(raw)) is not None


def _may_lie_across(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return not all(isinstance(text, str) and len(text) <= 1 for text in texts)


def _is_greedy(body: RequestBody) -> bool:
    temperature = body.short("temperature")
    return type(temperature) in {int, float} and temperature == 0


def _streams(body: RequestBody) -> bool:
    return body.short("stream") is True


def _calls_no_tools(body: RequestBody) -> bool:
    return bool(body.short("tool_choice") == "none")


def _are_free(body: RequestBody) -> bool:
    """Whether the calls of tools in a stream are what the model makes of its own accord."""
    if _calls_no_tools(body):
        return True
    free = body.short("tool_choice") in (None, "auto") and body.short("parallel_tool_calls") in (None, True)
    return free and _streams(body) and _STRICT.search(memoryview(body.raw["tools"])) is None


_STRICT = re.compile(rb'"strict"\s*:\s*[^\sfn]')


def _holds_back(body: RequestBody) -> bool:
    """Whether an instance holds back the characters of a stream that may begin a stop string, and their tokens."""
    reveals = (body.short(name) for name in ("include_stop_str_in_output", "return_token_ids"))
    return _streams(body) and not any(reveals) and body.short("logprobs") in (None, False) and _are_texts(body)


def _are_texts(body: RequestBody) -> bool:
    stop = body.short("stop")
    return all(isinstance(text, str) for text in (stop if isinstance(stop, list) else [stop]))


_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")

WHOLE_RULES: tuple[FieldRule, ...] = (
    FieldRule(("n", "best_of"), "not 1", "its answers share one prompt", lambda value: value != 1),
    FieldRule(("use_beam_search",), "true", "its beams belong together", bool),
    FieldRule(("prompt",), "several prompts", "its answers come as one", _several_prompts, undecoded=True),
    FieldRule(("prompt_embeds",), "any", "a prompt without tokens is not handed over", _any),
    FieldRule(
        ("messages",),
        "other than text",
        "images, audio and video are not in the tokens",
        _not_only_text,
        undecoded=True,
    ),
    FieldRule(("input",), "images or files", "images and files are not in the tokens", _has_media, undecoded=True),
    FieldRule(
        ("max_tokens", "max_completion_tokens", "max_output_tokens"),
        "under 2",
        "nothing is left after the first token",
        lambda value: type(value) is not int or not 2 <= value < 2**31,
    ),
    FieldRule(("prompt_logprobs",), "any", "they are made when the prompt is computed", _any),
    FieldRule(("echo",), "true", "the prompt's log probabilities are made when it is computed", bool),
    FieldRule(("suffix",), "not empty", "what follows is not in the tokens", bool),
    FieldRule(("kv_transfer_params", "ec_transfer_params"), "not empty", "the client controls hand-overs itself", bool),
)
"""Nothing of such a request is handed over."""

STAY_RULES: tuple[FieldRule, ...] = (
    FieldRule(
        ("seed",),
        "any, unless `temperature` is 0",
        "the state of its random numbers stays behind",
        _any,
        unless=_is_greedy,
    ),
    FieldRule(
        ("response_format",),
        "other than text, unless `stream` is true",
        "the state of the grammar stays behind",
        _no_plain_text_format,
        unless=_streams,
    ),
    FieldRule(
        ("structured_outputs",),
        "any, unless `stream` is true",
        "the state of the grammar stays behind",
        _any,
        unless=_streams,
    ),
    FieldRule(_GUIDED, "any", "the state of the grammar stays behind", _any),
    FieldRule(
        ("tools",),
        'not empty, unless `tool_choice` is "none", or the stream is free to call them: `tool_choice` is "auto", '
        "`parallel_tool_calls` is not false, and no tool is `strict`",
        "the state of the grammar of tool calls stays behind",
        bool,
        unless=_are_free,
    ),
    FieldRule(
        ("functions",),
        'not empty, unless `tool_choice` is "none"',
        "the state of the parser of tool calls stays behind",
        bool,
        unless=_calls_no_tools,
    ),
    FieldRule(("include_reasoning",), "false", "its tokens are hidden", lambda value: not value),
    FieldRule(
        ("logprobs",),
        "any but false, unless `stream` is true",
        "they come in one piece",
        lambda value: value is not False,
        unless=_streams,
    ),
    FieldRule(("return_prompt_text",), "true", "both parts would return the prompt's text", bool),
    FieldRule(
        ("stop",),
        "over one character, unless in a stream without `logprobs`, `return_token_ids` and "
        "`include_stop_str_in_output`",
        "a stop string may lie across the boundary",
        _may_lie_across,
        unless=_holds_back,
    ),
    FieldRule(
        ("presence_penalty", "frequency_penalty"),
        "not 0",
        "they count generated tokens, which would become prompt",
        bool,
    ),
    FieldRule(("bad_words",), "not empty", "a forbidden word may lie across the boundary", bool),
    FieldRule(("truncate_prompt_tokens",), "any", "the longer prompt would be cut elsewhere", _any),
    FieldRule(("thinking_token_budget",), "any", "its forced end may lie across the boundary", _any),
    FieldRule(
        ("repetition_detection", "watermarking", "vllm_xargs", "logits_processors"),
        "not empty",
        "the processor's state stays behind",
        bool,
    ),
)
"""The answer to such a request is made by one instance. Another may compute its prompt."""

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

_RULES_BY_FIELD = {field: rule for rule in (*WHOLE_RULES, *STAY_RULES) for field in rule.fields}
_WHOLE_FIELDS = frozenset(field for rule in WHOLE_RULES for field in rule.fields)

_OF_OTHER_ROUTES = frozenset(
    (
        *("system", "stop_sequences", "thinking", "output_config", "output_format", "context_management", "betas"),
        *(
            "container",
            "mcp_servers",
            "instructions",
            "reasoning",
            "text",
            "include",
            "truncation",
            "prompt_cache_retention",
        ),
        *("max_tool_calls", "include_obfuscation", "prediction", "modalities", "verbosity", "web_search_options"),
    )
)
"""Fields of /v1/messages, of /v1/responses, and of chats with other servers, whose answers stay on one instance."""

KNOWN_FIELDS = CARRIED | frozenset(_RULES_BY_FIELD) | _OF_OTHER_ROUTES
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


class Split(NamedTuple):
    """Where a request can be split. A reason is such as `n: its answers share one prompt`; empty: there is none."""

    whole_because: str
    """Why nothing of it can be handed over."""
    stays_because: str
    """Why one instance must make all of its answer, even where another computes the prompt."""


def may_call_tools(body: Mapping[str, Any]) -> bool:
    """Whether a chat whose answer need not stay on one instance may call tools."""
    tools = body.short("tools") if isinstance(body, RequestBody) else body.get("tools")
    return bool(tools) and body.get("tool_choice") != "none"


_FROM_FIRST_TOKEN = ("stop", "tools", "response_format", "structured_outputs")


def grammar_field(body: Mapping[str, Any]) -> str:
    """The field that holds the answer to a grammar; empty: there is none."""
    for name in ("response_format", "structured_outputs"):
        if (value := body.get(name)) is not None and _no_plain_text_format(value):
            return name
    return ""


def whole_answer_because(body: Mapping[str, Any]) -> str:
    """Why the instance that makes an answer makes its first token, too; empty: another may."""
    if not any(name in body for name in _FROM_FIRST_TOKEN):
        return ""
    if held_back_chars(body):
        return "stop: a stop string may begin in the first token"
    if field := grammar_field(body):
        return f"{field}: its grammar begins with the first token"
    return "tools: a call may begin with the first token" if may_call_tools(body) else ""


def split_of(body: Mapping[str, Any]) -> Split:
    """Where a request with this body can be split."""
    if not isinstance(body, RequestBody):
        body = RequestBody.of(body)
    if body.split is None:
        body.split = _find_split(body)
    found: Split = body.split
    return found


def _find_split(body: RequestBody) -> Split:
    if body.unknown:  # not all fields were kept
        return Split(why := f"{body.unknown}: {_UNKNOWN}", why)
    stays = ""
    for name, raw in body.raw.items():
        if raw == _NULL:
            continue
        fits = _IS_WELL_TYPED.get(name)
        if fits is not None and not fits(body.short(name)):
            return Split(why := f"{name}: not of the type that the API gives it", why)
        rule = _RULES_BY_FIELD.get(name)
        if rule is None:
            why = "" if name in CARRIED else _UNKNOWN
        else:
            value = raw if rule.undecoded else body.short(name)
            why = rule.why if rule.applies(value) and not rule.unless(body) else ""
        if why:
            why = f"{name}: {why}"
            if name in _WHOLE_FIELDS:
                return Split(why, why)
            stays = stays or why
    return Split("", stays)


_NULL = msgspec.Raw(b"null")
_UNKNOWN = "not known to be the same in the middle of an answer"
