# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One answer out of the parts that several instances make of it.

The client sees what one instance would have sent: one role, one id, every token once, the sums of the whole. While the
first instance answers, its events pass as they are; those of a later part are rewritten in the name of the first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.bodies import CHAT_PATH, dump_body, token_limit
from syshaxd.core.handover.chunks import (
    CALLS,
    DATA,
    DONE,
    PLAIN_DELTA,
    REASONING,
    ChunkWriter,
    Piece,
    read_piece,
    usage_of,
)
from syshaxd.core.handover.hermes import HermesParser
from syshaxd.core.handover.reasoning import REASONING_PARSERS, ReasoningTokens, may_think
from syshaxd.core.handover.restated import RestatedText
from syshaxd.core.handover.so_far import AnswerSoFar
from syshaxd.core.report.describe import excerpt
from syshaxd.core.wire.openai import error_text, is_refusal

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# An instance that shuts down ends its answers so.
_BROKEN_OFF = frozenset(("abort", "error"))
# A string's own quotes are escaped, so these are keys.
_IDS = re.compile(rb'("(?:prompt_)?token_ids":)\[[^\]]*\]')
_DONE = b"[DONE]"


class JoinedAnswer(AnswerSoFar):
    """Takes the events of one part after the other; gives what the client gets for them."""

    __slots__ = (
        *("_begun", "_counts_from_start", "_ending", "_held", "_held_events", "_limit", "_parser", "_parses_all"),
        *("_part_at", "_plain_delta", "_prompt_details", "_reasoning", "_restated", "_sent_early", "_tells_ids"),
        *("_template", "_thinks", "_to_be_continued", "_told_done", "_told_usage", "_writer", "cached_tokens"),
        *("part_id", "part_over", "refused", "stream", "takes_unparsed", "tells_reasoning"),
    )

    def __init__(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        to_be_continued: frozenset[str] = frozenset(),
        tells_usage: bool = False,
        reasoning_parser: str = "",
        may_call_tools: bool = False,
    ) -> None:
        """Sets up for an answer.

        Args:
            path: The client's route.
            body: The client's body.
            to_be_continued: What an instance gives as `finish_reason` where another part is to follow; parts of such
                instances may repeat the text that is there.
            tells_usage: The instances tell usage unasked, as the client is to see.
            reasoning_parser: Their parser of reasoning, if it is one of `REASONING_PARSERS`.
            may_call_tools: There may be calls of tools in it, in the form of the parser `hermes`.
        """
        self.stream = bool(body.get("stream"))
        keeps_text = bool(to_be_continued) or not self.stream
        parser = REASONING_PARSERS.get(reasoning_parser) if path == CHAT_PATH else None
        holds_tags = parser is not None and parser.holds_back
        super().__init__(path, body, keeps_text=keeps_text, may_call_tools=may_call_tools, holds_tags=holds_tags)
        self._writer = ChunkWriter(path, body)
        if tells_usage:
            self._writer.tell_usage()
        self.tells_reasoning = parser is not None
        self.keeps_special_tokens = self.may_call_tools or (parser is not None and parser.keeps_special_tokens)
        self._counts_from_start = parser is not None and parser.counts_from_start
        self._thinks = parser is not None and may_think(body)
        self._reasoning: ReasoningTokens | None = None
        self._plain_delta = PLAIN_DELTA
        if self.tells_reasoning:
            self._plain_delta |= REASONING
        if may_call_tools:
            self._plain_delta |= CALLS
        self._parser: HermesParser | None = None
        self._tells_ids = self._writer.tells_ids
        self._to_be_continued = to_be_continued
        self._limit = token_limit(body) if to_be_continued else None
        self._restated = RestatedText("")
        self.part_id: str | None = None
        """The id that the present part has given itself."""
        self.part_over = self._begun = False
        """`part_over`: the present part has ended, and another is to follow."""
        self.refused = False
        """The answer is `finished`, as the instance has refused the request in its stream."""
        self.cached_tokens: int | None = None
        """Prompt tokens that the present part did not have to compute, as far as it has told."""
        self._part_at = 0  # characters before the present part
        self._parses_all = self.tells_tokens or keeps_text or self._token_ends is not None
        self.takes_unparsed = False
        """Of an event with the text of one token, nothing matters now but the token."""
        self._held: list[Piece] = []
        self._prompt_details: Any = None
        self._template: dict[str, Any] = {}
        self._held_events = b""  # those of the held pieces, where the client is told of their tokens
        self._sent_early = 0  # held pieces that the client has got as empty events
        self._ending = self._told_usage = self._told_done = False  # the last piece has come, its event was not sent

    def look_ahead(self) -> None:
        """From now on an event waits for the next one, if only that shows whether the answer is `at_token_end`."""
        if self._ahead is not None and self.may_hold_tag:
            self._ahead.begin()
            self.takes_unparsed = False

    def take_prefill(self, answer: Mapping[str, Any], *, max_model_len: int | None = None) -> bytes:
        """Takes the complete answer of one token; returns what to send, if anything.

        If it is not `plain` nothing was taken: the request must be answered as a whole.
        """
        self._template = dict(answer)
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
            ending = choice.get("finish_reason"), choice.get("stop_reason")
            return self._deliver(Piece(text, ids, *ending, logprobs=choice.get("logprobs")))
        if not text or text.endswith(_REPLACEMENT):
            return b""  # part of a character: the next instance makes this token again
        count = usage.get("completion_tokens")
        return self._deliver(Piece(text, ids, count=count, logprobs=choice.get("logprobs")))

    def take_prompt(self, answer: Mapping[str, Any]) -> None:
        """Takes the answer to a request for the prompt alone; the client gets nothing of it."""
        usage = answer.get("usage") or {}
        self._told_prompt_tokens = usage.get("prompt_tokens") or usage.get("input_tokens") or 0

    def begin_part(self, content: str = "") -> None:
        """Another instance continues from what was delivered.

        Args:
            content: If it `may_call_tools`, the text of `content_ids`.
        """
        if self.reasoning_tags and self._writer.tells_usage:
            self._reasoning = ReasoningTokens(
                *self.reasoning_tags, from_start=self._counts_from_start, thinks=self._thinks
            )
        self._held.clear()
        if self._ahead is not None:
            self._ahead.end()
        if self.may_call_tools:
            self._parser = HermesParser(content)
        if self._token_ends is not None:
            self._token_ends.begin(self.text_size, len(self.token_ids))
        self._held_events = b""
        self.cached_tokens = None
        self.parts += 1
        self._part_at = self.text_size
        self.part_id, self.part_over = None, False
        if self._to_be_continued:
            self._restated = RestatedText(self.text)

    def pass_event(self, event: bytes) -> Iterator[bytes]:
        """Takes one event of the first instance's stream; returns what to send, piece by piece.

        Raises:
            InstanceFailedError: The event tells of a failure.
        """
        return map(self._pass_event, self._in_turn(event))

    def _in_turn(self, event: bytes | Mapping[str, Any]) -> Sequence[Any]:
        """What is to be taken now that this event has come."""
        return (event,) if self._ahead is None else self._ahead.in_turn(event)

    def _pass_event(self, event: bytes) -> bytes:
        out = self._passed(event)
        looks_ahead = self._ahead is not None and self._ahead.active
        self.takes_unparsed = self._begun and not (self._held or self._parses_all or looks_ahead)
        return out

    def _passed(self, event: bytes) -> bytes:
        text = event.removeprefix(DATA).rstrip(b"\n")
        if text == _DONE:
            self._told_done = True
            return b""  # the stream's end follows at once, and `end` sends both
        if not event.startswith(DATA):
            return event  # a comment
        told = jsontext.loads(text)
        if "error" in told and is_refusal(told["error"]):
            self.finished = self.refused = True
            return event
        pieces = self._read(told)
        self._begun = True
        self._told_usage = self._told_usage or (not told.get("choices") and bool(told.get("usage")))
        for piece in pieces:
            self.add(piece)
        if self._held and self.tells_tokens:
            # What was told of a token cannot be withdrawn: it waits until its character is whole.
            self._held_events += event
            return b""
        if self.tells_tokens:
            event, self._held_events = self._held_events + event, b""
            return event if self._tells_ids else _IDS.sub(_null, event)
        if not pieces and self._held and self._held[-1].silent:
            return b""
        self._sent_early = sum(not piece.silent for piece in self._held) if self._held else 0
        return _IDS.sub(_null, event)

    def take(self, event: Mapping[str, Any]) -> bytes:
        """Takes one event of a later part; returns what to send, if anything.

        Raises:
            InstanceFailedError: The event tells of a failure.
        """
        pieces = (piece for each in self._in_turn(event) for piece in self._read(each))
        return b"".join(self._deliver(self._at_its_offset(piece)) for piece in pieces)

    def _at_its_offset(self, piece: Piece) -> Piece:
        """The piece of a later part, with the offsets of its tokens in the whole text."""
        logprobs = piece.logprobs
        if logprobs is None or "text_offset" not in logprobs:
            return piece
        offsets = [offset + self._part_at for offset in logprobs["text_offset"]]
        return replace(piece, logprobs={**logprobs, "text_offset": offsets})

    def _read(self, event: Mapping[str, Any]) -> list[Piece]:
        """What an event adds to the delivered answer."""
        if problem := event.get("error"):
            raise InstanceFailedError(f"the instance broke off: {error_text(problem)}")
        self._writer.remember(event)
        if not event.get("choices"):
            self._take_usage(event.get("usage") or {})
            return []
        if event.get("usage"):
            self._writer.tell_usage()  # also where the client did not ask: the instance is told to
        self.part_id = event.get("id")
        choice = event["choices"][0]
        piece = read_piece(event, self._plain_delta)
        if self._to_be_continued:
            piece = self._without_repetition(piece)
        if self._parser is not None:
            piece = self._with_calls(piece, self._parser)
        if piece.finish_reason in _BROKEN_OFF:
            raise InstanceFailedError(f"the instance broke off: finish_reason {excerpt(str(piece.finish_reason))}")
        if not self.prompt_ids:
            self.prompt_ids = tuple(event.get("prompt_token_ids") or choice.get("prompt_token_ids") or ())
        if piece.text or piece.delta is not None or piece.finish_reason is not None:
            pieces = [*self._held, piece]
            self._held.clear()
            return pieces
        if piece.token_ids:  # else it is a chat's role, or part of a prefill
            self._held.append(piece)
        return []

    def _without_repetition(self, piece: Piece) -> Piece:
        """The piece as a part of the whole answer: without what the client has, and without the end of a mere part."""
        text, reason = self._restated.push(piece.text), piece.finish_reason
        if reason is not None:
            text += self._restated.end()
        if reason in self._to_be_continued:
            self.part_over = True
            reason = None
            if self._limit is not None and self.tokens + bool(text) >= self._limit:
                reason = "length"
        return replace(piece, text=text, finish_reason=reason)

    def _with_calls(self, piece: Piece, parser: HermesParser) -> Piece:
        """The piece of a later part, whose text may have calls of tools in it."""
        found = parser.push(piece.text, last=piece.finish_reason is not None)
        self.called = self.called or "tool_calls" in found
        reason = "tool_calls" if self.called and piece.finish_reason == "stop" else piece.finish_reason
        delta = {**(piece.delta or {}), **found} if piece.delta or "tool_calls" in found else None
        silent = not (found or delta)
        return replace(piece, text=found.get("content", ""), delta=delta, silent=silent, finish_reason=reason)

    def end(self) -> bytes:
        """What is missing at the end of the client's stream."""
        if self._told_done:
            return DONE
        usage = self._usage()
        if self._prompt_details is not None:
            usage["prompt_tokens_details"] = self._prompt_details
        out = self._writer.end(None if self._told_usage else usage)
        if self._ending:
            out = self._writer.piece(self.finish, self.prompt_ids, self.prompt_tokens, self.tokens) + out
        return out

    def whole(self) -> bytes:
        """The answer in one piece, in the form of the instance that prefilled it."""
        choice = dict(self._template["choices"][0])
        finish = self.finish
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
        body |= {"choices": [choice], "usage": usage | self._usage(), "kv_transfer_params": None}
        return dump_body(body)

    def _take_usage(self, usage: Mapping[str, Any]) -> None:
        details = usage.get("prompt_tokens_details") or {}
        self.cached_tokens = details.get("cached_tokens")

    def _deliver(self, piece: Piece) -> bytes:
        out = b""
        if not self._begun:
            self._begun = True
            out = self._writer.role(self.prompt_ids, self.prompt_tokens)
        self.add(piece)
        if self._reasoning is not None:
            self._writer.reasoning_tokens = self._reasoning.among(self.token_ids, self.reasoning_end)
        if piece.finish_reason is not None:
            self._ending = True  # what stands in the last piece's event, only the instance's last event tells
        elif (
            piece.text or piece.delta is not None or self.tells_tokens or (not piece.silent and not self._take_early())
        ):
            out += self._writer.piece(piece, self.prompt_ids, self.prompt_tokens, self.tokens)
        return out if self.stream else b""

    def _take_early(self) -> bool:
        """Whether the client has got an empty event for this token already, before it was made again."""
        early = self._sent_early > 0
        self._sent_early -= early
        return early

    def _usage(self) -> dict[str, Any]:
        return usage_of(self.prompt_tokens, self.tokens, self._writer.reasoning_tokens)


def _null(ids: re.Match[bytes]) -> bytes:
    return ids[1] + b"null"  # a template is expanded by code in Python, which takes longer
