# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What clients can do to the endpoint, byte by byte: limits, odd requests, odd targets, pages in browsers."""

import asyncio
import contextlib
import errno
import gzip
import io
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from syshaxd.core.placement.records import Outcome
from syshaxd.core.types import InstanceSpec, State
from syshaxd.gateway import Limits
from syshaxd.gateway.connection import Phase
from syshaxd.gateway.front import _limited_address
from syshaxd.instances.catalog import Catalog, assumed
from syshaxd.serving.runner.upstream import UpstreamPool
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import ANSWER, CHAT, LIMITS, MakeStand, Stand, answer_after
from tests.fakes.instance import SSE_HEAD, Request, sse

BODY = json.dumps(CHAT).encode()
CHAT_LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"


def post(*lines: bytes, start: bytes = CHAT_LINE, body: bytes = BODY, length: int | None = None) -> bytes:
    head = (b"Host: h", b"Content-Type: application/json", b"Content-Length: %d" % (length or len(body)), *lines)
    return start + b"\r\n".join(head) + b"\r\n\r\n" + body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(30):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(status_line.split()[1]), headers, body


async def ask(stand: Stand, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await stand.raw()
    writer.write(data)
    try:
        return await answer_of(reader)
    finally:
        writer.close()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends, whatever comes before."""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    return True


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


# Limits of time. Each row: what the client sends first; then pairs of seconds that pass and what it sends after them;
# whether the connection is closed by then; the status that it gets.
HALF_HEAD, HALF_BODY = post()[:40], post()[:-10]
TIMES = [
    ("nothing, soon", b"", [(74, b"")], None),
    ("nothing", b"", [(76, b"")], 0),
    ("half a head, soon", HALF_HEAD, [(19, b"")], None),
    ("half a head", HALF_HEAD, [(21, b"")], 408),
    ("half a head, byte by byte", post()[:20], [(5, b"x")] * 5, 408),
    ("half a body, soon", HALF_BODY, [(19, b"")], None),
    ("half a body", HALF_BODY, [(21, b"")], 408),
    ("a body that dribbles", post(length=50_000), [(8, b"x" * 10)] * 3, 408),
    ("a body that comes slowly, but comes", post(length=90_000), [(15, b"x" * 16_000)] * 5, None),
    ("half a chunked body", CHAT_LINE + b"Host: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", [(21, b"")], 408),
]


@pytest.mark.parametrize(("sent", "then", "status"), [row[1:] for row in TIMES], ids=[row[0] for row in TIMES])
async def test_a_client_has_so_long_for_each_part_of_a_request(
    make_stand: MakeStand, sent: bytes, then: list[tuple[float, bytes]], status: int | None
) -> None:
    clock = FakeClock()
    stand = await make_stand(clock=clock.time)
    (reader, writer) = await stand.raw()
    await until(lambda: stand.gateway.connections == 1)
    (connection,) = stand.gateway._front.open
    writer.write(sent)
    await until(lambda: connection._received_bytes == len(sent))
    await asyncio.sleep(0.01)  # what came is handled by tasks
    for seconds, data in then:
        clock.advance(seconds)
        stand.gateway.sweep()
        if connection.phase is Phase.CLOSING:
            break
        writer.write(data)
        await asyncio.sleep(0.01)
    if status is None:
        assert stand.gateway.connections == 1
    elif status:
        assert (await answer_of(reader))[0] == status
        assert await is_closed(reader)
    else:
        assert await is_closed(reader)
    writer.close()
    assert stand.gateway.held_bytes == 0 or status is None


async def test_a_connection_that_is_answered_is_not_swept(make_stand: MakeStand) -> None:
    clock = FakeClock()
    stand = await make_stand(clock=clock.time)
    go = asyncio.Event()
    stand.gpu.answer = answer_after(go)
    reader, writer = await stand.raw()
    for _ in range(2):
        go.clear()
        writer.write(post())
        await until(lambda: stand.engine.inflight["gpu"])
        for _ in range(100):
            clock.advance(60)
            stand.gateway.sweep()
        go.set()
        assert (await answer_of(reader))[2] == ANSWER
        clock.advance(70)
        stand.gateway.sweep()
    clock.advance(6)
    stand.gateway.sweep()
    assert await is_closed(reader)
    writer.close()


async def test_a_client_that_leaves_its_answer_unread_loses_the_connection(make_stand: MakeStand) -> None:
    clock = FakeClock()
    stand = await make_stand(clock=clock.time)

    async def answer(request: Request) -> None:
        await request.send(SSE_HEAD)
        while not request.gone.is_set():
            await request.send(sse(b"x" * 100_000))
            await asyncio.sleep(0)

    stand.gpu.answer = answer
    _, writer = await stand.raw()
    writer.transport.pause_reading()
    writer.write(post())
    await until(lambda: stand.gateway.connections == 1)
    (connection,) = stand.gateway._front.open
    await until(lambda: connection._paused)
    clock.advance(59)
    stand.gateway.sweep()
    assert stand.gateway.connections == 1
    clock.advance(2)
    stand.gateway.sweep()
    await until(lambda: not stand.gateway.connections and stand.gpu.requests[0].gone.is_set())
    assert stand.metrics.records[0].outcome is Outcome.CLIENT_GONE
    writer.close()


async def test_a_client_that_does_not_take_small_answers_is_dropped(make_stand: MakeStand) -> None:
    clock = FakeClock()
    stand = await make_stand(clock=clock.time)
    _, writer = await stand.raw()
    writer.transport.pause_reading()
    many = b"GET /v1/models/" + b"x" * 8000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"

    async def flood() -> None:
        while True:
            writer.write(many)
            await writer.drain()

    flooding = asyncio.create_task(flood())
    while stand.gateway.connections:
        await asyncio.sleep(0.01)
        clock.advance(21)
        stand.gateway.sweep()
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    writer.close()


async def test_a_client_that_pipelines_and_goes_is_noticed(make_stand: MakeStand) -> None:
    stand = await make_stand()

    async def answer(request: Request) -> None:
        await request.gone.wait()

    stand.gpu.answer = answer
    _, writer = await stand.raw()
    writer.write(post() + post(body=b"x" * 90_000) + post() * 100)
    await until(lambda: stand.gpu.requests and not next(iter(stand.gateway._front.open))._socket_transport.is_reading())
    writer.close()
    while not stand.gpu.requests[0].gone.is_set():
        stand.gateway.sweep()
        await asyncio.sleep(0.01)
    await until(lambda: not stand.engine.inflight["gpu"])


async def test_connections_over_the_limit_are_told_so(make_stand: MakeStand, caplog: pytest.LogCaptureFixture) -> None:
    stand = await make_stand(limits=replace(LIMITS, max_connections=2))
    kept = [await stand.raw() for _ in range(2)]
    await until(lambda: stand.gateway.connections == 2)
    for _ in range(3):
        status, headers, body = await ask(stand, post())
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) >= 1
        assert "too many connections" in json.loads(body)["error"]["message"]
        assert json.loads(body)["error"]["code"] == "daemon_unavailable"
    assert caplog.text.count("clients are refused") == 1
    kept[0][1].close()
    await until(lambda: stand.gateway.connections == 1)
    assert (await ask(stand, post()))[0] == 200
    for _, writer in kept:
        writer.close()


async def test_connections_over_the_limit_that_wait_are_dropped(make_stand: MakeStand) -> None:
    stand = await make_stand(limits=replace(LIMITS, max_connections=1))
    clients = [await stand.raw() for _ in range(60)]
    await until(lambda: stand.gateway.connections == 1 + 48)
    for _, writer in clients:
        writer.close()
    await until(lambda: not stand.gateway.connections)


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        (("127.0.0.1", 1), ""),
        (("::1", 1, 0, 0), ""),
        (("::ffff:127.0.0.1", 1, 0, 0), ""),
        ("", ""),
        (None, ""),
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8::1", 1, 0, 0), "2001:db8::/64"),
        (("2001:db8::2", 1, 0, 0), "2001:db8::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
    ],
)
def test_connections_are_counted_by_address_but_not_this_hosts(peer: object, counted: str) -> None:
    assert _limited_address(peer) == counted


async def test_a_shortage_of_our_own_is_not_an_instances_failure(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = await make_stand()

    async def none_left(*args: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    reader, writer = await stand.raw()
    monkeypatch.setattr(UpstreamPool, "connect", connect_with(none_left))
    writer.write(post())
    status, headers, body = await answer_of(reader)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "descriptors" in json.loads(body)["error"]["message"]
    assert stand.supervisor.suspected == []
    assert stand.engine.inflight == {"gpu": 0, "cpu": 0}
    writer.close()


def connect_with(create_connection: Any) -> Any:
    connect = UpstreamPool.connect

    async def connecting(pool: UpstreamPool, timeout_s: float) -> Any:
        pool._loop = SimpleNamespace(create_connection=create_connection, time=pool._loop.time)  # type: ignore[assignment]
        return await connect(pool, timeout_s)

    return connecting


# Bodies in all.


async def test_bodies_together_are_limited_and_given_back(make_stand: MakeStand) -> None:
    stand = await make_stand(limits=Limits(max_body_bytes=50_000, max_bodies_bytes=80_000))
    go = asyncio.Event()
    stand.gpu.answer = stand.cpu.answer = answer_after(go)
    large = CHAT | {"user": "x" * 45_000}
    first = asyncio.create_task(_status(stand, large))
    await until(lambda: stand.engine.inflight["gpu"])
    async with stand.post(large) as response:
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
    second = asyncio.create_task(_status(stand, CHAT))
    await until(lambda: stand.engine.inflight["gpu"] == 2)
    go.set()
    assert [await first, await second] == [200, 200]
    assert stand.gateway.held_bytes == 0
    assert await _status(stand, large) == 200


async def _status(stand: Stand, body: Any) -> int:
    data = io.BytesIO(json.dumps(body).encode())
    headers = {"Content-Type": "application/json"}
    async with stand.session.post(stand.url + "/v1/chat/completions", data=data, headers=headers) as response:
        return int(response.status)


# Requests that are odd.


async def test_a_client_that_waits_for_a_100_gets_it(make_stand: MakeStand) -> None:
    stand = await make_stand()
    reader, writer = await stand.raw()
    head = post(b"Expect: 100-Continue")
    writer.write(head[: -len(BODY)])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await answer_of(reader))[2] == ANSWER
    assert b"expect" not in stand.gpu.requests[0].head.lower()
    writer.write(post(b"Expect: 100-continue", length=200_000)[: -len(BODY)])
    assert (await answer_of(reader))[0] == 413
    writer.close()


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"http://other:1/v1/chat/completions?a=b", b"/v1/chat/completions?a=b"),
        (b"HTTPS://h/v1/chat/completions", b"/v1/chat/completions"),
        (b"/v1/chat%2Fcompletions", b"/v1/chat%2Fcompletions"),
    ],
)
async def test_targets_are_read_as_an_instance_reads_them(make_stand: MakeStand, target: bytes, sent: bytes) -> None:
    stand = await make_stand()
    assert (await ask(stand, post(start=b"POST %b HTTP/1.1\r\n" % target)))[0] == 200
    assert stand.gpu.requests[0].head.startswith(b"POST %b HTTP/1.1\r\n" % sent)


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"POST http://h HTTP/1.1\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\n", 400),
        (b"POST /v1/%FF%FE%00/x HTTP/1.1\r\n", 404),
        (b"POST /v1/\xe6\x97\xa5 HTTP/1.1\r\n", 400),
        (b"POST /v1/../sleep HTTP/1.1\r\n", 404),
        (b"POST //sleep HTTP/1.1\r\n", 404),
        (b"POST /" + b"a" * 40_000 + b" HTTP/1.1\r\n", 431),
        (CHAT_LINE + b"X: " + b"a" * 40_000 + b"\r\n", 431),
        (CHAT_LINE + b"Host: other\r\n", 400),
        (CHAT_LINE + b"Transfer-Encoding: chunked\r\n", 400),
        (CHAT_LINE + b"Transfer-Encoding: gzip, chunked\r\n", 400),
        (CHAT_LINE + b"Transfer-Encoding: xchunked\r\n", 400),
        (CHAT_LINE + b"Transfer-Encoding : chunked\r\n", 400),
        (CHAT_LINE + b"Content-Length: 1\r\n", 400),
        (CHAT_LINE + b"Content-Length: " + b"9" * 5000 + b"\r\n", 400),
        (CHAT_LINE + b"Content-Length: +5\r\n", 400),
        (CHAT_LINE + b" folded: x\r\n", 400),
        (CHAT_LINE + b"A: b\x00c\r\n", 400),
        (CHAT_LINE + b"A: b\rc: d\r\n", 400),
        (b"POST /v1/chat/completions HTTP/9.9\r\n", 400),
        (b"POST /v1/chat completions HTTP/1.1\r\n", 400),
        (b"NONSENSE /v1/chat/completions HTTP/1.1\r\n", 400),
    ],
)
async def test_ambiguous_requests_are_refused_without_a_trace(
    make_stand: MakeStand, start: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    stand = await make_stand()
    got, headers, body = await ask(stand, post(start=start))
    assert got == status
    assert status == 200 or set(json.loads(body)) == {"error"}
    assert "server" not in headers
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"tcp", b"WebSocket"])
@pytest.mark.parametrize("start", [CHAT_LINE, b"CONNECT h:80 HTTP/1.1\r\n", b"GET /live HTTP/1.1\r\n"])
async def test_no_request_is_seen_inside_another(make_stand: MakeStand, start: bytes, upgrade: bytes) -> None:
    stand = await make_stand()
    inner = post(b"X-Smuggled: 1")
    reader, writer = await stand.raw()
    writer.write(post(b"Connection: Upgrade", b"Upgrade: " + upgrade, start=start, body=inner))
    await answer_of(reader)
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.2):  # whatever else it may answer
            await reader.read()
    writer.close()
    assert not [request for request in stand.gpu.requests if b"\r\nx-smuggled:" in request.head.lower()]


@pytest.mark.parametrize("host", [b"", b"Host: a\r\nHost: b\r\n"])
async def test_a_request_has_one_host(make_stand: MakeStand, host: bytes) -> None:
    stand = await make_stand()
    assert (await ask(stand, b"GET /live HTTP/1.1\r\n" + host + b"\r\n"))[0] == 400


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"Content-Encoding: gzip", b"not gzip"),
        (b"Content-Encoding: gzip", gzip.compress(BODY)[:-12]),
        (b"Content-Encoding: deflate", b"\x00\x01"),
        (b"Content-Encoding: br", b"\x00\x01"),
    ],
)
async def test_a_body_that_is_not_coded_as_told_is_a_400(
    make_stand: MakeStand, coding: bytes, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stand = await make_stand()
    status, _, told = await ask(stand, post(coding, body=body))
    assert status == 400
    assert set(json.loads(told)) == {"error"}
    assert "install" not in told.decode()
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]
    assert stand.gateway.held_bytes == 0


async def test_fields_that_are_for_one_hop_are_not_passed_on(make_stand: MakeStand) -> None:
    stand = await make_stand()
    lines = (b"Connection: X-One, close", b"X-One: 1", b"X-Two: 2", b"Keep-Alive: 5", b"Origin: https://page")
    assert (await ask(stand, post(*lines)))[0] == 200
    head = stand.gpu.requests[0].head.lower()
    assert b"x-two: 2\r\n" in head
    for name in (b"x-one", b"connection", b"keep-alive", b"origin"):
        assert b"\r\n%b:" % name not in head


async def test_a_fault_of_ours_after_the_first_byte_is_a_reset(
    make_stand: MakeStand, caplog: pytest.LogCaptureFixture
) -> None:
    stand = await make_stand()
    dispatch = stand.engine.dispatch

    async def failing(*args: Any) -> bool:
        await dispatch(*args)
        raise LookupError("a bug")

    stand.engine.dispatch = failing  # type: ignore[method-assign]

    async def answer(request: Request) -> None:
        await request.send(SSE_HEAD + sse(b'{"i":1}'))
        await request.gone.wait()

    async with stand.post() as response:
        assert (response.status, await response.read()) == (200, ANSWER)
    reader, writer = await stand.raw()
    writer.write(post())
    assert (await answer_of(reader))[2] == ANSWER
    assert await is_closed(reader)
    assert "a bug" in caplog.text
    writer.close()


async def test_a_fault_of_ours_before_the_first_byte_is_a_500(
    make_stand: MakeStand, caplog: pytest.LogCaptureFixture
) -> None:
    stand = await make_stand()

    async def failing(*args: Any) -> bool:
        raise TimeoutError

    stand.engine.dispatch = failing  # type: ignore[method-assign]
    async with stand.post() as response:
        assert response.status == 500
        assert response.headers["x-request-id"]
    assert "TimeoutError" in caplog.text


# Routes, as vLLM answers.


def listed(*more: tuple[str, str]) -> Callable[[InstanceSpec], Catalog]:
    def catalog(spec: InstanceSpec) -> Catalog:
        plain = {
            ("POST", "/v1/chat/completions"),
            ("POST", "/tokenize"),
            ("GET", "/version"),
            ("POST", "/sleep"),
            *more,
        }
        return Catalog(assumed(spec).models, (), frozenset(plain))

    return catalog


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("POST", "/tokenize", 200, None),
        ("GET", "/version?x=1", 200, None),
        ("POST", "/sleep", 403, None),
        ("POST", "/score", 404, None),
        ("POST", "/version", 405, ("allow", "GET")),
        ("HEAD", "/version", 405, ("allow", "GET")),
        ("GET", "/v1/chat/completions", 405, ("allow", "POST")),
        ("DELETE", "/v1/models", 405, ("allow", "GET")),
        ("HEAD", "/v1/models", 405, ("allow", "GET")),
        ("HEAD", "/v1/models/m", 405, ("allow", "GET")),
        ("POST", "/health", 405, ("allow", "GET")),
        ("HEAD", "/health", 405, ("allow", "GET")),
        ("OPTIONS", "/health", 405, ("allow", "GET")),
        ("POST", "/ping", 200, None),
        ("HEAD", "/ping", 405, ("allow", "GET, POST")),
        ("HEAD", "/metrics", 200, None),
        ("POST", "/metrics", 200, None),
        ("HEAD", "/live", 200, None),
        ("POST", "/ready", 405, ("allow", "GET, HEAD")),
        ("POST", "/v1/chat/completions/?a=b", 307, ("location", "/v1/chat/completions?a=b")),
        ("GET", "/v1/models/", 307, ("location", "/v1/models")),
        ("POST", "/sleep/", 404, None),
        ("POST", "//evil.example/", 404, None),
    ],
)
async def test_routes_are_answered_as_an_instance_would(
    make_stand: MakeStand, method: str, path: str, status: int, header: tuple[str, str] | None
) -> None:
    stand = await make_stand(catalog=listed())
    got, headers, _ = await ask_head(stand, method, path)
    assert got == status
    if header is not None:
        assert headers[header[0]] == header[1]


async def ask_head(stand: Stand, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    body = b"" if method in {"GET", "HEAD"} else BODY
    reader, writer = await stand.raw()
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n".encode() + length + b"\r\n" + body
    )
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    finally:
        writer.close()
    return (
        int(head[0].split()[1]),
        {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])},
        b"",
    )


async def test_errors_of_anthropics_routes_have_anthropics_form(make_stand: MakeStand) -> None:
    stand = await make_stand()
    async with stand.post(CHAT | {"model": "other"}, path="/v1/messages") as response:
        assert response.status == 404
        told = await response.json()
    assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")
    assert "other" in told["error"]["message"]
    stand.supervisor.become("gpu", State.BACKOFF)
    stand.supervisor.become("cpu", State.BACKOFF)
    async with stand.post(path="/v1/messages/count_tokens") as response:
        assert (await response.json())["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/responses", {"model": "m", "input": "x"}, 200),
        ("POST", "/v1/responses", {"model": "m", "input": "x", "previous_response_id": "resp_1"}, 400),
        ("POST", "/v1/responses", {"model": "m", "input": "x", "background": True}, 400),
        ("GET", "/v1/responses/resp_1", None, 404),
        ("POST", "/v1/responses/resp_1/cancel", None, 404),
    ],
)
async def test_stored_responses_are_off_unless_an_instance_is_named(
    make_stand: MakeStand, method: str, path: str, body: Any, status: int
) -> None:
    stand = await make_stand()
    async with stand.session.request(method, stand.url + path, json=body) as response:
        assert response.status == status
        if status != 200:
            assert (await response.json())["error"]["code"] == "stored_responses_off"
    async with stand.session.request(
        method, stand.url + path, json=body, headers={"X-Syshax-Place": "cpu"}
    ) as response:
        assert response.status == 200


# Browsers.


async def test_a_page_of_any_origin_may_use_the_endpoint_as_it_may_use_vllm(make_stand: MakeStand) -> None:
    stand = await make_stand()
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with stand.session.options(stand.url + "/v1/chat/completions", headers=asked) as response:
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert "POST" in response.headers["access-control-allow-methods"]
        assert response.headers["access-control-allow-headers"] == "authorization,content-type"
    page = {"Origin": "https://page.example"}
    for body, status in ((CHAT, 200), (CHAT | {"model": "other"}, 404)):
        async with stand.post(body, headers=page) as response:
            assert response.status == status
            assert response.headers.getall("access-control-allow-origin") == ["*"]
    async with stand.session.get(stand.url + "/dashboard", headers=page) as response:
        assert "access-control-allow-origin" not in response.headers
    odd = b"OPTIONS /v1/models HTTP/1.1\r\nHost: h\r\nOrigin: \xff\r\nAccess-Control-Request-Method: GET\r\n"
    odd += b"Access-Control-Request-Headers: \xe6\x97\xa5\xff\r\n\r\n"
    assert (await ask(stand, odd))[0] == 200
    async with stand.session.get(stand.url + "/v1/models", headers=page) as response:
        assert response.headers["access-control-allow-origin"] == "*"
    async with stand.post() as response:
        assert "access-control-allow-origin" not in response.headers


async def test_only_pages_of_the_origins_that_are_allowed_may_use_the_endpoint(make_stand: MakeStand) -> None:
    stand = await make_stand(cors_origins=["https://page.example"])
    for origin, allowed in (("https://page.example", True), ("https://other.example", False)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with stand.session.options(stand.url + "/v1/models", headers=asked) as response:
            assert response.status == (200 if allowed else 400)
        async with stand.post(headers={"Origin": origin}) as response:
            assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)
            assert response.headers["vary"] == "Origin"


# What a body may be.


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":"4","stream":"true"}',
        b'{"model":"m","max_tokens":4.0,"stream":1}',
        b'\xef\xbb\xbf{"model":"m"}',
        '{"model":"m"}'.encode("utf-16"),
        b'{"model":"m","x":NaN}',
        b'{"model":"m","x":"\\ud800"}',
        b'{"model":"m","x":"\xff"}',
        b'{"model":"m","x":' + b"9" * 5000 + b"}",
        b'{"model":"other","model":"m"}',
        b'{"model":["m"],"messages":7,"stream":{},"max_tokens":[]}',
        b"",
    ],
)
async def test_what_an_instance_may_understand_goes_there_as_it_came(make_stand: MakeStand, body: bytes) -> None:
    stand = await make_stand()
    async with stand.post(body, headers={"Content-Type": "application/json"}) as response:
        assert response.status == 200
    assert stand.gpu.requests[0].body == body


async def test_routers_fields_pass_where_that_is_allowed(make_stand: MakeStand) -> None:
    stand = await make_stand(allow_router_fields=True)
    assert await _status(stand, CHAT | {"kv_transfer_params": {"a": 1}}) == 200
    stand = await make_stand()
    assert await _status(stand, CHAT | {"kv_transfer_params": None, "vllm_xargs": {"a": 1}}) == 200


async def test_a_large_body_is_read_beside_the_loop(make_stand: MakeStand) -> None:
    stand = await make_stand(limits=Limits())
    body = CHAT | {"user": "x" * 2_000_000}
    assert await _status(stand, body) == 200
    assert await _status(stand, body | {"model": "other"}) == 404
    assert await _status(stand, body | {"kv_transfer_params": {"a": 1}}) == 400
    assert await _status(stand, body | {"unknown": 1, "kv_transfer_params": {"a": ["x" * 100_000]}}) == 400


async def test_a_half_closed_handshake_of_many_slow_clients_leaves_nothing(make_stand: MakeStand) -> None:
    clock = FakeClock()
    stand = await make_stand(clock=clock.time)
    slow = [HALF_HEAD, HALF_BODY, b"G", CHAT_LINE + b"Host: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"] * 25
    clients = []
    for data in slow:
        client = socket.socket()
        client.setblocking(False)
        host, port = stand.url.removeprefix("http://").split(":")
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        await asyncio.get_running_loop().sock_sendall(client, data)
        clients.append(client)
    await until(lambda: stand.gateway.connections == len(slow))
    await asyncio.sleep(0.05)
    assert await _status(stand, CHAT) == 200
    for _ in range(30):
        clock.advance(2)
        stand.gateway.sweep()
        await asyncio.sleep(0.001)
    await until(lambda: stand.gateway.connections <= 1)  # that of the session
    assert stand.gateway.held_bytes == 0
    for client in clients:
        client.close()


async def test_two_requests_on_a_connection_after_an_error(make_stand: MakeStand) -> None:
    stand = await make_stand()
    reader, writer = await stand.raw()
    writer.write(post(body=b"{") + post())
    assert (await answer_of(reader))[0] == 400
    assert (await answer_of(reader))[2] == ANSWER
    writer.close()


async def test_a_refused_connection_does_not_count_against_others(make_stand: MakeStand) -> None:
    stand = await make_stand(limits=replace(LIMITS, max_connections=1))
    async with stand.post() as response:
        assert response.status == 200
        async with (
            aiohttp.ClientSession() as other,
            other.post(stand.url + "/v1/chat/completions", json=CHAT) as refused,
        ):
            assert refused.status == 503
    async with stand.post() as response:
        assert response.status == 200
