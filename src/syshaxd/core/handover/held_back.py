# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Text that an instance has generated and not sent yet, because it may begin a stop string or a tag.

Another instance must make it again. So an answer continues elsewhere only where the text that the client has ends with
a token.
"""

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from syshaxd.core import jsontext

_BEGINNING_OF_TAG = re.compile(r"<[/a-z_=]*$")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def held_back_chars(body: Mapping[str, Any]) -> int:
    """How many characters a stream is behind its tokens for its stop strings (vLLM, v1/engine/detokenizer.py)."""
    stop = body.get("stop")
    if stop is None or not body.get("stream") or body.get("include_stop_str_in_output"):
        return 0
    texts = stop if isinstance(stop, list) else [stop]
    return max((len(text) - 1 for text in texts if isinstance(text, str) and text), default=0)


class TokenEnds:
    """The latest places where a token ends, in a part of a stream that is a number of characters behind its tokens."""

    __slots__ = ("_behind", "_ends")

    def __init__(self, behind_chars: int) -> None:
        self._behind = behind_chars
        self._ends: deque[tuple[int, int]] = deque([(0, 0)])

    def begin(self, chars: int, tokens: int) -> None:
        """A part begins after this many characters and tokens."""
        self._ends = deque([(chars, tokens)])

    def add(self, chars: int, tokens: int) -> None:
        """With this many tokens the client has `chars` characters: the last token ends `behind` characters later."""
        self._ends.append((chars + self._behind, tokens))
        while self._ends[0][0] < chars:
            self._ends.popleft()

    def tokens_of(self, chars: int) -> int | None:
        """How many tokens make exactly this many characters; None: a token lies across that place."""
        return next((tokens for end, tokens in self._ends if end == chars), None)


class LookAhead:
    """Lets each event wait for the next one: what a parser holds back behind an event comes first in the next text."""

    __slots__ = ("_waiting", "active", "nothing_held")

    def __init__(self) -> None:
        self._waiting: list[Any] = []
        self.active = False
        self.nothing_held = False
        """No text was held back behind the events that were returned."""

    def begin(self) -> None:
        """From now on events wait."""
        self.active = True

    def end(self) -> list[Any]:
        """No event waits any more; returns those that did."""
        events, self._waiting = self._waiting, []
        self.active = self.nothing_held = False
        return events

    def in_turn(self, event: bytes | Mapping[str, Any]) -> list[Any]:
        """Returns the event before this one, which now waits; all, if the answer ends."""
        if not self.active:
            return [event]
        told = _parsed(event) if isinstance(event, bytes) else event
        choice: Mapping[str, Any] = next(iter(told.get("choices") or ()), {"finish_reason": ""})
        if choice.get("finish_reason") is not None:
            return [*self.end(), event]
        delta = choice.get("delta") or {}
        text = delta.get("reasoning") or delta.get("reasoning_content") or delta.get("content") or ""
        self.nothing_held = bool(text) and not text.startswith("<")
        events, self._waiting = self._waiting, [event]
        return events


def _parsed(event: bytes) -> Any:
    """What an event says; nothing, if it is a comment or the end."""
    try:
        return jsontext.loads(event.removeprefix(b"data: "))
    except ValueError:
        return {}


def may_begin_tag(text: str) -> bool:
    """Whether a text ends with what may be a part of a tag."""
    return _BEGINNING_OF_TAG.search(text) is not None


def incomplete_tail(texts: list[str]) -> int:
    """How many of the last tokens belong to a character that is not complete.

    Args:
        texts: What a tokenizer makes of the last tokens, then of these without the last one, the last two, ...
    """
    for dropped, text in enumerate(texts):
        if not text.endswith(_REPLACEMENT):
            return dropped
    return len(texts)
