# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance's response, held until it is known whether it is good enough for the client."""

import asyncio

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.report.describe import excerpt
from syshaxd.core.wire.http1 import Dechunker, ProtocolError, ResponseHead
from syshaxd.core.wire.openai import error_text, is_refusal
from syshaxd.serving.runner.exchange import Exchange

# Statuses after which another instance may do better.
INSTANCE_FAULTS = frozenset((500, 502, 503, 504))
# Enough of the body of a fault: it is quoted, not passed on.
MAX_FAULT_BYTES = 64 * 1024


class Response(Exchange):
    """Takes one response of an instance. Its subclasses handle the body."""

    __slots__ = ("_held", "_held_bytes", "_last_try", "client_stalled", "cut_off", "head_", "is_stream")

    def __init__(self, done: "asyncio.Future[None]", *, last_try: bool = False, paused: bool = False) -> None:
        """Sets up for one response.

        Args:
            done: Resolved when the response is over.
            last_try: There is no other instance to ask: its own error is the answer.
            paused: The client takes no more yet.
        """
        super().__init__(done, paused=paused)
        self._last_try = last_try
        self.head_: ResponseHead | None = None
        """The response's head, once it has arrived."""
        self.is_stream = False
        """Whether it is an event stream."""
        self.cut_off = False
        """Whether the daemon has ended it."""
        self.client_stalled = False
        """Whether it timed out because the client took nothing."""
        self._held: list[bytes] = []
        self._held_bytes = 0

    def cut(self) -> None:
        """Ends the response here; another instance makes the rest."""
        self.cut_off = True
        self.cancel()
        self._settle(None)

    def fail(self, error: InstanceFailedError | InstanceTimeoutError) -> None:
        """Ends the response here, because it is useless."""
        self.cancel()
        self._settle(error)

    def head(self, head: ResponseHead) -> None:
        """Sink: the response's head."""
        self.progress += 1
        self.head_ = head
        self.is_stream = head.content_type.startswith(b"text/event-stream")

    def failed(self, error: InstanceFailedError) -> None:
        """Sink: the instance broke off."""
        self._connection = None
        self._settle(error)

    def timed_out(self, why: str, after_s: float) -> None:
        """Exchange: fails."""
        self.client_stalled = self._paused
        self.fail(InstanceTimeoutError(f"{'the client took nothing' if self._paused else why} for {after_s:g} s"))

    @property
    def is_fault(self) -> bool:
        """Whether another instance should be asked.

        The last instance's own error goes out as it is, if it is one that OpenAI's clients can read.
        """
        head = self.head_
        assert head is not None
        return head.status in INSTANCE_FAULTS and not (
            self._last_try and head.content_type.startswith(b"application/json")
        )

    def fault(self) -> InstanceFailedError:
        """What is wrong with it."""
        if self.head_ is None:
            return InstanceFailedError("the instance did not answer")
        return InstanceFailedError(f"the instance answered {self.head_.status}: {excerpt(self.payload()) or 'nothing'}")

    def payload(self) -> bytes:
        """The held part of the body, without its framing."""
        data = b"".join(self._held)
        if self.head_ is None or not self.head_.chunked:
            return data
        try:
            return Dechunker().feed(data)
        except ProtocolError:
            return data

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_FAULT_BYTES and self.is_fault:
            self.fail(self.fault())


def failure_in(payload: bytes) -> InstanceFailedError | None:
    """What the first event of a stream says of a failure, if it does.

    Vllm answers 200 before the engine has looked at the request. An error of the client's is none: it would be the same
    elsewhere.
    """
    for line in payload.partition(b"\n\n")[0].splitlines():
        if line.startswith(b"data:") and b'"error"' in line:
            try:
                problem = jsontext.loads(line[5:])["error"]
            except (ValueError, KeyError, TypeError):
                return None
            if problem and not is_refusal(problem):
                return InstanceFailedError(f"the instance broke off: {error_text(problem)}")
    return None
