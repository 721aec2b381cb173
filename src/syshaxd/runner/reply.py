# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a client gets when the daemon writes the answer itself, out of the parts of several instances."""

from collections.abc import Callable

from syshaxd.core.errors import SyshaxError
from syshaxd.core.http1 import LAST_CHUNK, ResponseHead, chunk, response_head
from syshaxd.core.openai import error_body
from syshaxd.core.records import Outcome, RequestRecord
from syshaxd.runner.exchange import Downstream

_EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Reply:
    """One answer to a client. Nothing is sent before its first byte is there."""

    def __init__(
        self, client: Downstream, record: RequestRecord, *, keep_alive: bool, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._record = record
        self._clock = clock
        self._write: Callable[[bytes], None] | None = None
        self.keep_alive = keep_alive and not client.http10

    @property
    def begun(self) -> bool:
        """Bytes have gone to the client."""
        return self._write is not None

    def stream(self, events: bytes) -> None:
        """Sends some events."""
        if self._write is None:
            head = ResponseHead(
                200, b"OK", [b"content-type: " + _EVENT_STREAM], _EVENT_STREAM, None, chunked=True, keep_alive=True
            )
            self._send_head(head, events if self._client.http10 else chunk(events))
        else:
            self._write(events if self._client.http10 else chunk(events))

    def end(self, events: bytes) -> None:
        """Sends the last events of a stream."""
        self.stream(events)
        if not self._client.http10 and self._write is not None:
            self._write(LAST_CHUNK)

    def whole(self, status: int, reason: bytes, content_type: bytes, body: bytes) -> None:
        """Sends an answer in one piece."""
        if status >= 400:
            self._record.outcome = Outcome.FAILED if status >= 500 else Outcome.CLIENT_ERROR
        head = ResponseHead(
            status, reason, [b"content-type: " + content_type], content_type, len(body), chunked=False, keep_alive=True
        )
        self._send_head(head, body)

    def break_off(self, error: SyshaxError) -> None:
        """Ends a stream that cannot be completed with an error event."""
        self._record.outcome = Outcome.FAILED
        self.end(b"data: " + error_body(str(error), kind="upstream_error", code="instance_failed") + b"\n\n")

    def _send_head(self, head: ResponseHead, body: bytes) -> None:
        self._record.ttft_s = self._clock() - self._record.started_at_s
        self._record.status = head.status
        self._write = self._client.writer()
        self._write(
            response_head(
                head,
                request_id=self._record.request_id,
                placement=self._record.placement,
                dechunked=self._client.http10,
                close=not self.keep_alive,
            )
            + body
        )
