# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""vLLM's JSON: requests and errors. The answers are in `reply`.

Source: shapes, order of keys and error texts are those of vLLM 0.32.0, vllm/entrypoints/openai/{chat_,}completion/.
"""

import json
from dataclasses import dataclass
from typing import Any

from syshax_sim.handover import Orders, parse_orders
from syshax_sim.profile import Profile
from syshax_sim.text import count_tokens, render_chat, seed_of, split_ids, token_id, tokenize

VERSION = "0.32.0"
_MAX_CHOICES = 16384
_DEFAULT_COMPLETION_TOKENS = 16
_MAX_LOGPROBS = 20


class ApiError(Exception):
    """An answer other than 200, with vLLM's error object."""

    def __init__(self, status: int, message: str, *, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def malformed(problem: str, param: str) -> ApiError:
    """The body fails the schema, before the server looks at what it means."""
    return ApiError(400, f"1 validation error:\n  {problem}", kind="Bad Request", param=param)


def _refused(problem: str, param: str, value: int | None = None) -> ApiError:
    """The body fits the schema, and asks for something impossible."""
    which = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return ApiError(400, f"{problem} ({which})", kind="BadRequestError", param=param)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, as text or as token ids."""

    text: str
    """Empty where it came as ids."""
    ids: tuple[int, ...] | None = None
    """None: it came as text. Ids may end in tokens of an answer that is continued."""

    def size(self) -> int:
        """Number of its tokens."""
        return count_tokens(self.text) if self.ids is None else len(self.ids)

    def token_ids(self) -> list[int]:
        """Its tokens."""
        return tokenize(self.text) if self.ids is None else list(self.ids)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer that a request asks for."""

    prompt: Prompt
    prompt_tokens: int
    seed: int
    first: int
    """Number of the first token to make: those before it came with the prompt."""
    max_tokens: int
    """Tokens after which it ends, for the reason below."""
    finish_reason: str
    restated: str = ""
    """Text of the tokens before the first, if it is to be told again."""

    def token_id(self, at: int, *, wide: bool) -> int:
        """Returns the id of the token number `at` of those that are made here."""
        return token_id(self.seed, self.first + at, wide=wide)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a request asks for."""

    chat: bool
    profile: Profile
    choices: tuple[Choice, ...]
    """`n` for each prompt."""
    logprobs: int | None
    """Likeliest tokens to tell for each one of the answer, where it is no stream."""
    prompt_logprobs: int | None
    """Likewise for each token of the prompt."""
    prompt_tokens: int
    """Of all prompts, each counted once."""
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    wide: bool
    """Some characters span two tokens."""
    behind_chars: int
    """How much later than its tokens a stream sends its text, as it may begin a stop string. None is ever found."""
    orders: Orders
    """What is to be done with the KV cache."""
    loaded_tokens: int = 0
    """Prompt tokens whose KV cache is there already."""


def parse_ask(data: bytes, *, chat: bool, model: str, profile: Profile, takes_prompt_ids: bool = True) -> Ask:
    """Returns what the body `data` of a request asks for.

    Raises:
        ApiError: vLLM would refuse it.
    """
    body = parse_object(data)
    check_model(body, model)
    try:
        return _parse_ask(body, chat=chat, profile=profile, takes_prompt_ids=takes_prompt_ids)
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise malformed(f"Input should be valid: {error}", "body") from None


def _parse_ask(body: dict[str, Any], *, chat: bool, profile: Profile, takes_prompt_ids: bool) -> Ask:
    orders = parse_orders(body)
    prompts = (Prompt(render_chat(messages_of(body))),) if chat else _prompts(body)
    if orders.prompt_token_ids is not None and takes_prompt_ids:
        prompts = (_prompt(orders.prompt_token_ids),)
    stream = bool(body.get("stream"))
    options = body.get("stream_options") or {}
    if options and not stream:
        raise _refused("Stream options can only be defined when `stream=True`.", "stream_options")
    include_usage = profile.usage_unasked or bool(options.get("include_usage", bool(options)))
    choices = [choice for prompt in prompts for choice in _choices(body, prompt, chat, profile)]
    return Ask(
        chat=chat,
        profile=profile,
        choices=tuple(choices),
        logprobs=None if chat else _logprobs(body, "logprobs", "sample"),
        prompt_logprobs=_logprobs(body, "prompt_logprobs", "prompt"),
        prompt_tokens=sum(choice.prompt_tokens for choice in choices) * len(prompts) // len(choices),
        stream=stream,
        include_usage=include_usage,
        continuous_usage=profile.usage_unasked or (include_usage and bool(options.get("continuous_usage_stats"))),
        return_token_ids=bool(body.get("return_token_ids")),
        wide=profile.wide_characters,
        behind_chars=_behind_chars(body) if stream else 0,
        orders=orders,
    )


def parse_object(data: bytes) -> dict[str, Any]:
    """Returns the JSON object that `data` is."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed(f"JSON decode error: {error}", "body") from None
    if not isinstance(body, dict):
        raise malformed("Input should be a valid dictionary or object to extract fields from", "body")
    return body


def check_model(body: dict[str, Any], model: str) -> None:
    """Refuses a request for another model than `model`."""
    wanted = body.get("model")
    if wanted is not None and wanted != model:
        message = f"The model `{wanted}` does not exist. Valid aliases: {model}."
        raise ApiError(404, message, kind="NotFoundError", param="model")


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the messages of a chat."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise malformed("Field required", "body.messages")
    return messages


def _prompts(body: dict[str, Any]) -> tuple[Prompt, ...]:
    prompt = body.get("prompt")
    if not prompt:
        raise _refused("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt):
        return tuple(_prompt(item) for item in prompt)
    return (_prompt(prompt),)


def _prompt(value: object) -> Prompt:
    if isinstance(value, str) and value:
        return Prompt(value)
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return Prompt("", tuple(value))
    raise malformed("Input should be a valid string", "body.prompt")


def _behind_chars(body: dict[str, Any]) -> int:
    stop = body.get("stop") or []
    texts = [stop] if isinstance(stop, str) else stop
    return 0 if body.get("include_stop_str_in_output") else max((len(text) - 1 for text in texts), default=0)


def _count(body: dict[str, Any]) -> int:
    """How many answers a prompt gets."""
    wanted = _int(body, "n")
    if wanted is not None and not 1 <= wanted <= _MAX_CHOICES:
        raise _refused(f"n must be at least 1 and at most {_MAX_CHOICES}, got {wanted}.", "n", wanted)
    return wanted or 1


def _choices(body: dict[str, Any], prompt: Prompt, chat: bool, profile: Profile) -> list[Choice]:
    wanted = _int(body, "max_completion_tokens") if chat else None
    if wanted is None:
        wanted = _int(body, "max_tokens")
    if wanted is None and not chat:
        wanted = _DEFAULT_COMPLETION_TOKENS
    size = prompt.size()
    limit = _limit(size, wanted, profile)
    text, first = (prompt.text.encode(), 0) if prompt.ids is None else split_ids(prompt.ids)
    end, reason = limit, "length"
    if not body.get("ignore_eos"):
        by_itself = max(profile.answer_tokens - first, _int(body, "min_tokens") or 0, 1)
        if by_itself <= limit:
            end, reason = by_itself, "stop"
    return [
        Choice(prompt, size, seed_of(text, index) ^ profile.weights, first, end, reason)
        for index in range(_count(body))
    ]


def _logprobs(body: dict[str, Any], key: str, kind: str) -> int | None:
    wanted = _int(body, key)
    if wanted is not None and wanted > _MAX_LOGPROBS:
        problem = f"Requested {kind} logprobs of {wanted}, which is greater than max allowed: {_MAX_LOGPROBS}"
        raise _refused(problem, key, wanted)
    if wanted is not None and wanted < -1:
        raise _refused(f"{kind} logprobs must be non-negative or -1, got {wanted}", key, wanted)
    return _MAX_LOGPROBS if wanted == -1 else wanted  # -1 is all of the vocabulary: that much would help no test


def _int(body: dict[str, Any], key: str) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise malformed("Input should be a valid integer", f"body.{key}")
    return value


def _limit(size: int, wanted: int | None, profile: Profile) -> int:
    """Tokens that the answer may have. Requesting more than fits with the prompt is not an error."""
    most = profile.max_model_len
    if wanted is not None and wanted > most:
        problem = (
            f"max_tokens={wanted} cannot be greater than max_model_len={most}. Please request fewer output tokens."
        )
        raise _refused(problem, "max_tokens", wanted)
    if size >= most:
        problem = (
            f"This model's maximum context length is {most} tokens. However, your prompt contains {size} input tokens, "
            "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
        )
        raise _refused(problem, "input_tokens", size)
    if wanted is not None and wanted < 1:
        raise _refused(f"max_tokens must be at least 1, got {wanted}.", "max_tokens", wanted)
    return min(most - size, most if wanted is None else wanted)
