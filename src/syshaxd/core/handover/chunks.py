# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The events of one stream, as vLLM would have written them for the client.

Source: the order of keys is that of vLLM 0.32.0, vllm/entrypoints/openai/{chat_,}completion/serving.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.bodies import CHAT_PATH, dump_body
from syshaxd.core.report.describe import excerpt

DONE = b"data: [DONE]\n\n"
DATA = b"data: "
MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Longer than any event, also one with the prompt's tokens."""
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What reading an event of the wrong shape raises."""
PLAIN_DELTA = frozenset(("role", "content"))
"""A delta with more than these is a parser's work, whose state cannot be told."""
REASONING = frozenset(("reasoning", "reasoning_content"))
"""What a delta has where the reasoning parser takes its state from the tokens."""
CALLS = frozenset(("tool_calls",))
"""What a delta has where the calls of a later part are found in its text."""

_KNOWN_FIELDS = frozenset(
    ("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "prompt_token_ids", "prompt_text")
)


class Piece(msgspec.Struct, frozen=True):
    """Some tokens of an answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    """Set with the last piece."""
    stop_reason: int | str | None = None
    delta: Mapping[str, Any] | None = None
    """A chat's delta with more than text in it."""
    parsed: bool = False
    """The delta cannot be told from the tokens alone."""
    count: int | None = None
    """Number of tokens, where the instance reports it without their ids."""
    more: Mapping[str, Any] | None = None
    """What its event has that is not known here."""
    logprobs: Mapping[str, Any] | None = None
    silent: bool = False
    """There is an event for it only because ids were asked for: a parser waits for more."""

    @property
    def tokens(self) -> int:
        """How many; one for text whose tokens are not reported."""
        return len(self.token_ids) or (int(bool(self.text)) if self.count is None else self.count)


def read_piece(event: Mapping[str, Any], plain: frozenset[str] = PLAIN_DELTA) -> Piece:
    """Returns what an event's choice has, of a chat or not; `plain`: what a delta may have that tokens tell."""
    choice = event["choices"][0]
    piece = _read_choice(choice, plain)
    if _KNOWN_FIELDS.issuperset(event):
        return piece
    return replace(piece, more={name: value for name, value in event.items() if name not in _KNOWN_FIELDS})


def _read_choice(choice: Mapping[str, Any], plain: frozenset[str]) -> Piece:
    ids = tuple(choice.get("token_ids") or ())
    ending = choice.get("finish_reason"), choice.get("stop_reason")
    delta, logprobs = choice.get("delta"), choice.get("logprobs")
    if delta is None:
        return Piece(choice.get("text") or "", ids, *ending, logprobs=logprobs)
    text, silent = delta.get("content") or "", not delta and ending[0] is None
    if PLAIN_DELTA.issuperset(delta):
        return Piece(text, ids, *ending, logprobs=logprobs, silent=silent)
    more = [name for name, value in delta.items() if value and name not in PLAIN_DELTA]
    parsed = not plain.issuperset(more)
    return Piece(text, ids, *ending, delta if more else None, parsed, logprobs=logprobs, silent=silent)


class ChunkWriter:
    """Writes the events that a client asked for."""

    def __init__(self, path: str, body: Mapping[str, Any]) -> None:
        """`path`, `body`: of the client's request."""
        options = body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        self.chat = path == CHAT_PATH
        self.tells_ids = bool(body.get("return_token_ids"))
        self._tells_usage = bool(options.get("include_usage"))
        self._tells_usage_so_far = self._tells_usage and bool(options.get("continuous_usage_stats"))
        self.reasoning_tokens: int | None = None
        """How many of the answer's tokens are reasoning; None: not counted."""
        self._head: dict[str, Any] = {}
        self._role = "assistant"
        self._fingerprint: dict[str, Any] = {}

    @property
    def tells_usage(self) -> bool:
        """The client gets usage."""
        return self._tells_usage

    @property
    def begun(self) -> bool:
        """What all events have in common is known."""
        return bool(self._head)

    def remember(self, told: Mapping[str, Any]) -> None:
        """Takes from an instance's answer or event what all events have in common: those of the first one."""
        if fingerprint := told.get("system_fingerprint"):
            self._fingerprint = {"system_fingerprint": fingerprint}
        if self._head or not told.get("choices"):
            return
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        self._head = {"id": told.get("id"), "object": kind, "created": told.get("created"), "model": told.get("model")}
        choice = told["choices"][0]
        self._role = (choice.get("delta") or choice.get("message") or {}).get("role") or self._role

    def role(self, prompt_ids: Sequence[int], prompt_tokens: int) -> bytes:
        """The first event of a chat; nothing for a text."""
        if not self.chat:
            return b""
        delta = {"role": self._role, "content": ""}
        event = {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
        if self._tells_usage_so_far:
            event["usage"] = self._usage_so_far(prompt_tokens, 0)
        return _event(event | {"prompt_token_ids": list(prompt_ids) if self.tells_ids else None, "prompt_text": None})

    def piece(self, piece: Piece, prompt_ids: Sequence[int], prompt_tokens: int, generated: int) -> bytes:
        """The event of a piece, with which the answer has `generated` tokens."""
        choice: dict[str, Any] = {"index": 0}
        delta = {} if piece.silent else piece.delta or {"content": piece.text}
        choice |= {"delta": delta} if self.chat else {"text": piece.text}
        choice |= {"logprobs": piece.logprobs, "finish_reason": piece.finish_reason}
        if piece.finish_reason is not None or not self.chat:
            choice["stop_reason"] = piece.stop_reason
        if not self.chat:
            first = generated == piece.tokens
            choice["prompt_token_ids"] = list(prompt_ids) if first and self.tells_ids else None
        choice["token_ids"] = list(piece.token_ids) if self.tells_ids else None
        event = {**self._head, "choices": [choice], **(piece.more or {})}
        if self._tells_usage_so_far:
            event["usage"] = self._usage_so_far(prompt_tokens, generated)
        elif piece.finish_reason is not None and not self._tells_usage:
            event |= self._fingerprint
        return _event(event)

    def tell_usage(self) -> None:
        """The client gets usage with each event, as the instances are told to give it unasked."""
        self._tells_usage = self._tells_usage_so_far = True

    def end(self, usage: Mapping[str, Any] | None) -> bytes:
        """The last events; `usage`: of the whole, if the client has not got it."""
        if not self._tells_usage or usage is None:
            return DONE
        return _event({**self._head, "choices": [], "usage": usage, **self._fingerprint}) + DONE

    def _usage_so_far(self, prompt: int, generated: int) -> dict[str, Any]:
        counts = usage_of(prompt, generated, self.reasoning_tokens)
        return {"completion_tokens_details": None} | counts if self.chat else counts


def usage_of(prompt: int, generated: int, reasoning: int | None) -> dict[str, Any]:
    """OpenAI's counts of tokens; `reasoning`: None if it is not counted."""
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}
    return usage if reasoning is None else usage | {"completion_tokens_details": {"reasoning_tokens": reasoning}}


def unreadable_event(error: Exception) -> InstanceFailedError:
    """What an `UNREADABLE` error means."""
    return InstanceFailedError(f"the instance sent an event that cannot be read: {excerpt(repr(error))}")


def _event(value: Mapping[str, Any]) -> bytes:
    return DATA + dump_body(value) + b"\n\n"
