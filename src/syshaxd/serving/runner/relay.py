# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance's response that goes to the client as it comes.

Event streams go out chunk by chunk: no task, no parsing, no timer per chunk. Everything else is held until it is
complete, up to a limit, so that a client never gets half a JSON document. Until the first byte of the body goes out
nothing has been sent at all, and another instance may answer instead.
"""

import asyncio
import re
from collections.abc import Callable

from syshaxd.core.errors import InstanceFailedError, SyshaxError
from syshaxd.core.handover.bodies import CHAT_PATH, COMPLETIONS_PATH
from syshaxd.core.handover.chunks import DONE
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.passing import PassedStream
from syshaxd.core.placement.records import Outcome
from syshaxd.core.wire.http1 import Dechunker, ResponseHead, is_one_chunk
from syshaxd.core.wire.openai import choices_of
from syshaxd.serving.request import Request
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.response import Response, failure_in

# A response that is not an event stream is held back up to this size, then passed on as it comes.
MAX_BUFFERED_BYTES = 4 * 1024 * 1024
# JSON escapes line ends, so this can't stand inside an event.
_EVENT = b"\ndata: {"
_ERROR = b'data: {"error"'
_PROMPT_TOKENS = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d+)')
_COMPLETION_TOKENS = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
_CACHED_TOKENS = re.compile(rb'"(cached|cache_read_input)_tokens":\s*(\d+)')
# An instance that shuts down ends its answers with the others.
_FINISHED = re.compile(rb'"finish_reason":\s*"(?!abort|error)')
# The usage object stands in the last event; the connection's last reads surely hold it.
_TAIL_BYTES = 4096


class Relay(Response):
    """Passes a response to the client byte by byte."""

    __slots__ = (
        "_answer",
        "_last",
        "_previous",
        "_request",
        "_whole",
        "_write",
        "cached_tokens",
        "committed",
        "events",
        "tokens_in",
        "tokens_out",
    )

    def __init__(
        self,
        answer: ClientAnswer,
        request: Request,
        done: "asyncio.Future[None]",
        *,
        last_try: bool,
        paused: bool = False,
    ) -> None:
        """As Response; `request` is what the client has asked."""
        super().__init__(done, last_try=last_try, paused=paused)
        self._answer = answer
        self._request = request
        self.committed = False
        """Bytes have gone to the client."""
        self.events = 0
        """Of a stream, so far."""
        self.tokens_in = self.tokens_out = 0
        """Of prompt and answer, as far as the instance has told at its end."""
        self.cached_tokens: int | None = None
        """Prompt tokens that the instance did not compute; None: it did not tell."""
        self._whole = True
        self._previous = self._last = b""
        self._write: Callable[[bytes], None]

    def chunk(self, data: bytes) -> bool:
        """Sink: passes on a chunk."""
        if not self.committed or not is_one_chunk(data):
            return False
        self.progress += 1
        self.events += data.count(_EVENT)
        self._whole = True
        self._previous, self._last = self._last, data
        self._write(data)
        return True

    def body(self, data: bytes, *, whole: bool) -> None:
        """Sink: passes on or holds a piece of the body."""
        self.progress += 1
        if self.committed:
            self.events += data.count(_EVENT)
            self._whole = whole
            self._previous, self._last = self._last, data
            self._write(data)
            return
        self._whole = whole
        self._hold(data)
        if not self.is_fault and self._may_begin():
            self._commit()

    def end(self) -> None:
        """Sink: the response is complete."""
        self._connection = None
        if not self.committed:
            failure = self.fault() if self.is_fault else failure_in(self.payload()) if self.is_stream else None
            if failure is not None:
                self._settle(failure)
                return
            self._commit()
        if self._lacks_its_end():
            self._settle(InstanceFailedError("the connection was closed by the instance before the stream's end"))
            return
        self._read_tail()
        self._settle(None)

    def complete(self) -> bool:
        """The instance broke off. Ends the client's answer properly if nothing but the last words is missing."""
        if not (self.committed and self._at_event_end and self._says_all()):
            return False
        self._answer.end(b"" if self._tail.rstrip().endswith(DONE.rstrip()) else DONE)
        self._read_tail()
        return True

    def break_off(self, error: SyshaxError) -> None:
        """Ends the client's answer after a failure, as bytes have been sent already."""
        self._answer.break_off(error, at_event_end=self._at_event_end)
        self._read_tail()

    def abandon(self) -> None:
        """The client takes nothing any more."""
        self._answer.abandon()
        if self.committed:
            self._read_tail()

    @property
    def _tail(self) -> bytes:
        return (self._previous + self._last)[-_TAIL_BYTES:]

    @property
    def _at_event_end(self) -> bool:
        """What has been passed on ends with a whole event."""
        return self._whole and self._tail.endswith((b"\n\n", b"\n\n\r\n", b"\r\n\r\n"))

    def _may_begin(self) -> bool:
        """Whether what is held is worth sending already."""
        if self._held_bytes > MAX_BUFFERED_BYTES:
            return True
        if not self.is_stream:
            return False
        payload = self.payload()
        if b"\n\n" not in payload and b"\r\n\r\n" not in payload:
            return False
        failure = failure_in(payload)
        if failure is not None:
            self.fail(failure)
        return failure is None

    def _commit(self) -> None:
        assert self.head_ is not None
        self.committed = True
        self._last = b"".join(self._held)
        self._held.clear()
        self.events += self._last.count(_EVENT)
        self._write = self._answer.begin(self.head_, self._last)

    def _lacks_its_end(self) -> bool:
        """Where the connection's end is that of the body, only the last event shows whether it was cut."""
        head = self.head_
        assert head is not None
        return (
            not head.chunked
            and head.content_length is None
            and self._is_openai_stream()
            and DONE.rstrip() not in self._tail
            and _ERROR not in self._tail
        )

    def _is_openai_stream(self) -> bool:
        assert self.head_ is not None
        return self.is_stream and self.head_.status == 200 and self._request.path in {CHAT_PATH, COMPLETIONS_PATH}

    def _says_all(self) -> bool:
        """Whether nothing but the last words of a stream is missing."""
        return self._is_openai_stream() and len(_FINISHED.findall(self._tail)) == choices_of(self._request.fields)

    def _read_tail(self) -> None:
        tail = self._tail
        if self.is_stream and (at := tail.rfind(_ERROR)) >= 0:
            self._answer.outcome = Outcome.FAILED if failure_in(tail[at:]) is not None else Outcome.CLIENT_ERROR
        told = tail if b'_tokens"' in tail else b""  # most streams tell no usage
        prompt, completion = _PROMPT_TOKENS.findall(told), _COMPLETION_TOKENS.findall(told)
        if prompt:
            self.tokens_in = int(prompt[-1])
        if cached := _CACHED_TOKENS.findall(told):
            name, count = cached[-1]
            self.cached_tokens = int(count)
            # Anthropic does not count them among the others.
            self.tokens_in += self.cached_tokens if name == b"cache_read_input" else 0
        if completion:
            self.tokens_out = int(completion[-1])
        elif self.is_stream:
            # One event a token, but for the chat's first, which only names the role.
            self.tokens_out = max(0, self.events - (1 if self._request.path.startswith("/v1/chat/") else 0))


class MovableRelay(Relay):
    """Passes the first part of an answer that another instance may continue to the client."""

    __slots__ = ("_dechunker", "_joined", "_passed", "_write_chunk", "joins", "on_taken")

    def __init__(
        self,
        answer: ClientAnswer,
        request: Request,
        done: "asyncio.Future[None]",
        *,
        joined: JoinedAnswer,
        last_try: bool,
        paused: bool,
    ) -> None:
        """As Relay.

        Args:
            answer: The client's answer.
            request: What the client has asked.
            done: Resolved when the response is over.
            joined: Sees the events, and says what the client gets.
            last_try: There is no other instance to ask: its own error is the answer.
            paused: The client takes no more yet.
        """
        super().__init__(answer, request, done, last_try=last_try, paused=paused)
        self._joined = joined
        self._passed = PassedStream(joined)
        self.on_taken: Callable[[], None] | None = None
        """Called when something has come, while a move waits for it."""
        self.joins = False
        """It is a good event stream: what ends it is for the MovableAnswer to say."""
        self._dechunker: Dechunker | None = None
        self._write_chunk: Callable[[bytes], None] | None = None

    def head(self, head: ResponseHead) -> None:
        """Sink: the response's head."""
        super().head(head)
        self.joins = self.is_stream and head.status == 200
        self._dechunker = Dechunker() if self.joins and head.chunked else None

    def chunk(self, data: bytes) -> bool:
        """Sink: passes on a chunk with an event whose kind is known."""
        if self._write_chunk is None or self.on_taken is not None:
            return False
        out = self._passed.chunk(data)
        if not out:
            return False
        self.progress += 1
        self._write_chunk(out)
        return True

    def body(self, data: bytes, *, whole: bool) -> None:
        """Sink: a piece of the body."""
        if self._dechunker is not None:
            data = self._dechunker.feed(data)
        if not self.committed or not self.joins:
            super().body(data, whole=whole)
            return
        self.progress += 1
        events = self._passed.read(data)
        if events:
            self._answer.events(events)
        self._check_part()
        if self.on_taken is not None:
            self.on_taken()

    def payload(self) -> bytes:
        """As Response; what is held of an event stream has no framing."""
        return b"".join(self._held) if self.joins else super().payload()

    def end(self) -> None:
        """Sink: the response is complete."""
        if not self.joins:
            super().end()
            return
        self._connection = None
        failure = None
        if not self.committed:
            failure = failure_in(self.payload())
            if failure is None and self._held:
                self._commit()
        if failure is None and not self._joined.finished:
            failure = InstanceFailedError("the instance's stream ended before the answer did")
        if self._joined.refused:
            self._answer.outcome = Outcome.CLIENT_ERROR
        self._settle(failure)

    def _commit(self) -> None:
        if not self.joins:
            super()._commit()
            return
        assert self.head_ is not None
        self.committed = True
        events = self._passed.read(self.payload())
        self._held.clear()
        # Head and first events leave in one write: each costs a system call, and wakes the client.
        self._write_chunk = self._answer.begin_events(self.head_, events)
        self._check_part()

    def _check_part(self) -> None:
        if self._passed.failure is not None:
            self.fail(self._passed.failure)
