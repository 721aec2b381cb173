# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Addresses of servers: the one place that checks hosts and joins host and port."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_MAX_NAME_CHARACTERS = 253
_PUBLISHED = re.compile(
    r"(?:(?:\[(?P<v6>[^\]]*)\]|(?P<other>[^:\[\]]+)):)?(?P<outer>\d{1,5}):(?P<inner>\d{1,5})", re.ASCII
)
_MAX_PORT = 65535
PUBLISHED_AT = "a container's port is published at an IP address, such as 127.0.0.1"
"""By container engines: some take a name for every address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a TCP server."""

    host: str
    """A name, or an IPv4 or IPv6 address without brackets, as `checked_host` returns it."""
    port: int

    @property
    def authority(self) -> str:
        """`host:port` as URLs and Host headers have it: an IPv6 address in brackets, a name in ASCII."""
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        try:
            name = _ascii(self.host)
        except UnicodeError:  # not a valid name, but it can be shown
            name = self.host.encode("ascii", "backslashreplace").decode("ascii")
        return f"{name}:{self.port}"

    def url(self, path: str = "", *, scheme: str = "http") -> str:
        """The server's URL for `path`, which is empty or starts with a slash."""
        return f"{scheme}://{self.authority}{path}"

    def __str__(self) -> str:
        return self.authority


def checked_host(text: str) -> str:
    """Returns the host in canonical form: an address in its shortest form, a name unchanged.

    Raises:
        ValueError: Not a valid host name or address.
    """
    if text[:1] == "[" or text[-1:] == "]":
        raise ValueError(f"must be an address without brackets, such as `::1`, not {text!r}")
    if "%" in text:
        raise ValueError(f"must be an address without a zone, not {text!r}; use a name, or an address of global scope")
    try:
        return str(ip_address(text))
    except ValueError as error:
        if _looks_like_an_address(text):
            raise ValueError(f"must be a name or an IP address, not {text!r}: {error}") from None
    if fault := _name_fault(text):
        raise ValueError(f"must be a name or an IP address, not {text!r}: {fault}")
    return text


def is_ip(host: str) -> bool:
    """Whether a host is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def published_port(text: str) -> tuple[str, int, int]:
    """Parses `[ADDRESS:]HOST_PORT:CONTAINER_PORT`; without an address it means this host's loopback.

    Raises:
        ValueError: It is none.
    """
    found = _PUBLISHED.fullmatch(text)
    ports = [int(port) for port in found.group("outer", "inner")] if found else []
    if found is None or not all(1 <= port <= _MAX_PORT for port in ports):
        raise ValueError(f"`{text}` is not [ADDRESS:]HOST_PORT:CONTAINER_PORT")
    address = found["v6"] or found["other"] or "127.0.0.1"
    if not is_ip(address):
        raise ValueError(f"`{text}`: {PUBLISHED_AT}, not {address!r}")
    return checked_host(address), ports[0], ports[1]


def _looks_like_an_address(text: str) -> bool:
    return ":" in text or re.fullmatch(r"[0-9.]+", text) is not None


def _name_fault(name: str) -> str:
    """Why a name can never be resolved; empty: it might be."""
    try:
        ascii_name = _ascii(name).removesuffix(".")
    except UnicodeError:
        return "a part of it is empty, longer than 63 characters, or has characters not allowed in host names"
    if len(ascii_name) > _MAX_NAME_CHARACTERS:
        return f"it is longer than {_MAX_NAME_CHARACTERS} characters"
    for label in ascii_name.split("."):
        if not label:
            return "a label between its dots is empty"
        if len(label) > 63:
            return f"{label!r} is longer than 63 characters"
        if not _LABEL.fullmatch(label):
            return f"{label!r} has characters not allowed in host names"
    return ""


def _ascii(name: str) -> str:
    """The name as the resolver gets it. asyncio and getaddrinfo also use `str.encode("idna")`."""
    return name if name.isascii() else name.encode("idna").decode("ascii")
