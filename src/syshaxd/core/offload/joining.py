# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One answer out of the parts that several instances make of it.

The client sees what one instance would have sent: one role, one id, every token once, the sums of the whole. What has
been delivered always ends with a whole character, so another instance can go on from exactly there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.offload.bodies import CHAT_PATH, token_limit
from syshaxd.core.offload.restated import RestatedText

DONE = b"data: [DONE]\n\n"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# An instance that shuts down ends its answers so.
_BROKEN_OFF = frozenset(("abort", "error"))
# A delta with more than these is a parser's work, whose state cannot be told.
_PLAIN_DELTA = frozenset(("role", "content"))
_PLAIN_EVENT = re.compile(
    rb'\{[^\[]*"choices":\[\{"index":0,(?:"delta":\{"content"|"text"):"(?P<text>(?!")[^"\\]*(?:\\.[^"\\]*)*)"\}?'
    rb',"logprobs":null,"finish_reason":null(?:,"stop_reason":null,"prompt_token_ids":null)?'
    rb',"token_ids":(?P<ids>\[\d[\d,]*\])\}\]\}'
)
"""An event with text and nothing else of note, as vLLM writes it: most are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of an answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    """Set with the last piece."""
    stop_reason: int | str | None = None
    delta: Mapping[str, Any] | None = None
    """A chat's delta with more than text in it, which cannot be told from the tokens alone."""
    count: int | None = None
    """Number of tokens, where the instance tells it without their ids."""

    @property
    def tokens(self) -> int:
        """How many; for text of which nothing is told, one."""
        return len(self.token_ids) or (int(bool(self.text)) if self.count is None else self.count)


class JoinedAnswer:
    """Takes the events of one part after the other; gives what the client gets for them."""

    def __init__(self, path: str, body: Mapping[str, Any], *, to_be_continued: frozenset[str] = frozenset()) -> None:
        """Sets up for an answer.

        Args:
            path: The client's route.
            body: The client's body.
            to_be_continued: What an instance gives as `finish_reason` where another part is to follow; parts of such
                instances may repeat the text that is there.
        """
        options = body.get("stream_options") or {}
        self.chat = path == CHAT_PATH
        self.stream = bool(body.get("stream"))
        self._tells_usage = bool(options.get("include_usage"))
        self._tells_usage_so_far = self._tells_usage and bool(options.get("continuous_usage_stats"))
        self._tells_ids = bool(body.get("return_token_ids"))
        self._to_be_continued = to_be_continued
        self._limit = token_limit(body)
        self._restated = RestatedText("")
        self._told_prompt_tokens = 0
        self.tokens = 0
        """Tokens that the client has; events, where the instances do not tell their ids."""
        self.parts = 0
        """Parts after the prefill that have begun."""
        self.part_id: str | None = None
        """The id that the present part has given itself."""
        self.part_over = False
        """The present part has ended, and another is to follow."""
        self.prompt_ids: tuple[int, ...] = ()
        """The prompt's tokens; empty: not known yet."""
        self.token_ids: list[int] = []
        """The answer's tokens that the client has."""
        self.finished = False
        """The last token has come."""
        self.plain = True
        """What came so far can be told from its tokens alone."""
        self.cached_tokens: int | None = None
        """Prompt tokens that the present part did not have to compute, as far as it has told."""
        self._texts: list[str | bytes] = []
        self._changed = False
        self._held: list[Piece] = []
        self._last_size = 0
        self._head: dict[str, Any] = {}
        self._begun = False
        self._finish = Piece("", ())
        self._more: dict[str, Any] = {}
        self._prompt_details: Any = None
        self._template: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The answer's text that the client has."""
        return "".join(text if isinstance(text, str) else json.loads(b'"%b"' % text) for text in self._texts)

    @property
    def prompt_tokens(self) -> int:
        """How many the prompt has; 0: not known yet."""
        return len(self.prompt_ids) or self._told_prompt_tokens

    @property
    def may_be_cut(self) -> bool:
        """Another instance could go on from here, as far as is known."""
        return bool(self.prompt_ids and self.token_ids and self.plain and not self.finished)

    @property
    def surely_whole(self) -> bool:
        """What was delivered ends with a whole character; else `tail_ids` must be looked at by a tokenizer."""
        return self._last_size <= 1

    def take_prefill(self, answer: Mapping[str, Any], *, max_model_len: int | None = None) -> bytes:
        """Takes the complete answer of one token; returns what to send, if anything.

        If it is not `plain` nothing was taken: the request must be answered as a whole.
        """
        self._template = dict(answer)
        self._changed = True
        if fingerprint := answer.get("system_fingerprint"):
            self._more["system_fingerprint"] = fingerprint
        self._remember_head(answer)
        choice = answer["choices"][0]
        ids = answer.get("prompt_token_ids") if self.chat else choice.get("prompt_token_ids")
        self.prompt_ids = tuple(ids or ())
        usage = answer.get("usage") or {}
        self._prompt_details = usage.get("prompt_tokens_details")
        self._told_prompt_tokens = usage.get("prompt_tokens") or 0
        message = choice.get("message") or {}
        text = (message.get("content") if self.chat else choice.get("text")) or ""
        ids = tuple(choice.get("token_ids") or ())
        if any(value for name, value in message.items() if name not in _PLAIN_DELTA):
            self.plain = False
            return b""
        fits = max_model_len is None or len(self.prompt_ids) + 1 < max_model_len
        if choice.get("finish_reason") not in (self._to_be_continued or ("length",)) or not fits:
            return self._deliver(Piece(text, ids, choice.get("finish_reason"), choice.get("stop_reason")))
        if not text or text.endswith(_REPLACEMENT):
            return b""  # part of a character: the next instance makes this token again
        return self._deliver(Piece(text, ids, count=usage.get("completion_tokens")))

    def begin_part(self) -> None:
        """Another instance goes on from what was delivered."""
        self._held.clear()
        self.cached_tokens = None
        self._changed = self._changed or bool(self._head)
        self.parts += 1
        self.part_id, self.part_over = None, False
        if self._to_be_continued:
            self._restated = RestatedText(self.text)

    def take_plain(self, event: bytes) -> bytes | None:
        """Takes one event of a stream, as it came; returns what to send, or None: see what it means, and `take` it.

        While the answer is that of one instance, almost all its events go to the client as they are, but for the ids.
        To parse and write them would cost five times as much.
        """
        if self._changed or self._held or not self._begun or self._tells_ids:
            return None
        found = _PLAIN_EVENT.fullmatch(event)
        if found is None:
            return None
        ids = found["ids"]
        numbers = json.loads(ids) if b"," in ids else (int(ids[1:-1]),)
        self.token_ids += numbers
        self.tokens += len(numbers)
        self._last_size = len(numbers)
        self._texts.append(found["text"])
        start, end = found.span("ids")
        return b"data: %bnull%b\n\n" % (event[:start], event[end:])

    def take(self, event: Mapping[str, Any]) -> bytes:
        """Takes one event of a stream; returns what to send, if anything.

        Raises:
            InstanceFailedError: The event tells of a failure.
        """
        if "error" in event:
            problem = event["error"]
            text = problem.get("message") if isinstance(problem, Mapping) else problem
            raise InstanceFailedError(f"the instance broke off: {text}")
        if fingerprint := event.get("system_fingerprint"):
            self._more["system_fingerprint"] = fingerprint
        if not event.get("choices"):
            self._take_usage(event.get("usage") or {})
            return b""
        if not self._head:
            self._remember_head(event)
        self.part_id = event.get("id")
        choice = event["choices"][0]
        piece = self._without_repetition(_read(choice))
        if piece.finish_reason in _BROKEN_OFF:
            raise InstanceFailedError(f"the instance broke off: finish_reason {piece.finish_reason}")
        if not self.prompt_ids:
            self.prompt_ids = tuple(event.get("prompt_token_ids") or choice.get("prompt_token_ids") or ())
        if piece.text or piece.delta is not None or piece.finish_reason is not None:
            return self._deliver(piece)
        if piece.token_ids:  # else it is a chat's role, or part of a prefill
            self._held.append(piece)
        return b""

    def _without_repetition(self, piece: Piece) -> Piece:
        """The piece as a part of the whole answer: without what the client has, and without the end of a mere part."""
        if not self._to_be_continued:
            return piece
        text, reason = self._restated.push(piece.text), piece.finish_reason
        if reason is not None:
            text += self._restated.end()
        if reason in self._to_be_continued:
            self.part_over = True
            reason = None
            if self._limit is not None and self.tokens + bool(text) >= self._limit:
                reason = "length"
        return replace(piece, text=text, finish_reason=reason)

    def tail_ids(self) -> tuple[int, ...]:
        """The last tokens that were delivered: enough to see whether they end with a whole character."""
        return tuple(self.token_ids[-max(8, self._last_size) :])

    def drop_tail(self, count: int) -> bool:
        """Leaves out the last tokens, whose character was not complete, so that they are made again.

        Returns:
            False: the client has their ids already.
        """
        if count and self._tells_ids:
            return False
        del self.token_ids[len(self.token_ids) - count :]
        self.tokens -= count
        self._last_size = 0
        return True

    def end(self) -> bytes:
        """The end of the client's stream."""
        if not self._tells_usage:
            return DONE
        usage = self._usage(self.tokens)
        if self._prompt_details is not None:
            usage["prompt_tokens_details"] = self._prompt_details
        return _event({**self._head, "choices": [], "usage": usage, **self._more}) + DONE

    def whole(self) -> bytes:
        """The answer in one piece, in the form of the instance that prefilled it."""
        choice = dict(self._template["choices"][0])
        finish = self._finish
        choice |= {"finish_reason": finish.finish_reason, "stop_reason": finish.stop_reason}
        choice["token_ids"] = self.token_ids if self._tells_ids else None
        body = dict(self._template)
        if self.chat:
            choice["message"] = choice["message"] | {"content": self.text}
        else:
            choice["text"] = self.text
        if not self._tells_ids:
            (body if self.chat else choice)["prompt_token_ids"] = None
        usage = dict(body.get("usage") or {})
        body |= {"choices": [choice], "usage": usage | self._usage(self.tokens), "kv_transfer_params": None}
        return _dump(body)

    def _remember_head(self, told: Mapping[str, Any]) -> None:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        self._head = {"id": told.get("id"), "object": kind, "created": told.get("created"), "model": told.get("model")}

    def _take_usage(self, usage: Mapping[str, Any]) -> None:
        details = usage.get("prompt_tokens_details") or {}
        self.cached_tokens = details.get("cached_tokens")

    def _deliver(self, piece: Piece) -> bytes:
        pieces = [*self._held, piece]
        self._held.clear()
        out = b""
        if not self._begun:
            self._begun = True
            out = self._role() if self.chat else b""
        for item in pieces:
            first = not self.token_ids
            self.token_ids += item.token_ids
            self.tokens += item.tokens
            self.plain = self.plain and item.delta is None
            self._last_size = len(item.token_ids)
            self._texts.append(item.text)
            if item.finish_reason is not None:
                self.finished = True
                self._finish = item
            out += self._chunk(item, first=first)
        return out if self.stream else b""

    def _role(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        event = {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
        if self._tells_usage_so_far:
            event["usage"] = self._usage_so_far(0)
        told = {"prompt_token_ids": list(self.prompt_ids) if self._tells_ids else None, "prompt_text": None}
        return _event(event | told)

    def _chunk(self, piece: Piece, *, first: bool) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": piece.delta or {"content": piece.text}} if self.chat else {"text": piece.text}
        choice |= {"logprobs": None, "finish_reason": piece.finish_reason}
        if piece.finish_reason is not None or not self.chat:
            choice["stop_reason"] = piece.stop_reason
        if not self.chat:
            choice["prompt_token_ids"] = list(self.prompt_ids) if first and self._tells_ids else None
        choice["token_ids"] = list(piece.token_ids) if self._tells_ids else None
        event = {**self._head, "choices": [choice]}
        if self._tells_usage_so_far:
            event["usage"] = self._usage_so_far(self.tokens)
        elif piece.finish_reason is not None and not self._tells_usage:
            event |= self._more
        return _event(event)

    def _usage_so_far(self, generated: int) -> dict[str, Any]:
        usage = self._usage(generated)
        return usage | {"completion_tokens_details": None} if self.chat else usage

    def _usage(self, generated: int) -> dict[str, Any]:
        prompt = self.prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}


def _read(choice: Mapping[str, Any]) -> Piece:
    """A choice of a chunk, of a chat or not."""
    ids = tuple(choice.get("token_ids") or ())
    delta = choice.get("delta")
    if delta is None:
        return Piece(choice.get("text") or "", ids, choice.get("finish_reason"), choice.get("stop_reason"))
    special = any(value for name, value in delta.items() if name not in _PLAIN_DELTA)
    text = delta.get("content") or ""
    ending = choice.get("finish_reason"), choice.get("stop_reason")
    return Piece(text, ids, *ending, delta if special else None)


def incomplete_tail(texts: list[str]) -> int:
    """How many of the last tokens belong to a character that is not complete.

    Args:
        texts: What a tokenizer makes of the last tokens, then of these without the last one, the last two, ...
    """
    for dropped, text in enumerate(texts):
        if not text.endswith(_REPLACEMENT):
            return dropped
    return len(texts)


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + _dump(value) + b"\n\n"


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
