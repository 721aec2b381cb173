# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a client gets: one head, a body, and an end that shows whether it is complete."""

from collections.abc import Callable
from dataclasses import replace

from syshaxd.core.errors import SyshaxError
from syshaxd.core.placement.records import Outcome
from syshaxd.core.wire import anthropic
from syshaxd.core.wire.http1 import LAST_CHUNK, Dechunker, ResponseHead, chunk, response_head
from syshaxd.core.wire.openai import error_body
from syshaxd.serving.request import Request

_EVENT_STREAM = b"text/event-stream; charset=utf-8"


class ClientAnswer:
    """One answer to a client, of one instance or several. Nothing is sent before its first byte has come."""

    def __init__(self, request: Request, *, clock: Callable[[], float]) -> None:
        assert request.client is not None
        self._client = request.client
        self._request = request
        self._clock = clock
        self._write: Callable[[bytes], None] | None = None
        self._head: ResponseHead | None = None
        self._chunked = False  # what the client gets is
        self.outcome = Outcome.OK
        """How the request has ended, as far as the client's answer shows."""
        request.keep_alive = request.keep_alive and not self._client.http10

    @property
    def begun(self) -> bool:
        """Bytes have gone to the client: no other instance can answer from the start any more."""
        return self._write is not None

    def begin(self, head: ResponseHead, body: bytes) -> Callable[[bytes], None]:
        """Sends an instance's head and the beginning of its body.

        Returns:
            What sends the rest of the body, as it comes from the instance.
        """
        send = self._client.writer()
        write = send
        if self._client.http10 and head.chunked:
            dechunker = Dechunker()
            body = dechunker.feed(body)

            def write(data: bytes) -> None:
                send(dechunker.feed(data))

        if not head.chunked and head.content_length is None and head.status not in {204, 304}:
            self._request.keep_alive = False
        self._send(head, body)
        return write

    def begin_events(self, head: ResponseHead, events: bytes) -> Callable[[bytes], None] | None:
        """Sends the head of an instance's answer as that of an event stream, and its first events, if there are any.

        Returns:
            What sends a chunk of events, complete with its framing; None: the client takes no chunks.
        """
        lines = [line for line in head.lines if not line.lower().startswith(b"content-type:")]
        lines.insert(0, b"content-type: " + _EVENT_STREAM)
        stream = ResponseHead(head.status, head.reason, lines, _EVENT_STREAM, None, chunked=True, keep_alive=True)
        self._send(stream, chunk(events) if events and not self._client.http10 else events)
        return self._write if self._chunked else None

    def events(self, events: bytes) -> None:
        """Sends more events."""
        assert self._write is not None
        self._write(chunk(events) if self._chunked else events)

    def end(self, events: bytes = b"") -> None:
        """Sends the last events of a stream, and its proper end."""
        assert self._write is not None
        self._write((events and chunk(events)) + LAST_CHUNK if self._chunked else events)

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """Sends an answer in one piece, in place of what an instance has answered with that head."""
        self._send(replace(head, content_length=len(body), chunked=False), body)

    def break_off(self, error: SyshaxError, *, at_event_end: bool) -> None:
        """Ends an answer that cannot be completed; the client can tell.

        Args:
            error: Why.
            at_event_end: What the client has ends with a whole event, so that one about the error can follow.
        """
        self.outcome = Outcome.FAILED
        head = self._head
        assert head is not None
        if at_event_end and head.content_type.startswith(b"text/event-stream") and head.content_length is None:
            self.end(self._error_event(str(error)))
        else:
            self._cut()

    def _error_event(self, message: str) -> bytes:
        if anthropic.is_path(self._request.path):
            return anthropic.error_event(message, self._request.id)
        return b"data: " + error_body(message, kind="upstream_error", code="instance_failed") + b"\n\n"

    def abandon(self) -> None:
        """The client takes nothing any more."""
        self.outcome = Outcome.CLIENT_GONE
        self._cut()

    def _cut(self) -> None:
        self._request.keep_alive = False
        self._client.abort()

    def _send(self, head: ResponseHead, body: bytes) -> None:
        request = self._request
        request.ttft_s = self._clock() - request.started_at_s
        request.status = head.status
        if head.status >= 400:
            self.outcome = Outcome.FAILED if head.status >= 500 else Outcome.CLIENT_ERROR
        self._head = head
        self._chunked = head.chunked and not self._client.http10
        self._write = self._client.writer()
        text = response_head(
            head,
            request_id=request.id,
            placement=request.placement,
            dechunked=self._client.http10,
            close=not request.keep_alive,
            extra=self._client.answer_lines + _own_lines(request),
        )
        self._write(text + body)
        if request.on_answer is not None:
            request.on_answer()


def _own_lines(request: Request) -> bytes:
    """What the client learns of the placement besides the instances' names."""
    lines = ""
    if request.weights:
        lines += f"x-syshax-weights: {request.weights}\r\n"
    if request.explanation:
        lines += f"x-syshax-explain: {request.explanation}\r\n"
    if request.carried_for:
        lines += f"x-syshax-carried-for: {','.join(request.carried_for)}\r\n"
    return lines.encode("ascii")
