# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The first instance's stream, which passes to the client as it is, but for token ids that nobody wants."""

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.chunks import MAX_EVENT_BYTES, UNREADABLE, unreadable_event
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.plain_events import PlainEvents


class PassedStream:
    """Finds the events in a stream's bytes. Plain ones pass without parsing, the others by the joined answer."""

    __slots__ = ("_joined", "_plain_events", "_rest", "failure")

    def __init__(self, joined: JoinedAnswer) -> None:
        """`joined` gets the stream's tokens."""
        self._joined = joined
        self._plain_events = PlainEvents()
        self._rest = b""  # the beginning of an event
        self.failure: InstanceFailedError | None = None
        """Why no more of the stream can be used, although the instance continues."""

    def chunk(self, data: bytes) -> bytes:
        """As `read`, but takes an HTTP chunk and returns one: quickly, if its event is plain.

        Returns:
            Nothing if this is not such a chunk: then `data` was not taken.
        """
        joined = self._joined
        if not joined.takes_unparsed or self._rest:
            return b""
        plain = self._plain_events.read_chunk(data)
        if plain is None:
            return b""
        joined.token_ids.append(int(plain[1]))
        joined.tokens += 1
        joined.last_size = 1
        return plain[0]

    def read(self, data: bytes) -> bytes:
        """Takes bytes of the stream; returns what to send.

        If `failure` is set afterwards, the rest of the stream is of no use.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        joined = self._joined
        out: list[bytes] = []
        begin = 0
        try:
            while begin < len(data):
                if joined.takes_unparsed and (plain := self._plain_events.read(data, begin)):
                    event, digits, begin = plain
                    out.append(event)
                    joined.token_ids.append(int(digits))
                    joined.tokens += 1
                    joined.last_size = 1
                    continue
                end = data.find(b"\n\n", begin) + 2
                if end < 2:
                    break
                out += joined.pass_event(data[begin:end])
                begin = end
        except InstanceFailedError as error:
            self.failure = error
        except UNREADABLE as error:
            self.failure = unreadable_event(error)
        else:
            self._rest = data[begin:]
            if len(self._rest) > MAX_EVENT_BYTES:
                self.failure = InstanceFailedError(f"the instance sent an event of over {MAX_EVENT_BYTES} bytes")
        return b"".join(out)
