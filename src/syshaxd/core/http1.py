# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The little of HTTP/1.1 (RFC 9112) that a relay needs: heads, and where a chunked body ends.

Bodies are never rewritten: bytes and chunk framing go from the instance to the client as they came.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
MAX_SIZE_LINE_BYTES = 256
MAX_HOT_HEAD_BYTES = 8 * 1024

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
    b"x-request-id",
    b"x-syshax-place",
}
_NOT_TO_CLIENT = _HOP_BY_HOP | {b"content-length", b"x-request-id", b"x-syshax-placement"}


class ProtocolError(ValueError):
    """The peer does not speak HTTP/1.1 as it should."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response's status line and headers; names in lower case."""

    status: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    content_length: int | None
    chunked: bool
    keep_alive: bool

    def header(self, name: bytes) -> bytes:
        """The first value of a header, given in lower case; empty if absent."""
        return next((value for key, value in self.headers if key == name), b"")


def parse_response_head(data: bytes) -> ResponseHead:
    """Parses a head without its closing empty line.

    Raises:
        ProtocolError: Not a response head of HTTP/1.0 or 1.1, or its framing is ambiguous.
    """
    status_line, _, rest = data.partition(b"\r\n")
    version, _, tail = status_line.partition(b" ")
    code, _, reason = tail.partition(b" ")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"} or len(code) != 3 or not code.isdigit():
        raise ProtocolError(f"not an HTTP/1.1 status line: {status_line[:80]!r}")
    headers = []
    length: int | None = None
    chunked = False
    keep_alive = version == b"HTTP/1.1"
    for line in rest.split(b"\r\n") if rest else ():
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ProtocolError(f"not a header line: {line[:80]!r}")
        name, value = name.lower(), value.strip()
        if name == b"content-length":
            if not value.isdigit() or (length is not None and length != int(value)):
                raise ProtocolError(f"bad Content-Length: {value[:40]!r}")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise ProtocolError(f"Transfer-Encoding {value[:40]!r} is not supported")
            chunked = True
        elif name == b"connection":
            options = {option.strip() for option in value.lower().split(b",")}
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        headers.append((name, value))
    if chunked and length is not None:
        raise ProtocolError("both Content-Length and Transfer-Encoding")
    return ResponseHead(int(code), reason, tuple(headers), length, chunked, keep_alive)


def response_head(
    head: ResponseHead, *, request_id: bytes, placement: bytes, chunked: bool, length: int | None, close: bool
) -> bytes:
    """The head that the client gets for an instance's `head`, with the framing that its body is sent in."""
    parts = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    parts += [b"%b: %b\r\n" % pair for pair in head.headers if pair[0] not in _NOT_TO_CLIENT]
    parts.append(b"x-request-id: %b\r\nx-syshax-placement: %b\r\n" % (request_id, placement))
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length is not None:
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(parts)


def end_to_end_headers(raw_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The client's header lines that an instance gets."""
    return b"".join(b"%b: %b\r\n" % pair for pair in raw_headers if pair[0].lower() not in _NOT_TO_INSTANCE)


def request_head(method: str, target: str, host: str, headers: bytes, *, request_id: str, length: int) -> bytes:
    """A request's whole head for an instance; `headers` are lines from `end_to_end_headers`."""
    start = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nx-request-id: {request_id}\r\n"
    if length or method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        start += f"content-length: {length}\r\n"
    return start.encode("latin-1") + headers + b"\r\n"


@dataclass(frozen=True, slots=True)
class HotRequest:
    """The head of a plain request on a hot route."""

    path: str
    headers: bytes
    """The lines that an instance gets."""
    request_id: str | None
    """As the client gave it, unchecked."""
    place: str | None
    body_start: int
    length: int


_HOT_LINES = {
    b"POST /v1/chat/completions HTTP/1.1": "/v1/chat/completions",
    b"POST /v1/completions HTTP/1.1": "/v1/completions",
}
_HEADER_LINES = re.compile(rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*)+")
# Headers that ask for more than a plain request: those go to the full HTTP server.
_NOT_PLAIN = frozenset(
    # The last two come here only when given twice, or when not a number.
    (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"te", b"trailer", b"content-length", b"host")
)


def parse_hot_request(data: bytes) -> HotRequest | None:
    """Reads the head of a request if it is a plain one on a hot route; None: let the full HTTP server see to it."""
    line_end = data.find(b"\r\n")
    path = _HOT_LINES.get(data[:line_end])
    head_end = data.find(b"\r\n\r\n", line_end)
    if path is None or head_end < 0 or head_end > MAX_HOT_HEAD_BYTES:
        return None
    if _HEADER_LINES.fullmatch(data, line_end, head_end) is None:
        return None
    headers: list[bytes] = []
    length = request_id = place = host = None
    for line in data[line_end + 2 : head_end].split(b"\r\n"):
        raw_name, _, value = line.partition(b":")
        name = raw_name.lower()
        if name not in _NOT_TO_INSTANCE:
            headers.append(line)
        elif name == b"content-length" and length is None and value.strip().isdigit():
            length = int(value)
        elif name == b"host" and host is None:
            host = value
        elif name == b"x-request-id":
            request_id = value.strip().decode("latin-1")
        elif name == b"x-syshax-place":
            place = value.strip().decode("latin-1")
        elif name in _NOT_PLAIN or (name == b"connection" and value.strip().lower() != b"keep-alive"):
            return None
    if length is None or host is None:
        return None
    headers.append(b"")
    return HotRequest(path, b"\r\n".join(headers), request_id, place, head_end + 4, length)


def chunk_size(line: bytes) -> int:
    """The size that a chunk's first line (without its line end) announces.

    Raises:
        ProtocolError: Not a hexadecimal number.
    """
    digits = line.partition(b";")[0].rstrip() if b";" in line else line
    # int() takes more than the grammar does: signs, underscores, spaces, 0x.
    if not digits.isalnum() or b"x" in digits or b"X" in digits:
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


def chunk_payloads(data: bytes) -> bytes:
    """The bytes inside whole chunks, without their framing. `data` is what `complete_chunks` delimits."""
    out = []
    position = 0
    while position < len(data):
        line_end = data.index(b"\r\n", position)
        length = chunk_size(data[position:line_end])
        if length == 0:
            break
        out.append(data[line_end + 2 : line_end + 2 + length])
        position = line_end + length + 4
    return b"".join(out)


def chunk(payload: bytes) -> bytes:
    """One chunk that carries `payload`."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
