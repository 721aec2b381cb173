# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Asks servers, reads their answers within limits, and explains in plain words why one can't be reached or used."""

import os
import socket
from typing import Any

import aiohttp

from syshaxd.core import jsontext

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of answers to the daemon's own requests."""

NO_ANSWER = (
    *(aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    RecursionError,
)
"""Exceptions of reading an answer that is missing or malformed; JSON from outside may be anything, even deeply
nested."""


def why_no_connection(error: OSError | UnicodeError, host: str) -> str:
    """What went wrong. asyncio's own text repeats the address and mistakes the resolver's codes for errno."""
    if isinstance(error, UnicodeError):
        return f"{host!r} is not a valid host name"
    if isinstance(error, socket.gaierror):
        why = error.strerror or str(error)
        return f"the name {host!r} cannot be resolved ({why}); see `host` in the configuration, DNS and /etc/hosts"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def why_no_answer(error: Exception, host: str) -> str:
    """The same for every exception of an aiohttp request."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return why_no_connection(error.os_error, host)
    if isinstance(error, UnicodeError):
        return why_no_connection(error, host)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def client_session(**options: Any) -> aiohttp.ClientSession:
    """For the daemon's own requests: a server can neither have it keep anything, nor send it to another server."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), middlewares=(_refuse_redirects,), **options)


async def _refuse_redirects(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    response = await send(request)
    if 300 <= response.status < 400:
        response.close()
        raise aiohttp.ClientError(f"status {response.status}: it redirects to {response.headers.get('Location')}")
    return response


async def read_whole(response: aiohttp.ClientResponse) -> bytes:
    """Returns the body of an answer. Raises ValueError: it is longer than any that is expected."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


async def read_json(response: aiohttp.ClientResponse) -> Any:
    """Returns the JSON value of an answer. Raises one of NO_ANSWER: it has none, or is too long."""
    return jsontext.loads(await read_whole(response))
