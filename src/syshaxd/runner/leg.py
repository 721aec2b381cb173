# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One instance's part of an answer that several make: its events are parsed, unlike those of a plain relay."""

import asyncio
from collections.abc import Callable

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.http1 import ResponseHead, chunk_payloads
from syshaxd.runner.exchange import Exchange

# An answer that is not an event stream is the daemon's to read: a first token, or an error.
_MAX_BODY_BYTES = 16 * 1024 * 1024
_DATA = b"data: "
_DONE = b"[DONE]"


class Leg(Exchange):
    """Takes one response: event by event if it is a good event stream, else as a whole."""

    __slots__ = (
        "_on_event",
        "_pieces",
        "_rest",
        "_streaming",
        "body_bytes",
        "cut_off",
        "head_",
    )

    def __init__(self, on_event: Callable[[bytes], None], done: "asyncio.Future[None]", *, paused: bool) -> None:
        """Sets up for one response.

        Args:
            on_event: Called with the JSON text of each event; what it raises fails the leg.
            done: Resolved when the response is over.
            paused: The client takes no more yet.
        """
        super().__init__(done, paused=paused)
        self._on_event = on_event
        self.head_: ResponseHead | None = None
        """The response's head, once it has come."""
        self.body_bytes = b""
        """The body, if it was not an event stream."""
        self.cut_off = False
        """It was ended from here."""
        self._streaming = False
        self._pieces: list[bytes] = []
        self._rest = b""

    @property
    def streamed(self) -> bool:
        """Whether the response was a good event stream."""
        return self._streaming

    def cut(self) -> None:
        """Ends the response here; another instance makes the rest."""
        self.cut_off = True
        self.cancel()
        self._settle(None)

    def head(self, head: ResponseHead) -> None:
        """Sink: the response's head."""
        self.progress += 1
        self.head_ = head
        self._streaming = head.status == 200 and head.content_type.startswith(b"text/event-stream")

    def body(self, data: bytes, *, whole: bool) -> None:
        """Sink: a piece of the body."""
        self.progress += 1
        self._pieces.append(data)
        if not self._streaming:
            if sum(map(len, self._pieces)) > _MAX_BODY_BYTES:
                self._fail(InstanceFailedError(f"the instance's answer is over {_MAX_BODY_BYTES} bytes"))
            return
        if not whole:
            return
        assert self.head_ is not None
        data = self._take_pieces()
        *events, self._rest = (self._rest + data).split(b"\n\n")
        try:
            for event in events:
                text = event.removeprefix(_DATA)
                if text not in (_DONE, event):
                    self._on_event(text)
                if self.done.done():
                    return
        except InstanceFailedError as error:
            self._fail(error)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            self._fail(InstanceFailedError(f"the instance sent an event that cannot be read: {error!r}"))

    def end(self) -> None:
        """Sink: the response is complete."""
        self._connection = None
        if not self._streaming:
            self.body_bytes = self._take_pieces()
        self._settle(None)

    def failed(self, error: InstanceFailedError) -> None:
        """Sink: the instance broke off."""
        self._connection = None
        self._settle(error)

    def timed_out(self, after_s: float) -> None:
        """Exchange: fails."""
        who = "the client took nothing" if self._paused else "the instance was silent"
        self._fail(InstanceTimeoutError(f"{who} for {after_s:g} s"))

    def _take_pieces(self) -> bytes:
        assert self.head_ is not None
        data = b"".join(self._pieces)
        self._pieces.clear()
        return chunk_payloads(data) if self.head_.chunked else data

    def _fail(self, error: InstanceFailedError | InstanceTimeoutError) -> None:
        self.cancel()
        self._settle(error)


def fault_text(leg: Leg) -> str:
    """What is wrong with an answer, for a person."""
    if leg.head_ is None:
        return "the instance did not answer"
    return f"the instance answered {leg.head_.status}: {leg.body_bytes[:200].decode(errors='replace') or 'nothing'}"
