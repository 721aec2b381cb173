# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The bodies of the requests that a split answer is made by.

Source: the hand-over contract, src/syshax_connector/PROTOCOL.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from syshaxd.core.handover.rules import grammar_field
from syshaxd.core.wire.body import encode, raw_fields

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"
MESSAGES_PATH = "/v1/messages"

# What only a chat's body has: a continuation by token ids through /v1/completions goes without.
_CHAT_ONLY = frozenset(
    (
        *("messages", "max_completion_tokens", "add_generation_prompt", "continue_final_message", "chat_template"),
        *("chat_template_kwargs", "documents", "reasoning_effort", "tool_choice", "parallel_tool_calls"),
        *("top_logprobs", "include_reasoning", "tools", "functions"),
    )
)


def prefill_body(body: Mapping[str, Any], key: str) -> bytes:
    """The request that computes the prompt and the first token, and saves their KV under `key`."""
    return dump_body(_prefill_fields(body, key) | {"max_tokens": 1, "return_token_ids": True})


def prompt_body(body: Mapping[str, Any], key: str, path: str) -> bytes:
    """The request that computes the prompt and saves its KV under `key`. The token that it makes is not used."""
    changed = _prefill_fields(body, key)
    if path == RESPONSES_PATH:
        return dump_body(changed | {"max_output_tokens": 1, "store": False})
    if path == MESSAGES_PATH:
        # Else vLLM refuses a budget of thinking that is not less than max_tokens.
        changed["kv_transfer_params"]["do_remote_decode"] = True
    return dump_body(changed | {"max_tokens": 1})


def _prefill_fields(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    changed = {name: value for name, value in raw_fields(body).items() if name != "stream_options"}
    changed["stream"] = False
    if "max_completion_tokens" in body:
        changed["max_completion_tokens"] = 1
    if _min_tokens(body) > 1:
        changed["min_tokens"] = 1  # vLLM takes none over max_tokens
    changed["kv_transfer_params"] = {"syshax": {"save": {"key": key, "on": "finish"}}}
    return changed


def loading_body(body: Mapping[str, Any], load: str | None) -> bytes:
    """The request as it is, for an instance that finds its prompt's KV under `load`."""
    params = {} if load is None else {"kv_transfer_params": {"syshax": {"load": {"key": load}}}}
    return dump_body(raw_fields(body) | params)


def movable_body(body: Mapping[str, Any], key: str, load: str | None = None) -> bytes:
    """The request as it is, except that it returns its tokens, and saves its KV under `key` if it is aborted.

    Args:
        body: The client's.
        key: Where to save.
        load: Where the instance finds the KV of the prompt; None: nowhere.
    """
    orders: dict[str, Any] = {"save": {"key": key, "on": "abort"}}
    if load is not None:
        orders["load"] = {"key": load}
    return dump_body({**raw_fields(body), "return_token_ids": True, "kv_transfer_params": {"syshax": orders}})


def continuation_body(
    body: Mapping[str, Any],
    *,
    chat: bool,
    plain_text: bool,
    keeps_special_tokens: bool,
    prompt_ids: Sequence[int],
    generated_ids: Sequence[int],
    grammar_tokens: int,
    max_model_len: int | None,
    load: str | None,
    save: str | None,
) -> bytes:
    """The request for the rest of an answer, always as a stream.

    Args:
        body: The client's.
        chat: To /v1/chat/completions, on an instance that takes the prompt's tokens there; else to /v1/completions.
        plain_text: Calls of tools are not to be found in it.
        keeps_special_tokens: It contains their text, as a parser needs that.
        prompt_ids: The prompt's tokens.
        generated_ids: The answer's tokens so far.
        grammar_tokens: How many of these are of its grammar, if it has one.
        max_model_len: Tokens of prompt and answer that the instance can hold; None: not known.
        load: Key of the KV that was saved for these tokens.
        save: Key under which to save the KV if the request is given up in its turn.
    """
    known = [*prompt_ids, *generated_ids]
    orders: dict[str, Any] = {}
    if load is not None:
        orders["load"] = {"key": load}
    if save is not None:
        orders["save"] = {"key": save, "on": "abort"}
    if grammar_tokens and grammar_field(body):
        orders["continued"] = grammar_tokens
    params: dict[str, Any] = {"syshax": orders} if orders else {}
    changed = raw_fields(body)
    if chat:
        params["prompt_token_ids"] = known
    else:
        changed = {name: value for name, value in changed.items() if name not in _CHAT_ONLY}
        changed["prompt"] = known
    limit = token_limit(body)
    if max_model_len is not None:
        # Without a limit /v1/completions would stop at 16; with one over this, older vLLM refuses the request.
        fitting = max_model_len - len(prompt_ids)
        limit = fitting if limit is None else min(limit, fitting)
    if limit is not None:
        changed["max_tokens"] = limit - len(generated_ids)
        if chat and "max_completion_tokens" in body:
            changed["max_completion_tokens"] = limit - len(generated_ids)
    if keeps_special_tokens:
        changed["skip_special_tokens"] = False
    if chat and plain_text:
        changed["tool_choice"] = "none"
    if _min_tokens(body):
        changed["min_tokens"] = max(0, _min_tokens(body) - len(generated_ids))
    changed |= {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "kv_transfer_params": params,
    }
    return dump_body(changed)


def token_limit(body: Mapping[str, Any]) -> int | None:
    """The request's own limit of generated tokens; None: as many as fit."""
    if "messages" not in body:
        value = body.get("max_tokens")
        return 16 if value is None else int(value)  # OpenAI's default, and vLLM's
    value = body.get("max_completion_tokens")
    if value is None:
        value = body.get("max_tokens")
    return None if value is None else int(value)


def _min_tokens(body: Mapping[str, Any]) -> int:
    value = body.get("min_tokens")
    return value if isinstance(value, int) else 0


def dump_body(value: Mapping[str, Any]) -> bytes:
    """JSON without spaces, as pydantic writes it."""
    return encode(value)
