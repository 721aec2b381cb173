# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One response on its way from an instance to a client.

Event streams go out chunk by chunk, verbatim: no task, no parsing, no timer per chunk. Everything else is held until it
is complete, up to a limit, so that a client never gets half a JSON document. Until the first byte of the body goes out
nothing has been sent at all, and another instance may answer instead.
"""

import asyncio
import re
from collections.abc import Callable

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.http1 import LAST_CHUNK, ResponseHead, chunk, chunk_payloads, response_head
from syshaxd.core.openai import error_body
from syshaxd.core.records import Outcome, RequestRecord
from syshaxd.runner.exchange import Downstream, Exchange

# A response that is not an event stream is held back up to this size, then passed on as it comes.
MAX_BUFFERED_BYTES = 4 * 1024 * 1024
# Statuses with which another instance may do better.
INSTANCE_FAULTS = frozenset((500, 502, 503, 504))
# JSON escapes line ends, so this can't stand inside an event.
_EVENT = b"\ndata: {"
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
# The usage object stands in the last event; the connection's last reads surely hold it.
_TAIL_BYTES = 4096


class Relay(Exchange):
    """Takes one response from an instance and passes it to a client."""

    __slots__ = (
        "_buffer",
        "_buffered_bytes",
        "_client",
        "_clock",
        "_head",
        "_last",
        "_last_try",
        "_placement",
        "_previous",
        "_record",
        "_streaming",
        "_whole",
        "_write",
        "committed",
        "events",
        "keep_alive",
    )

    def __init__(
        self,
        client: Downstream,
        record: RequestRecord,
        *,
        placement: str,
        keep_alive: bool,
        last_try: bool,
        clock: Callable[[], float],
        done: "asyncio.Future[None]",
    ) -> None:
        super().__init__(done)
        self._client = client
        self._record = record
        self._placement = placement
        self._last_try = last_try
        self._clock = clock
        self.keep_alive = keep_alive and not client.http10
        self.committed = False
        """Bytes have gone to the client: no other instance can answer any more."""
        self.events = 0
        self._head: ResponseHead | None = None
        self._streaming = False
        self._whole = True
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._previous = self._last = b""
        self._write: Callable[[bytes], None]

    @property
    def record(self) -> RequestRecord:
        """The measurements of the request."""
        return self._record

    def head(self, head: ResponseHead) -> None:
        """Sink: decides how the body is passed on. Nothing is sent yet."""
        self.progress += 1
        self._head = head
        self._streaming = head.content_type.startswith(b"text/event-stream")

    def body(self, data: bytes, *, whole: bool) -> None:
        """Sink: passes on or holds a piece of the body."""
        self.progress += 1
        if self.committed:
            self.events += data.count(_EVENT)
            self._whole = whole
            self._previous, self._last = self._last, data
            self._write(data)
            return
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        self._whole = whole
        if (self._streaming or self._buffered_bytes > MAX_BUFFERED_BYTES) and not self._is_instance_fault():
            self._commit()

    def end(self) -> None:
        """Sink: the response is complete."""
        self._connection = None
        if not self.committed:
            if self._is_instance_fault():
                self._settle(InstanceFailedError(self._fault_text()))
                return
            self._commit()
        self._read_usage()
        self._settle(None)

    def failed(self, error: InstanceFailedError) -> None:
        """Sink: the instance broke off."""
        self._connection = None
        self._give_up(error)

    def timed_out(self, after_s: float) -> None:
        """Exchange: gives up the client, or the instance."""
        self.cancel()
        if self._paused:
            self._record.outcome = Outcome.CLIENT_GONE
            self.keep_alive = False
            self._client.abort()
            self._settle(None)
        else:
            self._give_up(InstanceTimeoutError(f"the instance was silent for {after_s:g} s"))

    @property
    def _chunked(self) -> bool:
        return self._head is not None and self._head.chunked

    def _is_instance_fault(self) -> bool:
        head = self._head
        assert head is not None
        if head.status not in INSTANCE_FAULTS:
            return False
        # The last instance's own error goes out as it is, if it is one that OpenAI's clients can read.
        return not (self._last_try and head.content_type.startswith(b"application/json"))

    def _fault_text(self) -> str:
        assert self._head is not None
        body = b"".join(self._buffer)
        text = (chunk_payloads(body) if self._chunked else body)[:200].decode("utf-8", "replace").strip()
        return f"the instance answered {self._head.status}: {text or 'nothing'}"

    def _commit(self) -> None:
        head = self._head
        assert head is not None
        self.committed = True
        self._record.ttft_s = self._clock() - self._record.started_at_s
        body = b"".join(self._buffer)
        self._buffer.clear()
        self.events += body.count(_EVENT)
        self._last = body
        send = self._client.writer()
        self._write = send
        if self._client.http10 and head.chunked:
            body = chunk_payloads(body)
            self._write = lambda data: send(chunk_payloads(data))
        if not head.chunked and head.content_length is None and head.status not in {204, 304}:
            self.keep_alive = False
        self._record.status = head.status
        if head.status >= 400:
            self._record.outcome = Outcome.FAILED if head.status >= 500 else Outcome.CLIENT_ERROR
        send(
            response_head(
                head,
                request_id=self._record.request_id,
                placement=self._placement,
                dechunked=self._client.http10,
                close=not self.keep_alive,
            )
            + body
        )

    def _give_up(self, error: InstanceFailedError | InstanceTimeoutError) -> None:
        if not self.committed:
            self._settle(error)
            return
        self._record.outcome = Outcome.FAILED
        if self._streaming and self._whole:
            event = b"data: " + error_body(str(error), kind="upstream_error", code="instance_failed") + b"\n\n"
            self._write(chunk(event) + LAST_CHUNK if self._chunked else event)
        else:
            self.keep_alive = False
            self._client.abort()
        self._settle(None)

    def _read_usage(self) -> None:
        tail = (self._previous + self._last)[-_TAIL_BYTES:]
        prompt, completion = _PROMPT_TOKENS.findall(tail), _COMPLETION_TOKENS.findall(tail)
        if prompt:
            self._record.tokens_in = int(prompt[-1])
        if completion:
            self._record.tokens_out = int(completion[-1])
        elif self._streaming:
            # One event a token, but for the chat's first, which only tells the role.
            self._record.tokens_out = max(0, self.events - (1 if self._record.route.startswith("/v1/chat/") else 0))
