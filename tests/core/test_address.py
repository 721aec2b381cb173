# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Addresses: which hosts are taken, and how host and port are written together."""

from ipaddress import IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from syshaxd.core.address import Address, checked_host, published_port
from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError

LABEL = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join).filter(lambda name: not name.replace(".", "").isdigit())
HOST = st.one_of(NAME, st.ip_addresses().map(str), st.sampled_from(["b\u00fccher.local", "localhost", "a.b."]))


@settings(deadline=None)
@given(HOST, st.integers(1, 65535))
@example("::1", 8001)
def test_what_is_taken_is_written_as_a_url_can_be_read(host: str, port: int) -> None:
    address = Address(checked_host(host), port)
    read = URL(address.url("/v1/models"))
    assert (read.port, read.path) == (port, "/v1/models")
    assert read.raw_host == URL.build(scheme="http", host=address.host).raw_host
    assert address.authority.isascii()
    assert str(address) == address.authority


@settings(deadline=None)
@given(st.text(max_size=80))
@example("cpu..local")
@example("a" * 64)
@example("a" * 64 + ".local")
@example(".".join(["a" * 60] * 5))
@example("\u00fc" * 63)
@example("\ud800")
@example(".")
def test_whatever_is_taken_can_be_looked_up(text: str) -> None:
    try:
        host = checked_host(text)
    except ValueError:
        return
    host.encode("idna")  # as asyncio and getaddrinfo do
    assert all(label for label in Address(host, 1).authority.rpartition(":")[0].removesuffix(".").split("."))
    assert not set(host) & set(" \0\t\r\n/@?#%[]")


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a\0b", "[::1]", "fe80::1%eth0", "cpu..local", ".local", "-a", "a-", "127.1", "256.0.0.1", "1:2",
     "http://a", "a:80", "a/b", "a@b", "a,b", "x" * 64, "\u200b"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["services.gpu.host", "services.cpu.host", "services.conductor.host"])
def test_the_configuration_names_the_key_of_a_host_that_cannot_be(key: str, text: str) -> None:
    _, name, _ = key.split(".")
    with pytest.raises(ConfigError) as error:
        parse({"services": {name: {"host": text}}})
    (fault,) = error.value.faults
    assert fault.key == key
    assert fault.problem.startswith(("must be ", "has "))


def test_a_container_is_published_at_an_address() -> None:
    container = {"runtime": "docker", "host": "localhost", "container": {"image": "i"}}
    with pytest.raises(ConfigError) as error:
        parse({"services": {"gpu": container}, "models": {"path": "/m"}})
    (fault,) = error.value.faults
    assert fault.key == "services.gpu.host"
    assert fault.problem == "a container's port is published at an IP address, such as 127.0.0.1, not 'localhost'"


@settings(deadline=None)
@given(st.ip_addresses(v=6))
def test_an_address_has_one_form(address: IPv6Address) -> None:
    assert checked_host(address.exploded.upper()) == checked_host(str(address)) == str(address)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("8080:80", ("127.0.0.1", 8080, 80)),
        ("10.0.0.1:8080:80", ("10.0.0.1", 8080, 80)),
        ("[::1]:8080:80", ("::1", 8080, 80)),
    ],
)
def test_published_ports(text: str, read: tuple[str, int, int]) -> None:
    assert published_port(text) == read


@pytest.mark.parametrize(
    "text", ["", "80", "0:80", "80:65536", "::1:80:80", "[::1:80:80", "a..b:80:80", "80:x", "localhost:80:80"]
)
def test_ports_that_cannot_be_published(text: str) -> None:
    with pytest.raises(ValueError, match=r"not|must"):
        published_port(text)
