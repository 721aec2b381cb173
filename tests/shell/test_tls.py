# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The endpoint with TLS."""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme

from syshaxd.core.config import TlsConfig, parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.wire.certificates import first_end_s
from syshaxd.gateway.tls import Tls
from tests.fakes.gateway import CHAT, LIMITS, MakeStand, Stand
from tests.fakes.instance import Request, stream_answer

DAY_S = 86_400.0


def write(folder: Path, ca: trustme.CA, *, ends_in_s: float = 100 * DAY_S) -> TlsConfig:
    """A certificate for localhost; in this process only the files' content matters, as with a renewal."""
    cert = ca.issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(seconds=ends_in_s))
    (folder / "key.pem").write_bytes(cert.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
    return TlsConfig(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def at(stand: Stand) -> str:
    return stand.url.replace("127.0.0.1", "localhost")


async def status(stand: Stand, context: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at(stand)}/v1/chat/completions", json=CHAT, ssl=context) as answer,
    ):
        return answer.status


async def serial(stand: Stand, context: ssl.SSLContext) -> object:
    """Of the certificate that a new connection gets."""
    port = int(stand.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    certificate: Mapping[str, object] = writer.get_extra_info("peercert")
    writer.close()
    return certificate["serialNumber"]


async def test_requests_and_streams_are_answered(make_stand: MakeStand, tmp_path: Path) -> None:
    ca = trustme.CA()
    stand = await make_stand(tls=await asyncio.to_thread(Tls, write(tmp_path, ca)))
    assert stand.url.startswith("https://")
    assert await status(stand, trusting(ca)) == 200
    events = [b'{"i":%d,"text":"%b"}' % (i, b"x" * 2000) for i in range(2000)]

    async def answer(request: Request) -> None:
        await request.send(stream_answer(*events))

    stand.gpu.answer = answer
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at(stand)}/v1/chat/completions", json=CHAT | {"stream": True}, ssl=trusting(ca)) as streamed,
    ):
        assert (await streamed.read()).count(b"data: {") == len(events)


async def test_a_refused_body_gets_its_answer(make_stand: MakeStand, tmp_path: Path) -> None:
    ca = trustme.CA()
    stand = await make_stand(tls=await asyncio.to_thread(Tls, write(tmp_path, ca)))
    port = int(stand.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(ca), server_hostname="localhost")
    length = LIMITS.max_body_bytes + 1
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_what_is_not_tls_is_dropped(make_stand: MakeStand, tmp_path: Path) -> None:
    stand = await make_stand(tls=await asyncio.to_thread(Tls, write(tmp_path, trustme.CA())))
    port = int(stand.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()


async def test_versions_before_1_2_are_refused(tmp_path: Path) -> None:
    tls = await asyncio.to_thread(Tls, write(tmp_path, trustme.CA()))
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_renewed_certificate_is_used_for_new_connections(make_stand: MakeStand, tmp_path: Path) -> None:
    ca, renewed = trustme.CA(), trustme.CA()
    tls = await asyncio.to_thread(Tls, write(tmp_path, ca))
    stand = await make_stand(tls=tls)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(ca))) as session:
        async with session.get(f"{at(stand)}/health") as answer:
            assert answer.status == 200
        await asyncio.to_thread(write, tmp_path, renewed)
        assert await serial(stand, trusting(ca))
        await asyncio.to_thread(tls.refresh)
        async with session.get(f"{at(stand)}/health") as answer:  # its connection stays
            assert answer.status == 200
    assert await status(stand, trusting(renewed)) == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await status(stand, trusting(ca))


async def test_unusable_files_leave_what_is_in_use(
    make_stand: MakeStand, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ca = trustme.CA()
    tls = await asyncio.to_thread(Tls, write(tmp_path, ca))
    stand = await make_stand(tls=tls)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    old = key.read_bytes()
    for damage in (lambda: key.write_bytes(ca.issue_cert("x").private_key_pem.bytes()), key.unlink):
        caplog.clear()
        await asyncio.to_thread(damage)
        for _ in range(2):
            await asyncio.to_thread(tls.refresh)
        assert caplog.text.count("cannot be used; the old ones still are") == 1
        assert await status(stand, trusting(ca)) == 200
    await asyncio.to_thread(key.write_bytes, old)
    await asyncio.to_thread(tls.refresh)
    assert "the renewed certificate is in use" in caplog.text
    assert cert.exists()


async def test_a_renewed_key_that_others_may_read_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key.pem"
    config = write(tmp_path, trustme.CA())
    key.chmod(0o600)
    tls = await asyncio.to_thread(Tls, config)
    renewals = {0o640: 0, 0o644: 1, 0o600: 0, 0o666: 1}
    for mode, told in renewals.items():
        caplog.clear()
        write(tmp_path, trustme.CA())
        key.chmod(mode)
        for _ in range(2):
            await asyncio.to_thread(tls.refresh)
        assert caplog.text.count("is accessible to others than its owner") == told, oct(mode)
    caplog.clear()
    key.chmod(0o604)
    await asyncio.to_thread(tls.refresh)
    assert "is accessible to others than its owner (mode 0604)" in caplog.text


async def test_clients_need_a_certificate_of_the_ca(make_stand: MakeStand, tmp_path: Path) -> None:
    ca, clients, strangers = trustme.CA(), trustme.CA(), trustme.CA()
    (tmp_path / "ca.pem").write_bytes(clients.cert_pem.bytes())
    config = write(tmp_path, ca).model_copy(update={"client_ca": str(tmp_path / "ca.pem")})
    tls = await asyncio.to_thread(Tls, config)
    stand = await make_stand(tls=tls)

    def presenting(issuer: trustme.CA) -> ssl.SSLContext:
        context = trusting(ca)
        issuer.issue_cert("alice@example.com").configure_cert(context)
        return context

    assert tls.wants_certificates
    assert await status(stand, presenting(clients)) == 200
    for context in (trusting(ca), presenting(strangers)):
        with pytest.raises(aiohttp.ClientError):
            await status(stand, context)
    (tmp_path / "ca.pem").write_bytes(strangers.cert_pem.bytes())
    await asyncio.to_thread(tls.refresh)
    assert await status(stand, presenting(strangers)) == 200
    with pytest.raises(aiohttp.ClientError):
        await status(stand, presenting(clients))


def test_the_end_of_a_certificate_is_known_and_told_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = time.time()
    tls = Tls(write(tmp_path, trustme.CA(), ends_in_s=20 * DAY_S), clock=lambda: now_s)
    assert tls.ends_at_s["cert"] == pytest.approx(now_s + 20 * DAY_S, abs=60.0)
    assert "key" not in tls.ends_at_s
    tls.refresh()
    assert not caplog.text
    now_s += 7 * DAY_S
    tls.refresh()
    tls.refresh()
    assert caplog.text.count("cert.pem ends in 13 days; renew it") == 1
    now_s += 14 * DAY_S
    tls.refresh()
    assert "has ended: clients refuse it" in caplog.text


def test_times_of_either_form_are_read() -> None:
    far = trustme.CA().issue_cert("localhost", not_after=datetime(2060, 5, 6, 7, 8, 9, tzinfo=UTC))
    assert first_end_s(far.cert_chain_pems[0].bytes().decode()) == datetime(2060, 5, 6, 7, 8, 9, tzinfo=UTC).timestamp()
    assert first_end_s("") is None
    assert first_end_s("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----") is None


def test_all_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    names = {name: str(tmp_path / name) for name in ("cert", "key", "client_ca")}
    with pytest.raises(ConfigError) as caught:
        Tls(TlsConfig(**names))
    assert [fault.key for fault in caught.value.faults] == [f"gateway.tls.{name}" for name in names]


def test_files_of_something_else_are_told(tmp_path: Path) -> None:
    config = write(tmp_path, trustme.CA())
    other = write(tmp_path, trustme.CA()).model_copy(update={"client_ca": str(tmp_path / "key.pem")})
    with pytest.raises(ConfigError, match=r"gateway\.tls\.client_ca: .*holds no PEM certificates"):
        Tls(other)
    (tmp_path / "key.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"gateway\.tls\.cert: .*are not a PEM certificate and its key"):
        Tls(config)


@pytest.mark.parametrize(("given", "missing"), [("cert", {"key"}), ("key", {"cert"}), ("client_ca", {"cert", "key"})])
def test_a_certificate_and_its_key_belong_together(given: str, missing: set[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"gateway": {"tls": {given: "x.pem"}}})
    assert {fault.key for fault in caught.value.faults} == {f"gateway.tls.{name}" for name in missing}
