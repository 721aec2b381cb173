# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which requests can go on elsewhere in the middle of their answer, and why the others cannot.

What decides is whether the tokens so far are all that the next token depends on. A field that is not known here counts
as one that matters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WholeRule:
    """Fields that keep a request on one instance."""

    fields: tuple[str, ...]
    when: str
    """For which values, for people."""
    why: str
    applies: Callable[[Any], bool]
    """Whether a value (never None) does."""


def _any(_: Any) -> bool:
    return True


def _several_prompts(prompt: Any) -> bool:
    return isinstance(prompt, list) and not all(type(item) is int for item in prompt)


def _not_only_text(messages: Any) -> bool:
    if not isinstance(messages, list):
        return True
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    return any(
        not isinstance(part, str) and not (isinstance(part, Mapping) and part.get("type") == "text")
        for content in contents
        if isinstance(content, list)
        for part in content
    )


def _no_plain_text_format(value: Any) -> bool:
    return not (isinstance(value, Mapping) and value.get("type") == "text")


_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")

WHOLE_RULES: tuple[WholeRule, ...] = (
    WholeRule(("n", "best_of"), "not 1", "its answers share one prompt", lambda value: value != 1),
    WholeRule(("use_beam_search",), "true", "its beams belong together", bool),
    WholeRule(("prompt",), "several prompts", "its answers come as one", _several_prompts),
    WholeRule(("prompt_embeds",), "any", "a prompt without tokens cannot be continued by its tokens", _any),
    WholeRule(("messages",), "other than text", "images, audio and video are not in the tokens", _not_only_text),
    WholeRule(
        ("max_tokens", "max_completion_tokens"),
        "under 2",
        "nothing is left after the first token",
        lambda value: not isinstance(value, int) or value < 2,
    ),
    WholeRule(("seed",), "any", "the state of its random numbers stays behind", _any),
    WholeRule(("response_format",), "other than text", "the state of the grammar stays behind", _no_plain_text_format),
    WholeRule(("structured_outputs", *_GUIDED), "any", "the state of the grammar stays behind", _any),
    WholeRule(("tools", "functions"), "any", "the state of the parser of tool calls stays behind", bool),
    WholeRule(("include_reasoning",), "false", "its tokens are hidden", lambda value: not value),
    WholeRule(("logprobs",), "any but false", "offsets and sums go over the whole answer", lambda v: v is not False),
    WholeRule(("prompt_logprobs",), "any", "they come with the prompt's own computation", _any),
    WholeRule(("echo", "return_prompt_text"), "true", "the prompt's text would be told by both", bool),
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
    WholeRule(("kv_transfer_params", "ec_transfer_params"), "not empty", "the client hands over by itself", bool),
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


def whole_because(body: Mapping[str, Any]) -> str:
    """Why a request must stay on one instance, such as `n: its answers share one prompt`; empty: it need not."""
    for name, value in body.items():
        if value is None:
            continue
        rule = _RULES_BY_FIELD.get(name)
        if rule is None:
            if name not in CARRIED:
                return f"{name}: not known to be the same in the middle of an answer"
        elif rule.applies(value):
            return f"{name}: {rule.why}"
    return ""
