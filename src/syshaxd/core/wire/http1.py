# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The little of HTTP/1.1 (RFC 9112) that a relay needs: heads, and where the chunks of a body end."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_HEAD_BYTES = 64 * 1024
MAX_SIZE_LINE_BYTES = 256

# RFC 9110, 7.6.1, and what each side must set for itself.
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
    b"content-encoding",  # the front has decoded the body
    b"accept-encoding",  # answers are read for their usage on the way
    b"expect",
    b"origin",  # the gateway answers for the endpoint, so instances need not
    b"x-request-id",
    b"x-syshax-place",
}
_NOT_TO_CLIENT = _HOP_BY_HOP | {b"content-length", b"server", b"x-request-id", b"x-syshax-placement"}


class ProtocolError(ValueError):
    """The peer does not speak HTTP/1.1 as it should."""


# Heads repeat line for line from request to request: a remembered line costs a tenth of a parsed one.
@lru_cache(maxsize=4096)
def _header(line: bytes) -> tuple[bytes, bytes]:
    """Name in lower case, and value. Raises ProtocolError."""
    if _HEADER_LINE.fullmatch(line) is None:
        raise ProtocolError(f"not a header line: {line[:80]!r}")
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
# No CR, LF or NUL gets through: what follows one would be a header of its own for the client.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
# More digits than any body has bytes.
_MAX_LENGTH_DIGITS = 15


# Made for every request: a frozen one would cost 0.4 us more.
@dataclass(slots=True)
class ResponseHead:
    """A response's status line and headers."""

    status: int
    reason: bytes
    lines: list[bytes]
    """The header lines that a client gets."""
    content_type: bytes
    content_length: int | None
    chunked: bool
    keep_alive: bool


def parse_response_head(data: bytes) -> ResponseHead:
    """Parses a head without its closing empty line.

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
        # A field that is named there is meant for this hop alone.
        head.lines = [line for line in head.lines if _header(line)[0] not in options]
    return head


def response_head(
    head: ResponseHead, *, request_id: str, placement: str, dechunked: bool, close: bool, extra: bytes = b""
) -> bytes:
    """The head that the client gets for an instance's.

    Args:
        head: The instance's.
        request_id: The request's id.
        placement: Where it was answered.
        dechunked: A chunked body is sent without its framing.
        close: The connection is closed afterwards.
        extra: Lines that the gateway adds, each with its end.
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


def end_to_end_headers(raw_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The client's header lines that an instance gets.

    Raises:
        ProtocolError: A line that another server could take for several.
    """
    lines: list[tuple[bytes, bytes]] = []
    dropped: set[bytes] = set()
    for name, value in raw_headers:
        lowered = name.lower()
        if _FIELD_VALUE.fullmatch(value) is None:
            raise ProtocolError(f"a control character in the header field {name[:80].decode('latin-1')}")
        if lowered == b"connection":
            dropped.update(option.strip() for option in value.lower().split(b","))
        elif lowered not in _NOT_TO_INSTANCE:
            lines.append((name, value))
    return b"".join(b"%b: %b\r\n" % (name, value) for name, value in lines if name.lower() not in dropped)


def request_head(method: str, target: str, host: str, headers: bytes, *, request_id: str, length: int) -> bytes:
    """A request's whole head for an instance; `headers` are lines from `end_to_end_headers`."""
    start = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nx-request-id: {request_id}\r\n"
    if length or method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        start += f"content-length: {length}\r\n"
    return start.encode("utf-8", "surrogateescape") + headers + b"\r\n"


def chunk_size(line: bytes) -> int:
    """The size that a chunk's first line (without its line end) announces.

    Raises:
        ProtocolError: Not a hexadecimal number.
    """
    digits = line.partition(b";")[0].rstrip() if b";" in line else line
    # int() takes more than the grammar does: signs, underscores, spaces, 0x.
    if len(digits) > _MAX_LENGTH_DIGITS or not digits.isalnum() or b"x" in digits or b"X" in digits:
        raise ProtocolError(f"not a chunk size: {line[:40]!r}")
    try:
        return int(digits, 16)
    except ValueError:
        raise ProtocolError(f"not a chunk size: {line[:40]!r}") from None


# A stream has few different sizes, and a lookup costs a quarter of a parse.
_SIZES: dict[bytes, int] = {}
_MAX_SIZES = 4096


def complete_chunks(data: bytes) -> tuple[int, bool]:
    """Finds the whole chunks at the start of `data`, which starts at a chunk's first byte.

    Returns:
        The offset after the last whole chunk, and whether the body ends there.

    Raises:
        ProtocolError: Not chunked coding.
    """
    position = 0
    size = len(data)
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
            # Trailers, if any, end with an empty line; without them it follows at once.
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
            raise ProtocolError("a chunk is longer than it said")
        position = following
    return position, False


class Dechunker:
    """Takes the framing off a chunked body, however its bytes are cut."""

    __slots__ = ("_left", "_line", "ended")

    def __init__(self) -> None:
        self._line = b""  # the beginning of a size line
        self._left = 0  # of the present chunk, with the line end behind it
        self.ended = False
        """The last chunk has come; its trailers are passed over."""

    @property
    def at_boundary(self) -> bool:
        """The next byte is the first of a chunk."""
        return not self._left and not self._line

    def feed(self, data: bytes) -> bytes:
        """Returns the payload that is in the next bytes of the body.

        Raises:
            ProtocolError: Not chunked coding.
        """
        if not self._left and not self._line:  # almost always: one whole chunk
            line_end = data.find(b"\r\n")
            if _SIZES.get(data[:line_end], 0) == len(data) - line_end - 4 > 0:
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
            size = chunk_size(data[position:line_end])
            position = line_end + 2
            self._left = size + 2 if size else 0
            self.ended = not size
        return b"".join(out)


def chunk(payload: bytes) -> bytes:
    """One chunk that carries `payload`."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
