# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""CORS: answers browsers as vLLM does."""

from collections.abc import Collection, Mapping

from syshaxd.gateway.errors import Answer

_ALL = "*"
_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
_MAX_AGE_S = 600


class Cors:
    """The policy for one set of origins."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)
        self._all = _ALL in self._origins

    def lines(self, origin: str) -> bytes:
        """The header lines that the answer to a page of this origin gets, each with its end."""
        if self._all:
            return b"access-control-allow-origin: *\r\n"
        if origin in self._origins:
            origin_text = origin.encode("utf-8", "surrogateescape")
            return b"access-control-allow-origin: %b\r\nvary: Origin\r\n" % origin_text
        return b"vary: Origin\r\n" if self._origins else b""

    def preflight(self, method: str, origin: str, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a preflight request; None: not a preflight request."""
        if method != "OPTIONS" or "Access-Control-Request-Method" not in headers:
            return None
        if not self._all and origin not in self._origins:
            return Answer(400, b"Disallowed CORS origin", "text/plain; charset=utf-8", {"vary": "Origin"})
        allowed = {
            "access-control-allow-origin": _ALL if self._all else origin,
            "access-control-allow-methods": _METHODS,
            "access-control-max-age": str(_MAX_AGE_S),
            "vary": "Origin",
        }
        if requested := headers.get("Access-Control-Request-Headers"):
            allowed["access-control-allow-headers"] = requested
        return Answer(200, b"OK", "text/plain; charset=utf-8", allowed)
