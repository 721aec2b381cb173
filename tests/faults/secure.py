# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""With FAULTS_SECURE=1 the daemon has TLS and an API key, with limits, and the load uses both."""

import functools
import os
import ssl
from pathlib import Path
from typing import Any

import trustme

from syshaxd.core.config.api_keys import key_text, made, sha256

SECURE = os.environ.get("FAULTS_SECURE") == "1"
_SECRET = "sk-syshax-" + "f" * 43
AUTHORIZATION = {"Authorization": f"Bearer {_SECRET}"} if SECURE else {}
HEADERS = "".join(f"{name}: {value}\r\n" for name, value in AUTHORIZATION.items())
SCHEME = "https" if SECURE else "http"
_MANY = 10**9


@functools.cache
def _authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def trusting() -> ssl.SSLContext | None:
    """For clients; None: there is no TLS."""
    if not SECURE:
        return None
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context


def write(folder: Path, state: Path) -> dict[str, Any]:
    """Writes certificate and key; returns the daemon's section `gateway`."""
    if not SECURE:
        return {}
    cert = _authority().issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(str(folder / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    limits = {"requests_per_minute": _MANY, "tokens_per_minute": _MANY, "max_requests": 100_000}
    key = made(name="load", sha256=sha256(_SECRET), access="admin", **limits)
    path = state / "syshax" / "api_keys"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(key_text([key]))
    return {"tls": {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}}
