# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Explains in plain words why a server can't be reached or an address can't be used."""

import os
import socket

import aiohttp

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
    return str(error) or type(error).__name__
