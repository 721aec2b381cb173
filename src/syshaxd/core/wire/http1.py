# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The part of HTTP/1.1 (RFC 9112) that a relay needs: heads, and the ends of a body's chunks."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_HEAD_BYTES = 64 * 1024
MAX_SIZE_LINE_BYTES = 256

# Hop-by-hop fields (RFC 9110, 7.6.1) and fields that each side sets for itself.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_TO_INSTANCE = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",  # the gateway has decoded the body
    b"accept-encoding",  # answers are parsed for their usage
    b"expect",
    b"origin",  # the gateway answers it for the endpoint
    b"x-request-id",
    b"x-syshax-class",
    b"x-syshax-instance",
    b"x-syshax-place",
    b"x-syshax-weights",
    b"x-syshax-explain",
}
_WITH_CREDENTIALS = _NOT_TO_INSTANCE | {b"authorization", b"cookie", b"x-api-key"}
_NOT_TO_CLIENT = _HOP_BY_HOP | {
    b"content-length",
    b"server",
    b"x-request-id",
    b"x-syshax-placement",
    b"x-syshax-weights",
    b"x-syshax-explain",
    b"x-syshax-carried-for",
}


class ProtocolError(ValueError):
    """The peer violates HTTP/1.1."""


# Heads repeat line for line from request to request: a cached line costs a tenth of a parsed one.
@lru_cache(maxsize=4096)
def _header(line: bytes) -> tuple[bytes, bytes]:
    """Name in lower case, and value. Raises ProtocolError."""
    if _HEADER_LINE.fullmatch(line) is None:
        raise ProtocolError(f"not a header line: {line[:80]!r}")
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
# CR, LF and NUL are rejected: text after one would be a separate header for the client.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
# More digits than any body length has.
_MAX_LENGTH_DIGITS = 15


# Created for every request: frozen=True would cost 0.4 us more.
@dataclass(slots=True)
class ResponseHead:
    """A response's status line and headers."""

    status: int
    reason: bytes
    lines: list[bytes]
    """Header lines for the client."""
    content_type: bytes
    content_length: int | None
    chunked: bool
    keep_alive: bool


def parse_response_head(data: bytes) -> ResponseHead:
    """Parses a head without its final empty line.

    Raises:
        ProtocolError: Not a response head of HTTP/1.0 or 1.1, or its framing is ambiguous.
    """
    status_line, *lines = data.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(status_line)
    if found is None:
        raise ProtocolError(f"not an HTTP/1.1 status line: {status_line[:80]!r}")
    minor, code, reason = found.groups(b"")
    head = ResponseHead(int(code), reason, [], b"", None, chunked=False, keep_alive=minor == b"1")
    options: set[bytes] = set()
    for line in lines:
        name, value = _header(line)
        if name not in _NOT_TO_CLIENT:
            head.lines.append(line)
            if name == b"content-type":
                head.content_type = value
        elif name == b"content-length":
            if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS or head.content_length not in {None, int(value)}:
                raise ProtocolError(f"bad Content-Length: {value[:40]!r}")
            head.content_length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise ProtocolError(f"Transfer-Encoding {value[:40]!r} is not supported")
            head.chunked = True
        elif name == b"connection":
            options.update(option.strip() for option in value.lower().split(b","))
    if head.chunked and head.content_length is not None:
        raise ProtocolError("both Content-Length and Transfer-Encoding")
    if options:
        head.keep_alive = b"close" not in options and (head.keep_alive or b"keep-alive" in options)
        # Fields named there are hop-by-hop.
        head.lines = [line for line in head.lines if _header(line)[0] not in options]
    return head


def response_head(
    head: ResponseHead, *, request_id: str, placement: str, dechunked: bool, close: bool, extra: bytes = b""
) -> bytes:
    """Builds the client's response head from an instance's.

    Args:
        head: The instance's.
        request_id: The request's id.
        placement: The instances that answered.
        dechunked: The chunked body is sent without framing.
        close: The connection is closed afterwards.
        extra: Lines that the gateway adds, each with its line end.
    """
    parts = [
        b"HTTP/1.1 %d %b" % (head.status, head.reason),
        *head.lines,
        f"x-request-id: {request_id}\r\nx-syshax-placement: {placement}".encode("latin-1"),
    ]
    if head.chunked and not dechunked:
        parts.append(b"transfer-encoding: chunked")
    elif head.content_length is not None:
        parts.append(b"content-length: %d" % head.content_length)
    if close:
        parts.append(b"connection: close")
    parts.append(extra + b"\r\n")
    return b"\r\n".join(parts)


def end_to_end_headers(raw_headers: Iterable[tuple[bytes, bytes]], *, credentials: bool = True) -> bytes:
    """The client's header lines to forward to an instance; with the client's credentials, or without.

    Raises:
        ProtocolError: A line that another server could parse as several.
    """
    raw_headers = tuple(raw_headers)
    if _FIELD_VALUE.fullmatch(b"".join([value for _, value in raw_headers])) is None:
        name = next(name for name, value in raw_headers if _FIELD_VALUE.fullmatch(value) is None)
        raise ProtocolError(f"a control character in the header field {name[:80].decode('latin-1')}")
    lines: list[bytes] = []
    dropped: list[bytes] = []
    kept_here = _NOT_TO_INSTANCE if credentials else _WITH_CREDENTIALS
    for name, value in raw_headers:
        lowered = name.lower()
        if lowered == b"connection":
            dropped += [option.strip() for option in value.lower().split(b",")]
        elif lowered not in kept_here:
            lines.append(b"%b: %b\r\n" % (name, value))
    if dropped:
        # Fields named there are hop-by-hop.
        lines = [line for line in lines if line.partition(b":")[0].lower() not in dropped]
    return b"".join(lines)


def request_head(method: str, target: str, host: str, headers: bytes, *, request_id: str, length: int) -> bytes:
    """The request head for an instance; `headers` are lines from `end_to_end_headers`."""
    start = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nx-request-id: {request_id}\r\n"
    if length or method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        start += f"content-length: {length}\r\n"
    return start.encode("utf-8", "surrogateescape") + headers + b"\r\n"


def chunk_size(line: bytes) -> int:
    """Parses the size in a chunk's first line (without its line end).

    Raises:
        ProtocolError: Not a hexadecimal number.
    """
    digits = line.partition(b";")[0].rstrip() if b";" in line else line
    # int() accepts more than the grammar: signs, underscores, spaces, 0x.
    if len(digits) > _MAX_LENGTH_DIGITS or not digits.isalnum() or b"x" in digits or b"X" in digits:
        raise ProtocolError(f"not a chunk size: {line[:40]!r}")
    try:
        return int(digits, 16)
    except ValueError:
        raise ProtocolError(f"not a chunk size: {line[:40]!r}") from None


# A stream has few distinct sizes, and a lookup costs a quarter of a parse.
_SIZES: dict[bytes, int] = {}
_MAX_SIZES = 4096


def is_one_chunk(data: bytes) -> bool:
    """Whether `data` is one complete chunk, and not the last; False where that is not plain to see."""
    line_end = data.find(b"\r\n")
    return line_end > 0 and _SIZES.get(data[:line_end]) == len(data) - line_end - 4 > 0 and data.endswith(b"\r\n")


def complete_chunks(data: bytes) -> tuple[int, bool]:
    """Finds the complete chunks at the start of `data`, which starts at a chunk's first byte.

    Returns:
        The offset after the last complete chunk, and whether the body ends there.

    Raises:
        ProtocolError: Not a chunked body.
    """
    size = len(data)
    position = 0
    while position < size:
        line_end = data.find(b"\r\n", position, position + MAX_SIZE_LINE_BYTES)
        if line_end < 0:
            if size - position >= MAX_SIZE_LINE_BYTES:
                raise ProtocolError("a chunk's first line has no end")
            break
        line = data[position:line_end]
        length = _SIZES.get(line, -1)
        if length < 0:
            length = chunk_size(line)
            if len(_SIZES) < _MAX_SIZES:
                _SIZES[line] = length
        if length == 0:
            # Trailers, if any, end with an empty line.
            end = data.find(b"\r\n\r\n", line_end)
            if end < 0:
                if size - line_end > MAX_HEAD_BYTES:
                    raise ProtocolError("trailers have no end")
                break
            return end + 4, True
        following = line_end + length + 4
        if following > size:
            break
        if data[following - 2 : following] != b"\r\n":
            raise ProtocolError("a chunk is longer than its size line says")
        position = following
    return position, False


class Dechunker:
    """Removes the framing of a chunked body that arrives in arbitrary pieces."""

    __slots__ = ("_left", "_line", "ended")

    def __init__(self) -> None:
        self._line = b""  # the beginning of a size line
        self._left = 0  # of the current chunk, including its line end
        self.ended = False
        """The last chunk has arrived; trailers are ignored."""

    def feed(self, data: bytes) -> bytes:
        """Returns the payload in the next bytes of the body.

        Raises:
            ProtocolError: Not a chunked body.
        """
        if not self._left and not self._line:  # the common case: one complete chunk
            line_end = data.find(b"\r\n")
            if line_end > 0 and _SIZES.get(data[:line_end]) == len(data) - line_end - 4 > 0:
                return data[line_end + 2 : -2]
        data = self._line + data
        self._line = b""
        out = []
        position = 0
        while position < len(data) and not self.ended:
            if self._left:
                part = data[position : position + self._left]
                out.append(part[: max(0, self._left - 2)])
                self._left -= len(part)
                position += len(part)
                continue
            line_end = data.find(b"\r\n", position, position + MAX_SIZE_LINE_BYTES)
            if line_end < 0:
                if len(data) - position >= MAX_SIZE_LINE_BYTES:
                    raise ProtocolError("a chunk's first line has no end")
                self._line = data[position:]
                break
            line = data[position:line_end]
            size = _SIZES.get(line, -1)
            if size < 0:
                size = chunk_size(line)
            position = line_end + 2
            if 0 < size <= len(data) - position - 2:
                out.append(data[position : position + size])
                position += size + 2
                continue
            self._left = size + 2 if size else 0
            self.ended = not size
        return b"".join(out)


def chunk(payload: bytes) -> bytes:
    """One chunk that carries `payload`."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
