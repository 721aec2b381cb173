# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the client has of an answer, and whether another instance can continue it from there.

What counts as delivered always ends with a whole character, so another instance can continue from exactly there.
"""

from collections.abc import Mapping
from typing import Any

from syshaxd.core.handover.bodies import CHAT_PATH
from syshaxd.core.handover.chunks import REASONING, Piece
from syshaxd.core.handover.held_back import LookAhead, TokenEnds, held_back_chars


class AnswerSoFar:
    """The tokens that the client has, and what is known of the prompt."""

    # Each token changes the first ones; a dictionary of so many names would take twice the memory.
    __slots__ = (
        *("token_ids", "tokens", "last_size"),
        *("_ahead", "_content_at", "_mixed", "_texts", "_token_ends", "_told_prompt_tokens", "called", "chat"),
        *("finish", "finished", "keeps_special_tokens", "keeps_text", "may_call_tools", "parts", "plain"),
        *("prompt_ids", "reasoning_tags", "tells_tokens", "text_size"),
    )

    def __init__(
        self, path: str, body: Mapping[str, Any], *, keeps_text: bool, may_call_tools: bool, holds_tags: bool
    ) -> None:
        """Sets up for an answer of which the client has nothing.

        Args:
            path: The client's route.
            body: The client's body.
            keeps_text: Whether `text` will be needed.
            may_call_tools: There may be calls of tools in it.
            holds_tags: The instances hold back reasoning in which a tag may begin.
        """
        self.chat = path == CHAT_PATH
        self.keeps_text = keeps_text
        self.token_ids: list[int] = []
        """The answer's tokens that the client has."""
        self.tokens = 0
        """Their number; that of events, where the instances do not tell their ids."""
        self.last_size = 0
        """Tokens of the latest piece."""
        self.prompt_ids: tuple[int, ...] = ()
        """The prompt's tokens; empty: not known yet."""
        self.parts = 0
        """Parts after the prefill that have begun."""
        self.finished = False
        """The last token has come."""
        self.finish = Piece("", ())
        """The last piece, once the answer is `finished`."""
        self.plain = True
        """What came so far can be told from its tokens alone."""
        logprobs = body.get("logprobs")
        self.tells_tokens = bool(body.get("return_token_ids")) or (logprobs is not None and logprobs is not False)
        """The client gets more of each token than its text: what was told cannot be withdrawn."""
        behind_chars = held_back_chars(body)
        self._token_ends = TokenEnds(behind_chars) if behind_chars else None
        self._ahead = LookAhead() if holds_tags else None
        self.may_call_tools = may_call_tools and self.chat
        """A part that continues it comes as plain text, in which the calls are to be found (`content_ids`)."""
        self.called = False
        """The call of a tool has begun."""
        self.reasoning_tags: tuple[int, ...] = ()
        """The tokens that begin and end reasoning, once they are known."""
        self._content_at = 0  # tokens before the first event with more than reasoning
        self._mixed = False  # that event has reasoning, too
        self.keeps_special_tokens = False
        """The text of special tokens is part of it, whatever the request says."""
        self.text_size = 0
        """Characters that the client has; not counted where neither the text nor its end matters."""
        self._told_prompt_tokens = 0
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """The answer's text that the client has; a stream that continues by tokens does not keep it."""
        return "".join(self._texts)

    @property
    def prompt_tokens(self) -> int:
        """How many the prompt has; 0: not known yet."""
        return len(self.prompt_ids) or self._told_prompt_tokens

    @property
    def may_be_cut(self) -> bool:
        """Another instance could continue from here with the KV cache of this one, as far as known."""
        return bool(self.token_ids) and self.may_go_on

    @property
    def may_go_on(self) -> bool:
        """Another instance could make the rest, as far as is known."""
        return bool(self.prompt_ids and self.plain and not self.finished)

    @property
    def surely_whole(self) -> bool:
        """What was delivered ends with a whole character; else `tail_ids` must be looked at by a tokenizer."""
        return self._token_ends is not None or self.last_size <= 1

    @property
    def at_token_end(self) -> bool:
        """What was delivered certainly ends where a token does, unless that is inside a character."""
        if self._token_ends is not None:
            return self._token_ends.tokens_of(self.text_size) is not None
        return not self.may_hold_tag or (self._ahead is not None and self._ahead.nothing_held)

    @property
    def may_hold_tag(self) -> bool:
        """The instance may have held back reasoning in which a tag may begin."""
        return self._ahead is not None and len(self.token_ids) <= self._content_at

    @property
    def content_ids(self) -> list[int]:
        """The tokens of events behind the reasoning, with what ends it."""
        return self.token_ids[self._content_at :]

    @property
    def reasoning_end(self) -> int:
        """How many of the answer's tokens there are up to the end of what has come as reasoning."""
        end = self._end_of_thinking() if self._mixed else None
        return self._content_at if end is None else end

    @property
    def grammar_tokens(self) -> int:
        """How many of the answer's tokens are of its grammar, if it has one: those behind the reasoning."""
        end = self._end_of_thinking()
        return max(0, len(self.token_ids) - (self._content_at if end is None else end + 1))

    def _end_of_thinking(self) -> int | None:
        """Where among the tokens the one is that ends reasoning; None: it has not come, or is not known."""
        ends = self.reasoning_tags[1:]
        try:
            return self.token_ids.index(ends[0], self._content_at) if ends else None
        except ValueError:
            return None

    @property
    def thinks_again(self) -> bool:
        """A <think> has come behind the reasoning: it is text, but a parser that sees only the tokens cannot know."""
        return bool(self.reasoning_tags) and self.reasoning_tags[0] in self.content_ids

    def tail_ids(self) -> tuple[int, ...]:
        """The last tokens that were delivered: enough to see whether they end with a whole character."""
        return tuple(self.token_ids[-max(8, self.last_size) :])

    def drop_held_back(self) -> bool:
        """Leaves out the tokens whose text was held back for stop strings, so that they are made again.

        Returns:
            False: the client has the beginning of a token's text.
        """
        if self._token_ends is None:
            return True
        tokens = self._token_ends.tokens_of(self.text_size)
        return tokens is not None and self.drop_tail(len(self.token_ids) - tokens)

    def drop_tail(self, count: int) -> bool:
        """Leaves out the last tokens, whose character was not complete, so that they are made again.

        Returns:
            False: the client has their ids already.
        """
        if count and self.tells_tokens:
            return False
        del self.token_ids[len(self.token_ids) - count :]
        self.tokens -= count
        self.last_size = 0
        return True

    def add(self, piece: Piece) -> None:
        """The client gets a piece."""
        if piece.delta is not None:
            self._add_parsed(piece, piece.delta)
        self.token_ids += piece.token_ids
        self.tokens += piece.tokens
        self.plain = self.plain and not piece.parsed
        self.last_size = len(piece.token_ids)
        self.text_size += len(piece.text)
        if self._token_ends is not None and piece.text and len(piece.token_ids) == 1:
            self._token_ends.add(self.text_size, len(self.token_ids))
        if self.keeps_text:
            self._texts.append(piece.text)
        if piece.finish_reason is not None:
            self.finished = True
            self.finish = piece

    def _add_parsed(self, piece: Piece, delta: Mapping[str, Any]) -> None:
        calls = bool(delta.get("tool_calls"))
        self.called = self.called or calls
        if delta.keys() & REASONING:
            self._mixed = calls or bool(piece.text)
            self._content_at = len(self.token_ids) + (0 if self._mixed else len(piece.token_ids))
