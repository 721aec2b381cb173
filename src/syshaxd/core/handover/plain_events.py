# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads a stream's plain events without parsing JSON: those with the text of one token and nothing else of note.

Most events of a stream are plain, and each differs from the one before only in its text and its token's id. Most also
come alone, in an HTTP chunk of their own.
"""

import re

PLAIN_EVENT = re.compile(
    rb'(data: \{[^\[]*"choices":\[\{"index":0,(?:"delta":\{"content"|"text"):")(?!")'
    rb'[^"\\]*(?:\\.[^"\\]*)*'
    rb'("\}?,"logprobs":null,"finish_reason":null(?:,"stop_reason":null,"prompt_token_ids":null)?,"token_ids":\[)'
    rb"(\d+)(\]\}\][^\n]*\n\n)"
)
"""What is before the text, between the text and the id, the id, and what is after it, as vLLM writes them."""


class PlainEvents:
    """The plain events of one stream."""

    __slots__ = ("_around", "_in_chunk")

    def __init__(self) -> None:
        self._around: tuple[bytes, bytes, bytes] | None = None  # text and id of the latest one
        self._in_chunk: tuple[bytes, int, bytes, bytes, bytes, int] | None = None

    def read_chunk(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Reads an HTTP chunk whose event is like the latest one but for its text and its token's id.

        Returns:
            A chunk with null for the token's id, and the digits of the id; None: `data` is anything else.
        """
        if self._in_chunk is None:
            return None
        before, before_size, middle, after, nulled, nulled_size = self._in_chunk
        _, _, event = data.partition(b"\r\n")
        begin, _, end = event.rpartition(middle)
        digits = end.removesuffix(after)
        # A quote in the text is escaped, or begins another key or event: these are for `read`.
        if (
            digits.isdigit()
            and begin.startswith(before)
            and len(begin) > before_size
            and begin.find(b'"', before_size) < 0
        ):
            return b"%x\r\n%b%b" % (len(begin) + nulled_size, begin, nulled), digits
        return None

    def read(self, data: bytes, begin: int) -> tuple[bytes, bytes, int] | None:
        """Reads the event that begins at `begin`.

        Returns:
            The event with null for its token's id, the digits of the id, and where the event ends; None: it is not
            complete, or not plain.
        """
        if self._around is not None:
            # Byte searches take a third of what the expression takes.
            before, middle, after = self._around
            text = begin + len(before)
            text_end = data.find(b'"', text)
            number = text_end + len(middle)
            number_end = data.find(b"]", number)
            if (
                text < text_end
                and data.startswith(before, begin)
                and data.startswith(middle, text_end)
                and data.startswith(after, number_end)
                and (digits := data[number:number_end]).isdigit()
            ):
                return data[begin : number - 1] + b"null" + after[1:], digits, number_end + len(after)
        found = PLAIN_EVENT.match(data, begin)
        if found is None or b"\n" in found[1]:
            return None  # with a line's end in it, there are two events
        before, middle, digits, after = found.groups()
        self._around = before, middle, after
        nulled = middle[:-1] + b"null" + after[1:]
        self._in_chunk = before, len(before), middle, after + b"\r\n", nulled + b"\r\n", len(nulled)
        return data[begin : found.start(3) - 1] + b"null" + after[1:], digits, found.end()
