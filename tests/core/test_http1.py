# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The rules of HTTP/1.1 that the relay rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.wire.http1 import (
    LAST_CHUNK,
    Dechunker,
    ProtocolError,
    chunk,
    complete_chunks,
    end_to_end_headers,
    parse_response_head,
    request_head,
    response_head,
)

payloads = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


@given(payloads, st.data())
def test_chunks_are_found_however_the_bytes_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(chunk(part) for part in parts) + LAST_CHUNK
    cut = data.draw(st.integers(0, len(coded)))
    end, ended = complete_chunks(coded[:cut])
    assert end <= cut
    assert ended == (cut == len(coded))
    rest_end, rest_ended = complete_chunks(coded[end:]) if not ended else (0, True)
    assert rest_ended
    assert end + rest_end == len(coded)


@given(payloads, st.integers(1, 40))
def test_the_payload_is_the_same_however_the_bytes_are_cut(parts: list[bytes], piece_bytes: int) -> None:
    coded = b"".join(chunk(part) for part in parts) + b"0\r\nX-Sum: 1\r\n\r\n"
    for size in (piece_bytes, len(coded)):
        dechunker = Dechunker()
        assert not dechunker.ended
        pieces = [dechunker.feed(coded[at : at + size]) for at in range(0, len(coded), size)]
        assert b"".join(pieces) == b"".join(parts)
        assert dechunker.ended


@given(payloads, st.binary(max_size=20))
def test_what_follows_the_last_chunk_is_not_part_of_the_body(parts: list[bytes], extra: bytes) -> None:
    coded = b"".join(chunk(part) for part in parts) + LAST_CHUNK
    assert complete_chunks(coded + extra) == (len(coded), True)


@pytest.mark.parametrize(
    "coded",
    [
        b"zz\r\nab\r\n",
        b"0x2\r\nab\r\n",
        b"+2\r\nab\r\n",
        b"1_0\r\nab\r\n",
        b" 2\r\nab\r\n",
        b"\r\nab\r\n",
        b"2\r\nabc\r\n",
        b"-1\r\n",
        b"1%b\r\n" % (b"0" * 200),
    ],
)
def test_bad_chunk_coding_is_refused(coded: bytes) -> None:
    with pytest.raises(ProtocolError):
        complete_chunks(coded)


def test_a_size_line_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError):
        complete_chunks(b"1" * 1000)
    with pytest.raises(ProtocolError):
        Dechunker().feed(b"1" * 1000)


def test_chunk_extensions_and_trailers_are_passed_over() -> None:
    coded = b"2;name=value\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n"
    assert complete_chunks(coded) == (len(coded), True)
    assert Dechunker().feed(coded) == b"ab"


def test_a_head_tells_status_framing_and_connection() -> None:
    head = parse_response_head(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12")
    assert (head.status, head.content_length, head.chunked, head.keep_alive) == (200, 12, False, True)
    assert head.content_type == b"application/json"
    head = parse_response_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close")
    assert (head.content_length, head.chunked, head.keep_alive) == (None, True, False)
    assert not parse_response_head(b"HTTP/1.0 200 OK").keep_alive
    assert parse_response_head(b"HTTP/1.0 200 OK\r\nConnection: keep-alive").keep_alive


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"garbage",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 abc OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n name: value",
        b"HTTP/1.1 200 OK\r\nname : value",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"1" * 5000,
        b"HTTP/1.1 200 OK\nSet-Cookie: a=b",
        b"HTTP/1.1 200 OK\rSet-Cookie: a=b",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 OK\r\nName: a\nSet-Cookie: a=b",
        b"HTTP/1.1 200 OK\r\nName: a\rb",
        b"HTTP/1.1 200 OK\r\nName: a\0b",
        b"HTTP/1.1 007 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
    ],
)
def test_ambiguous_heads_are_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_response_head(head)


def test_the_clients_head_keeps_end_to_end_headers_only() -> None:
    head = parse_response_head(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-Request-Id: theirs"
    )
    text = response_head(head, request_id="r1", placement="gpu", dechunked=False, close=False)
    assert text == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: r1\r\nx-syshax-placement: gpu\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    closing = response_head(
        parse_response_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3"),
        request_id="r1",
        placement="gpu",
        dechunked=False,
        close=True,
    )
    assert closing.endswith(b"content-length: 3\r\nconnection: close\r\n\r\n")


def test_fields_that_are_named_for_this_hop_alone_are_not_passed_on() -> None:
    head = parse_response_head(
        b"HTTP/1.1 200 OK\r\nX-Hop: 1\r\nRetry-After: 3\r\nConnection: close, X-Hop\r\nConnection: x-b\r\nX-B: 2"
    )
    assert (head.lines, head.keep_alive) == ([b"Retry-After: 3"], False)


def test_the_instances_head_has_our_id_and_no_hop_by_hop_header() -> None:
    headers = [
        (b"Host", b"a"),
        (b"Connection", b"keep-alive"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Authorization", b"Bearer k"),
        (b"X-Request-ID", b"theirs"),
        (b"Accept-Encoding", b"gzip"),
        (b"X-Syshax-Place", b"cpu"),
    ]
    lines = end_to_end_headers(headers)
    assert lines == b"Authorization: Bearer k\r\n"
    assert request_head("POST", "/v1/x?y=1", "h:1", lines, request_id="r1", length=2) == (
        b"POST /v1/x?y=1 HTTP/1.1\r\nhost: h:1\r\nx-request-id: r1\r\ncontent-length: 2\r\n"
        b"Authorization: Bearer k\r\n\r\n"
    )
    assert b"content-length" not in request_head("GET", "/v1/x", "h:1", b"", request_id="r1", length=0)
