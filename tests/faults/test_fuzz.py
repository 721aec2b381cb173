# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Requests that are no HTTP, or HTTP of two meanings; and any JSON value in every field that the daemon may read."""

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from syshax_sim import Profile, SimInstance
from syshaxd.core.handover.rules import KNOWN_FIELDS
from tests.faults.bed import NAMES, Bed
from tests.faults.client import LIMIT_S, Got, ask, chat, exchange, request
from tests.faults.conftest import MakeBed
from tests.faults.report import Row, sized
from tests.faults.wire import Sent, Wire

pytestmark = pytest.mark.timeout(900)

SEED = int(os.environ.get("FAULTS_SEED", "7"))
_ANSWER_S = 1.0
"""For what is no whole request, no answer may come."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

# A request inside another. If it ever arrives as one of its own, something was smuggled.
_INNER_BODY = json.dumps(chat(0, tokens=2, stream=False)).encode()
_INNER = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Smuggled: @@@\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_INNER_BODY), _INNER_BODY)
)
_BODY = json.dumps(chat(1, tokens=2)).encode()


def _head(*lines: bytes, start: bytes = b"POST /v1/chat/completions HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    return end.join([start, b"Host: x", b"Content-Type: application/json", *lines, b"", b""])


def _chunks(body: bytes, size: bytes | None = None) -> bytes:
    return (size or b"%x" % len(body)) + b"\r\n" + body + b"\r\n0\r\n\r\n"


_CHUNKED = b"Transfer-Encoding: chunked"
_LENGTH = b"Content-Length: %d" % len(_BODY)


def _both(te: bytes) -> bytes:
    """By its length the inner request is part of the body; by its chunks it follows."""
    body = _chunks(_BODY) + _INNER
    return _head(te, b"Content-Length: %d" % len(body)) + body


def _both_short(te: bytes) -> bytes:
    """By its chunks the inner request is part of the body; by its length it follows."""
    return _head(b"Content-Length: 4", te) + _chunks(_INNER, b"%03x" % len(_INNER))


_ODD_TE = (
    *(b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding:\tchunked", _CHUNKED.upper()),
    *(b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity, chunked", b" Transfer-Encoding: chunked"),
    *(b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"Transfer-Encoding: \x0bchunked"),
    *(b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    *(b"Transfer\x00-Encoding: chunked", b"Transfer-Encoding: chunked\x00", b"Transfer-Encoding: gzip, chunked"),
)
_ODD_LENGTHS = (b"+%d", b"-%d", b"0x%x", b"%d, %d", b"%d_0", b" %d\x0b", b"%d;", b"\xb2%d", b"%d 0", b"%d.0")
_ODD_SIZES = (
    b"0x%x",
    b"+%x",
    b"-%x",
    b"%x ",
    b"%x\t;x",
    b"%x;a=\x00",
    b"%x;\n",
    b"fffffffffffffffff%x",
    b"%x_0",
    b" %x",
)


def ambiguous() -> list[bytes]:
    """Requests that a server must refuse, or read once and close: never may the inner one come through."""
    whole = len(_BODY) + len(_INNER)
    made = [make(te) for te in (_CHUNKED, *_ODD_TE) for make in (_both, _both_short)]
    for form in _ODD_LENGTHS:
        value = form % ((whole,) * form.count(b"%"))
        made.append(_head(b"Content-Length: " + value) + _BODY + _INNER)
    made += [
        _head(_LENGTH, b"Content-Length: %d" % whole) + _BODY + _INNER,
        _head(b"Content-Length: %d" % whole, _LENGTH) + _BODY + _INNER,
        _head(b"Content-Length: " + b"9" * 5000) + _BODY + _INNER,
        _head(b"Content-Length: %d" % whole, b"Connection: content-length") + _BODY + _INNER,
        _head(b"Content-Length: %d" % whole, b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings") + _BODY + _INNER,
        _head(b"Content-Length: %d" % whole, b"Expect: 100-continue, x") + _BODY + _INNER,
        _head(b"X-Request-Id: a\rX-Smuggled: @@@", _LENGTH) + _BODY,
        _head(b"X-Request-Id: a\nX-Smuggled: @@@", _LENGTH) + _BODY,
        _head(b"X-Syshax-Place: gpu\nX-Smuggled: @@@", _LENGTH) + _BODY,
        _head(b"X-Folded: a\r\n X-Smuggled: @@@\r\n\tb", b"Content-Length: %d" % whole) + _BODY + _INNER,
        _head(_LENGTH, start=b"POST /v1/chat/completions HTTP/1.1\rX-Smuggled: @@@") + _BODY,
        _head(_LENGTH, start=b"POST /v1/embeddings?%0d%0aX-Smuggled:@@@ HTTP/1.1") + _BODY,
        _head(_LENGTH, start=b"POST /v1/embeddings\x0bX-Smuggled: @@@ HTTP/1.1") + _BODY,
        _head(_LENGTH, start=b"POST http://127.0.0.1:1/v1/chat/completions HTTP/1.1") + _BODY,
        _head(_LENGTH, start=b"POST http://x@y:99999999/v1/embeddings HTTP/1.1") + _BODY,
        _head(b"Content-Length: %d" % len(_INNER), start=b"CONNECT 127.0.0.1:80 HTTP/1.1") + _INNER,
        _head(b"Content-Length: %d" % len(_INNER), start=b"GET /v1/models HTTP/1.1") + _INNER,
        _head(b"Content-Length: %d" % len(_INNER), start=b"OPTIONS * HTTP/1.1") + _INNER,
        _head(_LENGTH, end=b"\n") + _BODY,
        _head(_LENGTH, end=b"\r") + _BODY,
        b"\r\n\r\n" + _head(_LENGTH) + _BODY,
        b"GET /v1/models\r\n\r\n",
        _head(start=b"PRI * HTTP/2.0") + b"SM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        _head(b"X: " + b"a" * 200_000, _LENGTH) + _BODY,
        _head(*[b"X-%d: y" % number for number in range(3000)], _LENGTH) + _BODY,
    ]
    for form in _ODD_SIZES:
        made.append(_head(_CHUNKED) + _chunks(_BODY + _INNER, form % (len(_BODY) + len(_INNER))))
    made += [
        _head(_CHUNKED) + b"%x\r\n%bXX0\r\n\r\n" % (len(_BODY), _BODY),
        _head(_CHUNKED) + _chunks(_BODY)[:-2] + b"Content-Length: 0\r\nX-Smuggled: @@@\r\n\r\n",
        _head(_CHUNKED) + b"%x\n%b\n0\n\n" % (len(_BODY), _BODY),
        _head(_CHUNKED) + b"5" * 100_000,
    ]
    # Each names itself, in as many bytes.
    return [data.replace(b"@@@", b"%03d" % number) for number, data in enumerate(made)]


def _carriers(odd: list[bytes], smuggled: list[Sent]) -> list[bytes]:
    """What smuggled these."""
    numbers = {int(value) for sent in smuggled for value in sent.values(b"x-smuggled") if value.isdigit()}
    return [odd[number][:400] for number in sorted(numbers)]


def mutated(data: bytes, choose: random.Random) -> bytes:
    """Some bytes of a head are others, missing, or more."""
    changed = bytearray(data)
    end = data.index(b"\r\n\r\n") + 6
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(end)
        piece = choose.choice(
            (b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b"\r\n", b"\r\n ", b"\xff", b"\x80", b"0", b"9")
        )
        changed[at : at + choose.randint(0, 2)] = piece if choose.random() < 0.8 else bytes([choose.randrange(256)])
    return bytes(changed)


@pytest.fixture
async def wires() -> AsyncIterator[dict[str, Wire]]:
    """Two instances, and what they are sent."""
    async with AsyncExitStack() as stack:
        made = {}
        for name in NAMES:
            profile = Profile(prefill_tokens_per_s=1e9, step_base_s=0.001, step_per_request_s=0)
            sim = await stack.enter_async_context(SimInstance(profile))
            made[name] = await stack.enter_async_context(Wire(sim.port))
        yield made


async def test_fuzzed_requests(wires: dict[str, Wire], make_bed: MakeBed, row: Row) -> None:
    total = sized(1500, 28_000)
    odd, valid = ambiguous(), [_head(_LENGTH) + _BODY, _head(_CHUNKED) + _chunks(_BODY)]
    choose = random.Random(SEED)
    row.done = f"{total:,} requests: {len(odd)} of two meanings, also in pieces, and mutated heads (seed {SEED})"
    services = {
        name: {"runtime": "external", "port": wire.port, "protocol": "connector"} for name, wire in wires.items()
    }
    bed = await asyncio.to_thread(make_bed, external=services)
    limit = asyncio.Semaphore(150)
    errors: list[str] = []

    async def send(number: int) -> None:
        async with limit:
            if number % 100 == 99:
                row.counts.add(await ask(bed.port, number, tokens=4))
                return
            once = number % 2 == 0
            data = odd[number // 2 % len(odd)] if once else mutated(choose.choice(valid), choose)
            pieces = [data]
            if number % 3 == 0:
                cuts = sorted(choose.sample(range(1, len(data)), 2)) if len(data) > 3 else []
                pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
            raw = await _answer(bed.port, pieces)
            statuses = [int(status) for status in _STATUS.findall(raw)]
            if once and sum(status >= 200 for status in statuses) > 1:
                errors.append(f"several answers {statuses} to {data[:300]!r}")
            if 500 in statuses:
                errors.append(f"500 to {data[:300]!r}: {raw[-300:]!r}")
            row.counts.add(Got("ok", status=statuses[-1] if statuses else 0))

    await asyncio.gather(*(send(number) for number in range(total)))
    requests = [sent for wire in wires.values() for sent in wire.requests()]
    smuggled = [sent for sent in requests if sent.values(b"x-smuggled") or not sent.values(b"x-request-id")]
    smuggled = [sent for sent in smuggled if sent.start.startswith(b"POST ") and not _is_daemons_own(sent)]
    assert not smuggled, f"{len(smuggled)}: {[sent.headers for sent in smuggled[:3]]}; {_carriers(odd, smuggled)}"
    assert not errors, f"{len(errors)}: {errors[:5]}"
    row.notes.append(f"{len(requests):,} requests reached the instances, 0 of them smuggled")
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()


def _is_daemons_own(sent: Any) -> bool:
    """It asks instances, too: it compares them, and has them tokenize."""
    return any(b"aiohttp" in value for value in sent.values(b"user-agent")) and not sent.values(b"x-smuggled")


async def _answer(port: int, pieces: list[bytes]) -> bytes:
    """What comes back within a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01 if len(pieces) > 1 else 0)
        async with asyncio.timeout(_ANSWER_S):
            while piece := await reader.read(65536):
                raw += piece
                if raw.endswith((b"0\r\n\r\n", b"}")):
                    await asyncio.sleep(0.05)  # for a second answer, if there is one
                    raw += await reader.read(65536) if reader._buffer else b""  # type: ignore[attr-defined]
                    break
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    return raw


_ODD_VALUES = (
    *("null", "true", "false", "0", "-1", "1", "4.0", "1.5", "1e400", "-1e400", "9223372036854775808", "9" * 400),
    *('""', '"x"', '"4"', '"true"', '"\\ud800"', '"\\u0000"', "[]", '["x"]', "[1]", "[null]", "[[[]]]", "[{}]"),
    *("{}", '{"x": 1}', '{"include_usage": "x"}', '{"type": 1}', '{"syshax": {"save": {"key": 1}}}', "NaN"),
)
_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/chat/pd_disagg", "/v1/embeddings")


async def test_any_value_in_any_field(bed: Bed, row: Row) -> None:
    fields = sorted({*KNOWN_FIELDS, "unheard_of"})
    choose = random.Random(SEED)
    cases = [(path, field, value) for path in _PATHS for field in fields for value in _ODD_VALUES]
    # What the daemon itself reads is tried always.
    read = {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "messages", "prompt", "n"}
    chosen = [case for case in cases if case[1] in read and case[0] != _PATHS[3]]
    rest = [case for case in cases if case not in set(chosen)]
    chosen += choose.sample(rest, min(sized(800, len(rest)), len(rest)))
    row.done = f"{len(chosen):,} requests with one odd value among {len(_ODD_VALUES)} in one of {len(fields)} fields"
    limit, left = asyncio.Semaphore(40), iter(chosen)
    odd: list[str] = []

    async def send(path: str, field: str, value: str) -> None:
        body = chat(1, tokens=3, stream=len(field) % 2 == 0, ignore_eos=False) | {"prompt": "x" * 400}
        if path == _PATHS[1]:
            del body["messages"]
        else:
            del body["prompt"]
        text = json.dumps(body | {field: "VALUE"}).replace('"VALUE"', value)
        try:
            async with limit, asyncio.timeout(LIMIT_S):
                raw, _ = await exchange(bed.port, request(text.encode(), path=path))
        except TimeoutError:
            row.counts.add(Got("hung", f"{path} {field}={value}"))
            return
        status = int(raw[9:12] or 0) if raw.startswith(b"HTTP/1.1 ") else 0
        row.counts.add(Got("ok" if 200 <= status < 500 else "lost", f"{path} {field}={value}: {raw[-300:]!r}", status))
        if b"HTTP/1.1" in raw[9:]:
            odd.append(f"an answer in an answer: {field}={value}: {raw!r}")

    async def worker() -> None:
        for case in left:
            await send(*case)

    await asyncio.gather(*(worker() for _ in range(40)))
    assert not odd, odd[0]
    assert set(row.counts.verdicts) == {"ok"}, row.counts.told()
