# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One answer out of the parts that several instances make of it.

The client sees what one instance would have sent: one role, one id, every token once, the sums of the whole. What has
been delivered always ends with a whole character, so another instance can go on from exactly there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.offload.bodies import dump_body, token_limit
from syshaxd.core.offload.chunks import PLAIN_DELTA, ChunkWriter, Piece, read_piece, usage_of
from syshaxd.core.offload.restated import RestatedText

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# An instance that shuts down ends its answers so.
_BROKEN_OFF = frozenset(("abort", "error"))
_PLAIN_EVENT = re.compile(
    rb'\{[^\[]*"choices":\[\{"index":0,(?:"delta":\{"content"|"text"):"(?P<text>(?!")[^"\\]*(?:\\.[^"\\]*)*)"\}?'
    rb',"logprobs":null,"finish_reason":null(?:,"stop_reason":null,"prompt_token_ids":null)?'
    rb',"token_ids":(?P<ids>\[\d[\d,]*\])\}\]\}'
)
"""An event with text and nothing else of note, as vLLM writes it: most are."""


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
        self.stream = bool(body.get("stream"))
        self._writer = ChunkWriter(path, body)
        self.chat = self._writer.chat
        self.tells_ids = self._writer.tells_ids
        """The client gets the tokens' ids, too: they cannot be taken back."""
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
        self._begun = False
        self._finish = Piece("", ())
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
        self._writer.remember(answer)
        choice = answer["choices"][0]
        ids = answer.get("prompt_token_ids") if self.chat else choice.get("prompt_token_ids")
        self.prompt_ids = tuple(ids or ())
        usage = answer.get("usage") or {}
        self._prompt_details = usage.get("prompt_tokens_details")
        self._told_prompt_tokens = usage.get("prompt_tokens") or 0
        message = choice.get("message") or {}
        text = (message.get("content") if self.chat else choice.get("text")) or ""
        ids = tuple(choice.get("token_ids") or ())
        if any(value for name, value in message.items() if name not in PLAIN_DELTA):
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
        self._changed = self._changed or self._writer.begun
        self.parts += 1
        self.part_id, self.part_over = None, False
        if self._to_be_continued:
            self._restated = RestatedText(self.text)

    def take_plain(self, event: bytes) -> bytes | None:
        """Takes one event of a stream, as it came; returns what to send, or None: see what it means, and `take` it.

        While the answer is that of one instance, almost all its events go to the client as they are, but for the ids.
        To parse and write them would cost five times as much.
        """
        if self._changed or self._held or not self._begun or self.tells_ids:
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
        self._writer.remember(event)
        if not event.get("choices"):
            self._take_usage(event.get("usage") or {})
            return b""
        self.part_id = event.get("id")
        choice = event["choices"][0]
        piece = self._without_repetition(read_piece(choice))
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
        if count and self.tells_ids:
            return False
        del self.token_ids[len(self.token_ids) - count :]
        self.tokens -= count
        self._last_size = 0
        return True

    def end(self) -> bytes:
        """The end of the client's stream."""
        usage = self._usage()
        if self._prompt_details is not None:
            usage["prompt_tokens_details"] = self._prompt_details
        return self._writer.end(usage)

    def whole(self) -> bytes:
        """The answer in one piece, in the form of the instance that prefilled it."""
        choice = dict(self._template["choices"][0])
        finish = self._finish
        choice |= {"finish_reason": finish.finish_reason, "stop_reason": finish.stop_reason}
        choice["token_ids"] = self.token_ids if self.tells_ids else None
        body = dict(self._template)
        if self.chat:
            choice["message"] = choice["message"] | {"content": self.text}
        else:
            choice["text"] = self.text
        if not self.tells_ids:
            (body if self.chat else choice)["prompt_token_ids"] = None
        usage = dict(body.get("usage") or {})
        body |= {"choices": [choice], "usage": usage | self._usage(), "kv_transfer_params": None}
        return dump_body(body)

    def _take_usage(self, usage: Mapping[str, Any]) -> None:
        details = usage.get("prompt_tokens_details") or {}
        self.cached_tokens = details.get("cached_tokens")

    def _deliver(self, piece: Piece) -> bytes:
        pieces = [*self._held, piece]
        self._held.clear()
        out = b""
        if not self._begun:
            self._begun = True
            out = self._writer.role(self.prompt_ids, self.prompt_tokens)
        for item in pieces:
            self.token_ids += item.token_ids
            self.tokens += item.tokens
            self.plain = self.plain and item.delta is None
            self._last_size = len(item.token_ids)
            self._texts.append(item.text)
            if item.finish_reason is not None:
                self.finished = True
                self._finish = item
            out += self._writer.piece(item, self.prompt_ids, self.prompt_tokens, self.tokens)
        return out if self.stream else b""

    def _usage(self) -> dict[str, Any]:
        return usage_of(self.prompt_tokens, self.tokens)


def incomplete_tail(texts: list[str]) -> int:
    """How many of the last tokens belong to a character that is not complete.

    Args:
        texts: What a tokenizer makes of the last tokens, then of these without the last one, the last two, ...
    """
    for dropped, text in enumerate(texts):
        if not text.endswith(_REPLACEMENT):
            return dropped
    return len(texts)
