# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A segment of an answer that the daemon reads itself: a first token, or the events of a later instance."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.chunks import DATA, MAX_EVENT_BYTES, UNREADABLE, unreadable_event
from syshaxd.core.wire.http1 import Dechunker, ResponseHead
from syshaxd.serving.runner.response import Response

_DONE = b"[DONE]"


class Segment(Response):
    """Takes one response: event by event if it is a good event stream, else as a whole."""

    __slots__ = ("_dechunker", "_on_event", "_rest", "streamed")

    def __init__(
        self,
        on_event: Callable[[Mapping[str, Any]], None],
        done: "asyncio.Future[None]",
        *,
        last_try: bool = False,
        paused: bool = False,
    ) -> None:
        """As Response; `on_event` is called with each event, and what it raises fails the segment."""
        super().__init__(done, last_try=last_try, paused=paused)
        self._on_event = on_event
        self.streamed = False
        """Whether the response was a good event stream."""
        self._rest = b""
        self._dechunker: Dechunker | None = None

    def head(self, head: ResponseHead) -> None:
        """Sink: the response's head."""
        super().head(head)
        self.streamed = head.status == 200 and self.is_stream
        self._dechunker = Dechunker() if head.chunked else None

    def body(self, data: bytes, *, whole: bool) -> None:
        """Sink: a piece of the body."""
        self.progress += 1
        if not self.streamed:
            self._hold(data)
            if self._held_bytes > MAX_EVENT_BYTES:
                self.fail(InstanceFailedError(f"the instance's answer is over {MAX_EVENT_BYTES} bytes"))
            return
        *events, self._rest = (self._rest + (data if self._dechunker is None else self._dechunker.feed(data))).split(
            b"\n\n"
        )
        if len(self._rest) > MAX_EVENT_BYTES:
            self.fail(InstanceFailedError(f"the instance sent an event of over {MAX_EVENT_BYTES} bytes"))
            return
        try:
            for event in events:
                text = event.removeprefix(DATA)
                if text not in (_DONE, event):
                    self._on_event(jsontext.loads(text))
                if self.done.done():
                    return
        except InstanceFailedError as error:
            self.fail(error)
        except UNREADABLE as error:
            self.fail(unreadable_event(error))

    def end(self) -> None:
        """Sink: the response is complete."""
        self._connection = None
        self._settle(None)
